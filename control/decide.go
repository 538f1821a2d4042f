package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/points"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// decider is the I/O around the fold of markers and receipts: it asks the vault,
// lists points, tells of them and acknowledges markers.
type decider struct {
	s *Service

	mu      sync.Mutex
	fold    *points.Fold
	acks    map[string]jetstream.Msg // of undecided markers, the newest delivery
	work    []any                    // points.Ask, *vault.Point, points.Abandoned; bounded by what is undecided
	busy    int                      // work taken and not finished
	changed *sync.Cond               // work was added or finished, or closed
	closed  bool
}

func newDecider(s *Service) *decider {
	d := &decider{s: s, fold: points.New(), acks: map[string]jetstream.Msg{}}
	d.changed = sync.NewCond(&d.mu)
	return d
}

// marker takes in a marker; msg is nil when it is read without a delivery.
func (d *decider) marker(m *wire.Marker, msg jetstream.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fold.Decided(m.ID) || d.s.state.listed(m.ID) {
		d.s.ack(m.ID, msg)
		return
	}
	if msg != nil {
		d.acks[m.ID] = msg
	}
	d.take(d.fold.Marker(m))
}

func (d *decider) receipt(r *wire.Receipt) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.take(d.fold.Receipt(r))
}

// recheck asks the vault about all that is undecided and lists what could not be
// listed before.
func (d *decider) recheck() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.take(points.Decisions{List: d.fold.Unlisted()})
	d.take(d.fold.Recheck())
}

// look is recheck for every few seconds: it asks for few, those most likely to be there.
func (d *decider) look() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.take(d.fold.Look(lookAt))
}

// take queues what the fold decided. The caller holds the lock.
func (d *decider) take(dec points.Decisions) {
	for _, a := range dec.Ask {
		d.work = append(d.work, a)
	}
	for _, p := range dec.List {
		d.work = append(d.work, p)
	}
	for _, a := range dec.Abandon {
		d.work = append(d.work, a)
	}
	d.changed.Broadcast()
}

// worker does queued work until the decider is closed.
func (d *decider) worker(ctx context.Context) {
	for {
		d.mu.Lock()
		for len(d.work) == 0 && !d.closed {
			d.changed.Wait()
		}
		if d.closed {
			d.mu.Unlock()
			return
		}
		w := d.work[0]
		d.work[0] = nil
		d.work = d.work[1:]
		d.busy++
		d.mu.Unlock()

		d.do(ctx, w)

		d.mu.Lock()
		d.busy--
		d.changed.Broadcast()
		d.mu.Unlock()
	}
}

func (d *decider) do(ctx context.Context, w any) {
	switch w := w.(type) {
	case points.Ask:
		d.ask(ctx, w)
	case *vault.Point:
		d.list(ctx, w)
	case points.Abandoned:
		d.abandon(ctx, w)
	}
}

func (d *decider) ask(ctx context.Context, a points.Ask) {
	info, err := d.s.vault.Cut(ctx, a.Disk, a.At)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err == nil:
		d.take(d.fold.Answer(a, &info))
	case errors.Is(err, vault.ErrNotFound):
		d.take(d.fold.Answer(a, nil))
	default:
		d.fold.Failed(a)
		if ctx.Err() == nil {
			d.s.log.Warn("cannot look up a cut", "disk", a.Disk.String(), "point", a.Point, "err", err)
		}
	}
}

// list makes a point of the vault out of a complete marker. If that fails the
// point stays in the fold and is tried again.
func (d *decider) list(ctx context.Context, p *vault.Point) {
	if d.s.state.listed(p.ID) {
		d.decided(p.ID)
		return
	}
	p.Listed = time.Now().UTC()
	if err := d.s.vault.PutPoint(ctx, p); err != nil {
		have, gerr := d.s.vault.Point(ctx, p.ID)
		if gerr != nil || !samePoint(have, p) {
			if ctx.Err() == nil {
				d.s.log.Error("cannot list a recovery point", "point", p.ID, "group", p.Group, "err", err)
			}
			return
		}
		p = have // a crash came between listing it and acknowledging its marker
	}
	d.s.state.point(p)
	lag := p.Listed.Sub(p.Time)
	for _, m := range p.Machines {
		d.s.publishTraced(ctx, "point-"+p.ID+"-"+m.Machine, streams.Traceparent("point", p.ID, "list"), &wire.Event{
			Time: p.Listed.UnixNano(), Machine: m.Machine, Kind: kindPoint, Severity: wire.Info,
			What: fmt.Sprintf("recovery point %s (%s-consistent) listed %s after its cut", p.ID, p.Consistency, lag.Round(time.Millisecond)),
		})
	}
	d.decided(p.ID)
}

// samePoint compares what two manifests promise, not when they were listed.
func samePoint(a, b *vault.Point) bool {
	if a.ID != b.ID || a.Group != b.Group || len(a.Machines) != len(b.Machines) {
		return false
	}
	for i := range a.Machines {
		x, y := a.Machines[i], b.Machines[i]
		if x.Machine != y.Machine || len(x.Disks) != len(y.Disks) {
			return false
		}
		for j := range x.Disks {
			if x.Disks[j].Disk != y.Disks[j].Disk || x.Disks[j].At != y.Disks[j].At || x.Disks[j].Digest != y.Disks[j].Digest {
				return false
			}
		}
	}
	return true
}

func (d *decider) abandon(ctx context.Context, a points.Abandoned) {
	d.s.log.Warn("marker abandoned", "point", a.Point, "group", a.Group, "reason", a.Reason)
	e := &wire.Event{
		Time: time.Now().UnixNano(), Machine: a.Machine, Disk: a.Disk, Kind: health.Abandoned, Severity: wire.Warning,
		What: fmt.Sprintf("point %s will not exist: %s", a.Point, a.Reason),
	}
	if a.Expected {
		e.Severity = wire.Info // an agent was restarted: the next point follows soon
	} else {
		e.Try = "if it happens again, see the log of leeward-agent on " + a.Machine
	}
	if a.Machine != "" {
		d.s.publish(ctx, "abandoned-"+a.Point, e)
	}
	d.decided(a.Point)
}

// decided acknowledges a marker: it will not be delivered again.
func (d *decider) decided(point string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fold.Listed(point)
	d.s.ack(point, d.acks[point])
	delete(d.acks, point)
}

// idle waits until all queued work is done.
func (d *decider) idle(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})
	defer stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for (len(d.work) > 0 || d.busy > 0) && !d.closed && ctx.Err() == nil {
		d.changed.Wait()
	}
	return ctx.Err()
}

func (d *decider) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	d.changed.Broadcast()
}

// pending counts the undecided markers.
func (d *decider) pending() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fold.Pending()
}

// waiting counts the undecided markers that need a disk.
func (d *decider) waiting(id vault.DiskID) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fold.Waiting(id)
}
