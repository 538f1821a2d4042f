package markers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Machine is what a member of a barrier can do. Its methods are called one after the
// other, in the order of the stages.
type Machine interface {
	// Prepare copies what changed until little is left; everything runs on.
	Prepare(ctx context.Context, o *Order) error
	// Close copies once more, right before the freeze.
	Close(ctx context.Context, o *Order) error
	// Freeze makes everything stand still and catches it. It returns until when
	// that lasts: what does not hear go before is to be undone.
	Freeze(ctx context.Context, o *Order) (until time.Time, err error)
	// Thaw lets everything go on and publishes the cuts. It returns an error if
	// something did not stand still until now.
	Thaw(ctx context.Context, o *Order) (m *wire.Member, frozen time.Duration, err error)
	// Undo lets everything go on; nothing was cut. It is called after Prepare unless
	// Thaw was, also if Freeze failed, and must be harmless when nothing is frozen.
	Undo()
}

// Errors of Join, for errors.Is.
var (
	// ErrAborted means that the coordinator ended the barrier.
	ErrAborted = errors.New("barrier aborted")
	// ErrSilent means that the coordinator was not heard of in time.
	ErrSilent = errors.New("nothing was heard from the coordinator in time")
)

// memberPatience is how long a member that is not frozen waits for the next order.
const memberPatience = 2 * time.Minute

// Join takes part in the barrier that first, an order of stage Call, begins. Orders
// come from the channel; those of other barriers are refused while it lasts. It
// returns nil when this member's cuts are published and reported, whether or not the
// barrier comes to a point.
func Join(ctx context.Context, nc *nats.Conn, machine string, first *Order, orders <-chan *Order, m Machine) error {
	j := &member{nc: nc, machine: machine, barrier: first.Barrier, orders: orders, m: m}
	err := j.run(ctx, first)
	if err != nil && !errors.Is(err, ErrAborted) {
		// Tell the others, who may be frozen.
		err = errors.Join(err, j.report(&Report{Stage: j.stage, Error: clip(err.Error())}))
	}
	return err
}

type member struct {
	nc      *nats.Conn
	machine string
	barrier string
	orders  <-chan *Order
	m       Machine
	stage   Stage
}

func (j *member) run(ctx context.Context, o *Order) (err error) {
	thawed := false
	defer func() {
		if !thawed {
			j.m.Undo()
		}
	}()
	until := time.Now().Add(memberPatience)
	for _, s := range stages {
		if s != Call {
			if o, err = j.next(ctx, s, until); err != nil {
				return err
			}
		}
		j.stage = s
		r := &Report{Stage: s}
		until = time.Now().Add(memberPatience)
		switch s {
		case Prepare:
			err = j.m.Prepare(ctx, o)
		case Close:
			err = j.m.Close(ctx, o)
		case Freeze:
			until, err = j.m.Freeze(ctx, o)
		case Go:
			thawed = true
			r.Member, r.Frozen, err = j.m.Thaw(ctx, o)
		}
		if err != nil {
			return err
		}
		if err := j.report(r); err != nil {
			return err
		}
	}
	return nil
}

// next waits for the order of stage s.
func (j *member) next(ctx context.Context, s Stage, until time.Time) (*Order, error) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	for {
		select {
		case o := <-j.orders:
			switch {
			case o.Barrier != j.barrier:
				Refuse(j.nc, j.machine, o, "machine is in another barrier, of group "+o.Group)
			case o.Stage == Abort:
				return nil, fmt.Errorf("%w: %s", ErrAborted, o.Why)
			case o.Stage == s:
				return o, nil
			}
		case <-t.C:
			return nil, fmt.Errorf("%w (waiting for %s)", ErrSilent, s)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (j *member) report(r *Report) error {
	r.Barrier, r.Machine = j.barrier, j.machine
	return report(j.nc, r)
}

// Refuse answers a call that cannot be followed now.
func Refuse(nc *nats.Conn, machine string, o *Order, why string) {
	if o.Stage == Call {
		_ = report(nc, &Report{Barrier: o.Barrier, Machine: machine, Stage: Call, Error: clip(why)}) // then patience ends it
	}
}

func report(nc *nats.Conn, r *Report) error {
	b, err := json.Marshal(r)
	if err == nil {
		err = nc.Publish(streams.BarrierReport(r.Machine), b)
	}
	if err != nil {
		return fmt.Errorf("report %s: %w", r.Stage, err)
	}
	return nil
}
