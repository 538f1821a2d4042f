package streams

import (
	"crypto/sha256"
	"encoding/hex"
)

// TraceHeader carries the W3C trace context of a marker, and of the events of a
// point or a job. Its name is lower case: nats.go does not fold case.
const TraceHeader = "traceparent"

// TraceID is the trace of a thing ("point", "job") with this id: 32 hexadecimal
// digits. Everybody who knows the id knows the trace, so it need not be passed on
// where there is no room for it.
func TraceID(kind, id string) string {
	h := sha256.Sum256([]byte("leeward trace " + kind + " " + id))
	return hex.EncodeToString(h[:16])
}

// SpanID is a part of that trace, by its name: 16 hexadecimal digits.
func SpanID(kind, id, span string) string {
	h := sha256.Sum256([]byte("leeward span " + kind + " " + id + " " + span))
	return hex.EncodeToString(h[:8])
}

// Traceparent is the header's value for what happens in a span.
func Traceparent(kind, id, span string) string {
	return "00-" + TraceID(kind, id) + "-" + SpanID(kind, id, span) + "-01"
}
