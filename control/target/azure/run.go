package azure

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

// Run is a machine in Azure, or one that is on its way there.
type Run struct {
	cfg    *Config
	c      *cloud
	b      *book
	disks  []target.Disk // nil: taken over
	point  string        // that they are of
	cut    time.Time
	cancel context.CancelFunc
	worked chan struct{} // closed when the machine is up, or will never be
	err    error         // after worked

	mu      sync.Mutex // held while it is removed
	ended   chan struct{}
	removed bool

	noteMu sync.Mutex
	notes  []string // what is known of how it came up
}

var _ target.Remote = (*Run)(nil)

func newRun(cfg *Config, c *cloud, b *book) *Run {
	return &Run{cfg: cfg, c: c, b: b, cancel: func() {}, worked: make(chan struct{}), ended: make(chan struct{})}
}

// note remembers evidence.
func (r *Run) note(format string, args ...any) {
	r.noteMu.Lock()
	defer r.noteMu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// Unfinished implements target.Remote.
func (r *Run) Unfinished() bool { return r.b.now().Up.IsZero() }

// Leave implements target.Remote.
func (r *Run) Leave() {
	r.cancel()
	<-r.worked
}

// work makes everything, from where an earlier process stopped.
func (r *Run) work(ctx context.Context) error {
	now := r.b.now()
	if !now.Up.IsZero() {
		return nil
	}
	if err := r.fill(ctx); err != nil {
		return err
	}
	subnet := now.Place.subnet()
	if now.Isolated {
		if err := r.ownNetwork(ctx); err != nil {
			return err
		}
		subnet = now.Place.network("virtualNetworks/" + now.net() + "/subnets/" + ownSubnet)
	}
	if err := r.nic(ctx, subnet); err != nil {
		return err
	}
	if err := r.machine(ctx); err != nil {
		return err
	}
	return r.b.change(func(k *record) { k.Up = time.Now().UTC() })
}

// fill brings all disks to where they can be attached.
func (r *Run) fill(ctx context.Context) (err error) {
	now := r.b.now()
	if !slices.ContainsFunc(now.Disks, func(d diskRecord) bool { return !d.Done }) {
		return nil
	}
	done, err := r.fit(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	for i := range now.Disks {
		if err := r.disk(ctx, i); err != nil {
			return fmt.Errorf("disk %s: %w", now.Disks[i].Name, err)
		}
	}
	return nil
}

// remakes is how often a disk is begun anew, because what was begun cannot go on.
const remakes = 3

// disk brings one disk to where it can be attached.
func (r *Run) disk(ctx context.Context, i int) error {
	if r.b.now().Disks[i].Done {
		return nil
	}
	fill := func(ctx context.Context, i int) error {
		if used, err := r.fromKept(ctx, i); used || err != nil {
			return err
		}
		if r.b.Place.Via == Import {
			return r.importDisk(ctx, i)
		}
		return r.upload(ctx, i)
	}
	for try := 1; ; try++ {
		err := fill(ctx, i)
		if !errors.Is(err, errStale) || try == remakes {
			return err
		}
		r.cfg.Log.Warn("a disk in Azure is begun anew", "run", r.b.Run, "disk", i, "why", err)
		if err := r.dropDisk(ctx, i); err != nil {
			return err
		}
		if err := r.b.change(func(k *record) { k.Disks[i].Filled, k.Disks[i].Sent = false, 0 }); err != nil {
			return err
		}
	}
}

// Wait blocks until Stop has removed the machine, or it is off or gone.
func (r *Run) Wait(ctx context.Context) error {
	for {
		select {
		case <-r.ended:
			return nil
		default:
		}
		select {
		case <-r.worked:
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				return r.err
			}
			if state, err := r.power(ctx); err == nil && state.off() {
				return nil
			}
		default:
		}
		t := time.NewTimer(max(r.cfg.poll, r.cfg.stay))
		select {
		case <-r.ended:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

// Stop ends the machine and removes all that was made for it. If that does not succeed
// it says so, and can be asked for again.
func (r *Run) Stop(ctx context.Context) error {
	r.cancel()
	<-r.worked
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.removed {
		return nil
	}
	if err := r.b.change(func(k *record) { k.Removing = true }); err != nil {
		return err
	}
	if err := r.remove(ctx); err != nil {
		return fmt.Errorf("remove run %s from Azure: %w", r.b.Run, err)
	}
	r.removed = true
	close(r.ended)
	return nil
}
