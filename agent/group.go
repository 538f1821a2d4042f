package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/hooks"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// group is the agent's part in the barriers of a group of machines. Only Run uses
// it, but for what the subscriptions store.
type group struct {
	orders  chan *markers.Order
	policy  atomic.Pointer[markers.Settings] // what control said, nil if nothing
	changed chan struct{}                    // it has changed
	until   time.Time                        // no points alone before
}

// listen takes orders until the returned function is called.
func (a *Agent) listen() (stop func(), err error) {
	a.group.orders, a.group.changed = make(chan *markers.Order, 64), make(chan struct{}, 1)
	sub, err := a.bus.Conn.Subscribe(streams.BarrierOrder(a.cfg.Machine), a.hearOrder)
	if err != nil {
		return nil, fmt.Errorf("listen for orders of groups: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // only fails on a closed connection
}

// hearOrder is called by the subscription.
func (a *Agent) hearOrder(m *nats.Msg) {
	o, err := markers.DecodeOrder(m.Data)
	if err != nil {
		a.log.Warn("order of a group not understood", "error", err)
		return
	}
	if why := a.occupied.Load(); why != nil && o.Stage == markers.Call {
		markers.Refuse(a.bus.Conn, a.cfg.Machine, o, *why)
		return
	}
	select {
	case a.group.orders <- o:
	default: // the coordinator will find that this machine is late
	}
}

// occupy says for how long the agent cannot follow a call to a barrier, and why.
func (a *Agent) occupy(why string) (done func()) {
	a.occupied.Store(&why)
	return func() { a.occupied.Store(nil) }
}

// await returns at a time, or earlier with a call to a barrier.
func (a *Agent) await(ctx context.Context, at time.Time) (*markers.Order, bool) {
	for {
		if at.Before(a.group.until) {
			at = a.group.until
		}
		t := time.NewTimer(max(time.Until(at), 0))
		select {
		case <-t.C:
			return nil, ctx.Err() == nil
		case o := <-a.group.orders:
			t.Stop()
			if o.Stage == markers.Call {
				return o, ctx.Err() == nil
			}
		case <-a.group.changed:
			t.Stop()
			if sooner := time.Now().Add(a.interval()); sooner.Before(at) {
				at = sooner
			}
		case <-ctx.Done():
			t.Stop()
			return nil, false
		}
	}
}

// join takes part in a barrier. Until the group's next one is long overdue this
// machine cuts no points alone: each would only be in the way.
func (a *Agent) join(ctx context.Context, first *markers.Order) {
	a.group.until = time.Now().Add(2*first.Every + time.Second)
	began := time.Now()
	c := &common{a: a}
	err := markers.Join(ctx, a.bus.Conn, a.cfg.Machine, first, a.group.orders, c)
	switch {
	case err == nil:
		a.log.Info("point cut with group", "group", first.Group, "point", c.id, "frozen_ms", float64(c.frozen.Microseconds())/1e3, "seconds", time.Since(began).Seconds())
	case ctx.Err() != nil:
	default:
		a.group.until = time.Time{} // go on alone until the others are there again
		a.log.Warn("no cut with group", "group", first.Group, "error", err)
	}
}

// common is one cut of this machine in common with others. It implements
// markers.Machine.
type common struct {
	a     *Agent
	usage []*disk.Usage
	f     *freeze
	began time.Time      // of the freeze
	apps  *hooks.Session // nil if applications were not asked to get ready
	cutResult
}

// Prepare implements markers.Machine.
func (c *common) Prepare(ctx context.Context, _ *markers.Order) (err error) {
	if len(c.a.replicas) == 0 {
		return errors.New("none of its disks is up to date yet")
	}
	if err := c.a.sizes(); err != nil {
		return err
	}
	if c.usage, err = c.a.inspect(); err != nil {
		return err
	}
	return c.a.rounds(ctx, c.usage)
}

// Close implements markers.Machine.
func (c *common) Close(ctx context.Context, o *markers.Order) error {
	if o.Consistency == wire.App && len(c.a.cfg.Apps.Hooks) > 0 {
		// What goes wrong with the applications costs the point its name, not its existence.
		s, err := c.a.beginApps(ctx)
		if err != nil {
			c.a.notReady(ctx, err)
		}
		c.apps = s
	}
	if err := c.a.freezer.Sync(ctx, mountsOf(c.usage)); err != nil {
		return err
	}
	return each(ctx, c.a.replicas, func(ctx context.Context, r *replica) error {
		if !r.src.Cheap() {
			return nil
		}
		if _, err := r.take(ctx); err != nil {
			return err
		}
		return r.sendDirty(ctx, "round")
	})
}

// Freeze implements markers.Machine. A disk that is not frozen is caught all the
// same; Thaw finds out whether it stayed as it was.
func (c *common) Freeze(ctx context.Context, o *markers.Order) (until time.Time, err error) {
	a, n := c.a, len(c.a.replicas)
	c.id = o.Point
	c.held, c.frozenDisk, c.notes = make([]*held, n), make([]bool, n), make([]string, n)
	limit := a.freezeLimit()
	if o.Limit > 0 {
		limit = min(limit, o.Limit)
	}
	if len(mountsOf(c.usage)) == 0 && o.Limit > 0 {
		limit = o.Limit // nothing freezes, so nobody waits for this machine's own limit
	}
	c.began = time.Now()
	if c.f, err = a.freeze(ctx, c.usage); err != nil {
		return until, err
	}
	until = c.began.Add(limit)
	if c.f.frozen != nil && c.f.frozen.Deadline().Before(until) {
		until = c.f.frozen.Deadline()
	}
	for i := range a.replicas {
		c.frozenDisk[i], c.notes[i] = c.f.describe(i)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, until, quiesce.ErrTooSlow)
	defer cancel()
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	if err := a.holdAll(ctx, all, &c.cutResult); err != nil {
		return until, err
	}
	if err := a.audit(ctx, c.frozenDisk); err != nil {
		return until, err
	}
	if a.cfg.AtCut != nil {
		return until, a.cfg.AtCut(c.id, a.still)
	}
	return until, nil
}

// Thaw implements markers.Machine.
func (c *common) Thaw(ctx context.Context, o *markers.Order) (*wire.Member, time.Duration, error) {
	err := c.still(ctx)
	if terr := c.thaw(); err == nil {
		err = terr
	}
	if err == nil {
		err = c.a.mounted(c.usage)
	}
	consistency := c.endApps(ctx)
	if err != nil {
		return nil, 0, err
	}
	c.at = time.Unix(0, o.Time)
	cuts, err := c.a.release(ctx, &c.cutResult, o.Group, consistency)
	if err != nil {
		return nil, 0, err
	}
	return &wire.Member{Machine: c.a.cfg.Machine, Facts: c.a.facts, Disks: cuts}, c.frozen, nil
}

// Undo implements markers.Machine.
func (c *common) Undo() {
	_ = c.thaw() // there is no cut that an early thaw could spoil
	c.endApps(context.Background())
}

// endApps lets the applications go on and says what the cut is. In doubt it is
// promised as less.
func (c *common) endApps(ctx context.Context) wire.Consistency {
	s := c.apps
	c.apps = nil
	if s == nil {
		return wire.Crash
	}
	if err := s.End(); err != nil {
		c.a.notReady(ctx, err)
		return wire.Crash
	}
	c.a.apps.failed = 0
	return wire.App
}

// still makes sure that what is not frozen was not written to since it was caught:
// then it, too, was at the instant of the group what was caught.
func (c *common) still(ctx context.Context) error {
	return each(ctx, c.a.replicas, func(ctx context.Context, r *replica) error {
		if c.frozenDisk[c.a.index(r)] {
			return nil
		}
		err := atRest(ctx, r)
		if errors.Is(err, errBusy) {
			err = fmt.Errorf("%w, and it cannot be frozen: it has no part in a group's points unless it is still", err)
		}
		return err
	})
}

func (c *common) thaw() error {
	if c.f == nil || c.f.frozen == nil {
		return nil
	}
	frozen := c.f.frozen
	c.f = nil
	_, err := frozen.Thaw()
	c.frozen = time.Since(c.began)
	if errors.Is(err, quiesce.ErrThawed) {
		return fmt.Errorf("it stood still for its limit of %v and the others were not ready: %w", c.a.freezeLimit(), err)
	}
	return err
}
