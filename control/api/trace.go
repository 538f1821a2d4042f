package api

import (
	"context"
	"time"
)

// Tracer says where the time of a recovery point went. A Backend that implements
// it answers point.trace.
type Tracer interface {
	Trace(ctx context.Context, point string) (*Trace, error)
}

// Trace is where the time of a recovery point went, from its cut until it was
// listed. Schema "leeward.trace.v1".
type Trace struct {
	Schema       string    `json:"schema"`
	TraceID      string    `json:"trace_id"` // W3C; the marker carries it as traceparent
	Point        string    `json:"point"`
	Group        string    `json:"group"`
	Time         time.Time `json:"time"` // of the cut
	TotalSeconds float64   `json:"total_seconds"`
	Spans        []Span    `json:"spans"`   // in the order in which they began
	Missing      []string  `json:"missing"` // what the streams no longer hold
}

// Span is a part of a Trace.
type Span struct {
	Name    string    `json:"name"`
	Machine string    `json:"machine,omitempty"`
	Disk    string    `json:"disk,omitempty"`
	SpanID  string    `json:"span_id"`
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`
}

func (s *Server) tracing() []endpoint {
	return []endpoint{named("point", "trace", "leeward.trace.v1", func(ctx context.Context, id string) (*Trace, error) {
		t, ok := s.backend.(Tracer)
		if !ok {
			return nil, Errorf(CodeRefused, "", "this control keeps no traces")
		}
		return t.Trace(ctx, id)
	})}
}

// Trace asks where the time of a point went.
func (c *Client) Trace(ctx context.Context, point string) (*Trace, error) {
	return call[Trace](ctx, c, "point.trace", Ref{ID: point})
}
