package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Agent protects the disks of one machine.
type Agent struct {
	keep    string            // where capture sources keep their records, "" if nowhere
	want    chan []DiskConfig // the newest list of SetDisks
	aside   []*aside          // disks that are to be protected and are not
	joining []*joining        // disks that are being copied to join the others
	many    atomic.Int32      // replicas

	cfg      Config
	log      *slog.Logger
	bus      *bus.Bus
	replicas []*replica
	freezer  *quiesce.Freezer
	apps     apps
	limit    blocks.Limiter // of all disks together
	board    board          // what control is told of all this
	instance string
	host     string
	facts    wire.Facts
	closers  []func()
	lost     chan *bus.Lease // a lease that somebody else took
	told     map[string]bool // what the operator was told once
	began    time.Time
	group    group
	fence    fence
	occupied atomic.Pointer[string] // why no call to a barrier can be followed
}

// New opens the disks, takes their leases and begins to follow them. Close gives
// everything back.
func New(ctx context.Context, cfg Config, b *bus.Bus, log *slog.Logger) (_ *Agent, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	a := &Agent{cfg: cfg, log: log, bus: b, instance: cmp.Or(cfg.Instance, strings.ToLower(rand.Text())), facts: readFacts(), lost: make(chan *bus.Lease, 1), want: make(chan []DiskConfig, 1), began: time.Now().UTC().Truncate(time.Second)}
	a.fence.copied(cfg.Instance)
	a.host, a.board.began, a.board.news = a.facts.Host, time.Now(), make(chan struct{}, 1)
	a.SetRate(cfg.RateBytes)
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w: try --state-dir with a directory of yours", err)
	}
	a.keep = a.keepDir(cfg.Disks)
	if err := a.protectAll(ctx); err != nil {
		return nil, err
	}
	a.writeStatus()
	if a.freezer, err = a.newFreezer(); err != nil {
		return nil, err
	}
	return a, nil
}

// SetRate bounds the bytes a second that leave the machine, over all its disks; 0
// takes the bound away. It counts at once and may be called at any time.
func (a *Agent) SetRate(bytesPerSecond int64) { a.limit.SetRate(bytesPerSecond) }

// onClose registers f; Close runs the functions in reverse order.
func (a *Agent) onClose(f func()) { a.closers = append(a.closers, f) }

// protect opens one disk, locks it, leases it and begins to follow it.
func (a *Agent) protect(ctx context.Context, d DiskConfig) (_ *replica, err error) {
	r := &replica{alone: a.lone, cfg: a.cfg, disk: d, name: d.Name, bus: a.bus, log: a.log, instance: a.instance, host: a.host, events: a.event, why: "start", fresh: true, news: make(chan struct{}), limit: &a.limit, raw: a.raw, board: &a.board}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	dev, err := disk.Open(d.Path)
	if err != nil {
		return nil, err
	}
	r.onClose(func() { dev.Close() })
	lock, err := disk.Lock(a.cfg.StateDir, dev)
	if err != nil {
		return nil, err
	}
	r.onClose(func() { lock.Unlock() })
	if err := a.lease(ctx, r); err != nil {
		return nil, err
	}
	src, err := a.source(ctx, dev, d.Name)
	if err != nil {
		return nil, err
	}
	r.onClose(func() {
		if err := src.Close(); err != nil {
			a.log.Warn("end following", "disk", d.Name, "error", err)
		}
	})
	r.dev, r.src, r.reader = dev, src, disk.NewReader(dev, disk.ReadOptions{})
	r.shown = &shown{disk: d.Name, driver: src.Name(), journal: &r.journal}
	a.board.add(r.shown)
	r.onClose(func() { a.board.remove(r.shown) })
	r.keeper, _ = src.(capture.Keeper)
	sub, err := a.bus.Conn.Subscribe(streams.ReceiptsSubject(a.cfg.Machine, d.Name), r.hear)
	if err != nil {
		return nil, fmt.Errorf("listen for receipts of disk %s: %w", d.Name, err)
	}
	r.onClose(func() { _ = sub.Unsubscribe() })
	a.log.Info("following", "disk", d.Name, "path", d.Path, "bytes", dev.Size(), "driver", src.Name(), "guarantee", src.Guarantee())
	return r, nil
}

// lease takes the lease of r's disk, and has Run end if somebody else takes it. In a copy of
// the machine nobody needs one: only the instance that a fence names writes then, and the agent
// at home keeps its leases, to go on when the fence is gone.
func (a *Agent) lease(ctx context.Context, r *replica) error {
	if a.cfg.Instance != "" {
		return nil
	}
	lease, err := bus.AcquireLease(ctx, a.bus.JS, a.cfg.Machine, r.name, bus.ThisProcess(a.instance), bus.LeaseOptions{TakeOver: a.cfg.TakeOver, Log: a.log})
	if err != nil {
		return err
	}
	r.onClose(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := lease.Release(ctx); err != nil {
			a.log.Debug("release lease", "disk", r.name, "error", err)
		}
	})
	stop := make(chan struct{})
	r.onClose(func() { close(stop) })
	go func() {
		select {
		case <-lease.Lost():
			select {
			case a.lost <- lease:
			case <-stop:
			}
		case <-stop:
		}
	}()
	return nil
}

// Close stops everything and gives the disks back.
func (a *Agent) Close() {
	for _, j := range a.joining {
		j.end()
	}
	for _, r := range a.replicas {
		r.close()
	}
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.closers[i]()
	}
	a.closers, a.replicas, a.joining = nil, nil, nil
}

// Run replicates until ctx ends or the disks are taken by somebody else.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case l := <-a.lost:
			h := l.LostTo()
			cancel(fmt.Errorf("%w: instance %s on host %s took the disk over", ErrFenced, h.Instance, h.Host))
		case <-ctx.Done():
		}
	}()
	stop, err := a.listen()
	if err != nil {
		return err
	}
	defer stop()
	if stop, err = a.followPolicy(); err != nil {
		return err
	}
	defer stop()
	for ctx.Err() == nil {
		work, end := a.fence.work(ctx)
		err := a.replicate(work)
		fenced := errors.Is(context.Cause(work), errShut)
		end()
		if !fenced {
			if err != nil {
				return err
			}
			break
		}
		a.quiet(ctx)
	}
	if c := context.Cause(ctx); errors.Is(c, ErrFenced) {
		return c
	}
	return nil
}

// replicate does it until ctx ends or a disk is lost.
func (a *Agent) replicate(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	done := a.occupy("its agent has just started")
	next, failed := time.Now(), 0
	for ctx.Err() == nil {
		done()
		err := a.changes(ctx)
		if slices.ContainsFunc(a.replicas, func(r *replica) bool { return r.pub == nil || r.full != "" }) {
			done = a.occupy("its disks are being compared with the vault")
		}
		if err == nil {
			err = a.syncAll(ctx, end)
		}
		switch {
		case errors.Is(err, ErrFenced):
			a.event("fenced", wire.Critical, "", err.Error(), "if this agent should protect the disk again, stop the other one and restart this with --take-over")
			return err
		case ctx.Err() != nil:
			continue
		case err != nil && len(a.replicas) == 0:
			return err
		case err != nil:
			continue // a disk is in trouble: changes finds out
		}
		done()
		call, ok := a.await(ctx, next)
		if !ok {
			break
		}
		if call != nil {
			a.join(ctx, call)
			continue
		}
		next = time.Now().Add(a.interval())
		err = a.point(ctx)
		switch {
		case err == nil:
			failed = 0
			a.board.points.Add(1)
		case ctx.Err() != nil:
		case errors.Is(err, errAgain), errors.Is(err, errResized), errors.Is(err, disk.ErrReplaced):
			next = time.Now() // see to it first
		default:
			failed++
			a.board.aborted.Add(1)
			a.aborted(err, failed)
			// Back off: a machine that cannot be frozen in time should not be tried at
			// every tick; but never wait longer than a minute.
			next = time.Now().Add(min(a.interval()*time.Duration(1<<min(failed-1, 4)), time.Minute))
		}
	}
	return nil
}

// syncAll brings every disk up to date. One that belongs to somebody else now ends the
// work on all: then this machine is no longer the one to protect.
func (a *Agent) syncAll(ctx context.Context, end context.CancelCauseFunc) error {
	return each(ctx, a.replicas, func(ctx context.Context, r *replica) error {
		err := r.sync(ctx)
		if errors.Is(err, ErrFenced) {
			end(err)
		}
		return err
	})
}

func (a *Agent) aborted(err error, failed int) {
	a.log.Warn("no recovery point", "error", err, "in_a_row", failed)
	sev := wire.Warning
	if failed >= 5 {
		sev = wire.Critical
	}
	a.event("point-aborted", sev, "", fmt.Sprintf("no recovery point (%d in a row): %v", failed, err), remedy(err))
}

func remedy(err error) string {
	switch {
	case errors.Is(err, errMuch), errors.Is(err, quiesce.ErrTooSlow):
		return "raise --freeze-limit or --freeze-bytes, or lower the load; replication itself goes on"
	case errors.Is(err, errBusy):
		return "this disk has no filesystem that can be frozen, or the scan driver is too slow for it: use the trace driver or stop the writers for a moment"
	}
	return ""
}

// event publishes an event; it is best effort, the log has it too.
func (a *Agent) event(kind string, s wire.Severity, disk, what, try string) {
	b, err := wire.Encode(&wire.Event{Time: time.Now().UnixNano(), Machine: a.cfg.Machine, Disk: disk, Kind: kind, Severity: s, What: clip(what), Try: clip(try)})
	if err != nil {
		a.log.Error("event not encoded", "kind", kind, "error", err)
		return
	}
	if _, err := a.bus.JS.PublishAsync(streams.EventsSubject(a.cfg.Machine, kind), b); err != nil {
		a.log.Warn("event not published", "kind", kind, "error", err)
	}
}

func clip(s string) string {
	if len(s) > wire.MaxText {
		return strings.ToValidUTF8(s[:wire.MaxText-3], "") + "…"[:3]
	}
	return s
}
