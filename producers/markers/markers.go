package markers

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Publish puts m onto its group's subject and returns when JetStream holds it. It
// tries again while JetStream is full or silent, until ctx ends; a repeat is dropped
// by its id.
func Publish(ctx context.Context, js jetstream.JetStream, m *wire.Marker) error {
	b, err := wire.Encode(m)
	if err != nil {
		return fmt.Errorf("marker %s: %w", m.ID, err)
	}
	msg := nats.NewMsg(streams.MarkersSubject(m.Group))
	msg.Data = b
	msg.Header = nats.Header{
		"Leeward-Kind": {"marker"}, "Leeward-Point": {m.ID}, "Leeward-Group": {m.Group},
		"Leeward-Consistency": {string(m.Consistency)},
	}
	msg.Header.Set(streams.TraceHeader, streams.Traceparent("point", m.ID, "publish marker"))
	msg.Header.Set(jetstream.MsgIDHeader, m.ID)
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, err := js.PublishMsg(ctx, msg)
		if err == nil {
			return nil
		}
		if !streams.Retryable(err) {
			return fmt.Errorf("publish marker %s: %w", m.ID, err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("publish marker %s: %w (last answer: %v)", m.ID, context.Cause(ctx), err)
		}
	}
}
