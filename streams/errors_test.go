package streams

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestRetryable(t *testing.T) {
	api := func(code int, text string) error {
		return &jetstream.APIError{ErrorCode: jetstream.ErrorCode(code), Description: text}
	}
	for _, c := range []struct {
		err         error
		full, again bool
	}{
		{nil, false, false},
		{errors.New("else"), false, false},
		{api(10077, "maximum bytes exceeded"), true, true},
		{api(10077, "message too large"), false, false},
		{api(10047, "insufficient storage resources available"), true, true},
		{api(10023, "insufficient resources"), true, true},
		{&nats.APIError{ErrorCode: 10077, Description: "maximum messages exceeded"}, true, true},
		{api(10167, "too many requests"), false, true},
		{api(10008, "system temporarily unavailable"), false, true},
		{api(10071, "wrong last sequence: 7"), false, false},
		{api(10054, "message size exceeds maximum allowed"), false, false},
		{jetstream.ErrStreamNotFound, false, false},
		{jetstream.ErrNoStreamResponse, false, true},
		{jetstream.ErrAsyncPublishTimeout, false, true},
		{nats.ErrTimeout, false, true},
		{nats.ErrNoResponders, false, true},
		{nats.ErrMaxPayload, false, false},
		{nats.ErrConnectionClosed, false, false},
		{context.DeadlineExceeded, false, true},
		{context.Canceled, false, false},
		{errors.Join(context.Canceled, nats.ErrTimeout), false, false},
	} {
		for _, err := range []error{c.err, fmt.Errorf("publish: %w", c.err)} {
			if c.err == nil {
				err = nil
			}
			if IsFull(err) != c.full || Retryable(err) != c.again {
				t.Errorf("%v: full %v, retryable %v; want %v, %v", err, IsFull(err), Retryable(err), c.full, c.again)
			}
		}
	}
}
