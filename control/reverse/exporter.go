package reverse

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// ErrFenced means that somebody else protects a disk of the machine now.
var ErrFenced = errors.New("fenced: a newer epoch of this disk exists")

// Overlay is a disk of the machine. *overlay.Overlay is one.
type Overlay interface {
	io.ReaderAt
	Size() int64
	// Track makes Take tell of changes.
	Track()
	// Take tells what changed since it was called last, and forgets that.
	Take(yield func(off, length int64))
	// Changed tells what was ever changed since the base.
	Changed(yield func(off, length int64, zero bool) bool)
}

// Disk is a disk of the machine, and what it was at first.
type Disk struct {
	Name    string
	Base    vault.Position // of the recovery point below the overlay
	Overlay Overlay
}

// Config says what to publish.
type Config struct {
	Machine string
	Group   string // default: that of the machine alone
	// Holder is what a fence calls this exporter (streams.Fence): nobody else can write the
	// disks then, and the agent at the old home keeps its leases, to go on when the fence is
	// gone. Without it the leases are taken.
	Holder string
	Facts  wire.Facts
	Disks  []Disk // in boot order
	// Pause makes the machine stand still, everything that it wrote being in the overlays,
	// until resume is called. It does not outlast its context, whatever happens.
	Pause func(ctx context.Context) (resume func() error, err error)

	Interval   time.Duration // between points; default 5 s
	PauseLimit time.Duration // longest time that the machine stands still; default 1 s
	PauseBytes int64         // it stands still only when no more is left to read; default 32 MiB
	RateBytes  int64         // bytes a second that leave the host; 0: no bound
	Pool       streams.Pool  // whose process servers handle the changes
	Log        *slog.Logger  // nil: silent
}

func (c *Config) complete() error {
	if err := streams.ValidName("machine", c.Machine); err != nil {
		return err
	}
	if c.Group == "" {
		c.Group = c.Machine
	}
	if err := streams.ValidName("group", c.Group); err != nil {
		return err
	}
	if len(c.Disks) == 0 || c.Pause == nil {
		return errors.New("a machine without disks, or without a way to make it stand still, cannot be re-protected")
	}
	for _, d := range c.Disks {
		if err := streams.ValidName("disk", d.Name); err != nil {
			return err
		}
	}
	if c.Interval <= 0 {
		c.Interval = 5 * time.Second
	}
	if c.PauseLimit <= 0 {
		c.PauseLimit = time.Second
	}
	if c.PauseBytes <= 0 {
		c.PauseBytes = 32 << 20
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Status is how the re-protection goes.
type Status struct {
	Points    uint64    `json:"points"`     // cut so far
	Point     string    `json:"point"`      // id of the newest, "" before the first
	Cut       time.Time `json:"cut"`        // when that was
	Paused    float64   `json:"paused_ms"`  // how long the machine stood still for it
	Sent      uint64    `json:"sent_bytes"` // of changed blocks, all told
	Compared  uint64    `json:"compared"`   // bytes that were compared with the vault
	LastError string    `json:"last_error"` // "" while it works
	Final     bool      `json:"final"`      // Point is the last one: the machine has ended
}

// Exporter publishes what a machine changes. Run it; Final ends it.
type Exporter struct {
	cfg      Config
	bus      *bus.Bus
	vault    *vault.Vault
	log      *slog.Logger
	instance string
	disks    []*replica
	limit    blocks.Limiter // of all disks together

	turn sync.Mutex // one at a time publishes: Run, or Final

	mu     sync.Mutex
	status Status
}

// New makes an exporter. From here on the overlays remember what changes.
func New(cfg Config, b *bus.Bus, v *vault.Vault) (*Exporter, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	e := &Exporter{cfg: cfg, bus: b, vault: v, log: cfg.Log.With("machine", cfg.Machine), instance: cmp.Or(cfg.Holder, strings.ToLower(rand.Text()))}
	e.limit.SetRate(cfg.RateBytes)
	for _, d := range cfg.Disks {
		d.Overlay.Track()
		e.disks = append(e.disks, newReplica(e, d))
	}
	return e, nil
}

// Status tells how it goes.
func (e *Exporter) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.status
	for _, r := range e.disks {
		s.Sent += r.sent.Load()
		s.Compared += r.compared.Load()
	}
	return s
}

func (e *Exporter) update(f func(*Status)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f(&e.status)
}

// Run publishes, and cuts a point every interval, until ctx ends, Final was called, or
// somebody else protects the machine (ErrFenced). Whatever else fails is tried again.
func (e *Exporter) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := e.acquire(ctx, cancel)
	if err != nil {
		return err
	}
	defer release()
	defer e.close()
	for wait := e.cfg.Interval; ; {
		err := e.once(ctx)
		switch {
		case errors.Is(err, errFinal):
			return nil
		case errors.Is(err, ErrFenced):
			return err
		case ctx.Err() != nil:
			if cause := context.Cause(ctx); errors.Is(cause, ErrFenced) {
				return cause
			}
			return nil
		case err != nil:
			e.log.Warn("re-protection: no recovery point, trying again", "error", err)
			e.update(func(s *Status) { s.LastError = err.Error() })
			wait = min(max(2*wait, time.Second), time.Minute)
		default:
			wait = e.cfg.Interval
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

var errFinal = errors.New("the last point was cut")

// once makes sure that an epoch of each disk stands, and cuts a point.
func (e *Exporter) once(ctx context.Context) error {
	e.turn.Lock()
	defer e.turn.Unlock()
	if e.Status().Final {
		return errFinal
	}
	if err := e.ready(ctx); err != nil {
		return err
	}
	m, err := e.point(ctx, e.cfg.Pause)
	if err != nil {
		return err
	}
	e.cut(m, false)
	return nil
}

// Final cuts the last point of a machine that has ended: nothing writes to its overlays
// any more. It returns when the vault holds it, and may be called again if it fails.
func (e *Exporter) Final(ctx context.Context) (*wire.Marker, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	still := func(context.Context) (func() error, error) { return func() error { return nil }, nil }
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := e.ready(ctx)
		var m *wire.Marker
		if err == nil {
			m, err = e.point(ctx, still)
		}
		if err == nil {
			err = e.held(ctx, m)
		}
		if err == nil {
			e.cut(m, true)
			return m, nil
		}
		if errors.Is(err, ErrFenced) {
			return nil, err
		}
		e.update(func(s *Status) { s.LastError = err.Error() })
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("last point of machine %s: %w (last answer: %w)", e.cfg.Machine, context.Cause(ctx), err)
		}
	}
}

// Last is Run and Final at once, for a machine that had ended before New: it publishes what the
// vault lacks, and cuts one point.
func (e *Exporter) Last(ctx context.Context) (*wire.Marker, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	release, err := e.acquire(ctx, cancel)
	if err != nil {
		return nil, err
	}
	defer release()
	defer e.close()
	return e.Final(ctx)
}

func (e *Exporter) cut(m *wire.Marker, final bool) {
	e.update(func(s *Status) {
		s.Points++
		s.Point, s.Cut, s.Paused, s.LastError, s.Final = m.ID, time.Unix(0, m.Time).UTC(), float64(m.Frozen)/1e6, "", final
	})
	e.log.Info("point cut", "point", m.ID, "paused_ms", float64(m.Frozen)/1e6, "final", final)
}

// ready makes sure that an epoch of each disk stands.
func (e *Exporter) ready(ctx context.Context) error {
	return e.each(ctx, func(ctx context.Context, r *replica) error { return r.ready(ctx) })
}

// each runs f for every disk at the same time.
func (e *Exporter) each(ctx context.Context, f func(context.Context, *replica) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range e.disks {
		g.Go(func() error { return f(ctx, r) })
	}
	return g.Wait()
}

// acquire listens for receipts, and without a fence takes the leases of all disks, from the
// agent at the old home too.
func (e *Exporter) acquire(ctx context.Context, lost context.CancelCauseFunc) (release func(), err error) {
	var all []func()
	release = func() {
		for _, f := range all {
			f()
		}
	}
	for _, r := range e.disks {
		sub, err := e.bus.Conn.Subscribe(streams.ReceiptsSubject(e.cfg.Machine, r.name), r.hear)
		if err != nil {
			release()
			return nil, fmt.Errorf("listen for receipts of disk %s: %w", r.name, err)
		}
		all = append(all, func() { _ = sub.Unsubscribe() })
		if e.cfg.Holder != "" {
			continue
		}
		l, err := bus.AcquireLease(ctx, e.bus.JS, e.cfg.Machine, r.name, bus.ThisProcess(e.instance), bus.LeaseOptions{TakeOver: true, Log: e.log})
		if err != nil {
			release()
			return nil, err
		}
		stop := make(chan struct{})
		all = append(all, func() {
			close(stop)
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			_ = l.Release(ctx) // it expires
		})
		go func() {
			select {
			case <-l.Lost():
				h := l.LostTo()
				lost(fmt.Errorf("%w: instance %s on host %s took disk %s over", ErrFenced, h.Instance, h.Host, r.name))
			case <-stop:
			}
		}()
	}
	return release, nil
}

func (e *Exporter) close() {
	e.turn.Lock()
	defer e.turn.Unlock()
	for _, r := range e.disks {
		r.close()
	}
}
