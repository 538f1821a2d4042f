package markers

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Lead carries out a barrier and publishes its marker. It returns the marker, or a
// *Failure if the barrier gave no point; any other error is the bus's. When ctx ends
// the members are told to abort.
func Lead(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, p Plan) (*wire.Marker, error) {
	reports := make(chan *nats.Msg, 8*len(p.Members)+64) // of other groups too, which are passed over
	sub, err := nc.ChanSubscribe(streams.BarrierReports, reports)
	if err != nil {
		return nil, fmt.Errorf("listen for the members of group %s: %w", p.Group, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // only fails on a closed connection
	// The subscription must be there before the first answer.
	if err := nc.FlushTimeout(5 * time.Second); err != nil {
		return nil, fmt.Errorf("listen for the members of group %s: %w", p.Group, err)
	}
	b, e := Begin(p, time.Now())
	for {
		if e.Send != nil {
			if err := send(nc, p.Members, e.Send); err != nil {
				return nil, fmt.Errorf("order %s to group %s: %w", e.Send.Stage, p.Group, err)
			}
		}
		switch {
		case e.Failed != nil:
			return nil, e.Failed
		case e.Commit != nil:
			return e.Commit, Publish(ctx, js, e.Commit)
		}
		t := time.NewTimer(time.Until(b.Deadline()))
		select {
		case m := <-reports:
			e = Effects{}
			if r, err := DecodeReport(m.Data); err == nil && m.Subject == streams.BarrierReport(r.Machine) {
				e = b.Report(time.Now(), r)
			}
		case <-t.C:
			e = b.Tick(time.Now())
		case <-ctx.Done():
			e = b.Cancel(context.Cause(ctx).Error())
		}
		t.Stop()
	}
}

// send publishes an order to every member and sees it off.
func send(nc *nats.Conn, members []string, o *Order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	for _, m := range members {
		if err := nc.Publish(streams.BarrierOrder(m), b); err != nil {
			return err
		}
	}
	return nc.FlushTimeout(2 * time.Second)
}

// NewID makes an id for a Plan from random text of at least 8 characters.
func NewID(random string) string { return strings.ToLower(random[:8]) }
