package quiesce

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
)

// Freezer freezes filesystems, one set at a time. Its methods may be called by
// many goroutines; a second Freeze waits for the first one's Thaw.
type Freezer struct {
	opt    Options
	locked bool          // this program's pages are locked in memory
	turn   chan struct{} // holds one token: the right to freeze
	syncs  sync.WaitGroup
	guard  *watcher // nil if it has to be started again; owned by who has the turn
}

// New starts the guard. It is kept until Close.
func New(o Options) (*Freezer, error) {
	f := &Freezer{opt: o.withDefaults(), turn: make(chan struct{}, 1)}
	f.locked = lockProgram() == nil
	var err error
	if f.guard, err = startGuard(f.opt.GuardCommand); err != nil {
		return nil, err
	}
	f.turn <- struct{}{}
	return f, nil
}

// Close ends the guard, after the Thaw of what is frozen now.
func (f *Freezer) Close() error {
	<-f.turn
	f.syncs.Wait()
	if f.guard == nil {
		return nil
	}
	return f.guard.stop()
}

// Sync writes out what the filesystems hold in memory. Call it, then copy what
// that changed, before Freeze: what is dirty then is written while all wait.
func (f *Freezer) Sync(ctx context.Context, mounts []disk.Mount) error {
	targets, err := openAll(mounts)
	if err != nil {
		return err
	}
	var busy sync.WaitGroup
	defer f.closeLater(targets, &busy)
	return f.sync(ctx, targets, &busy)
}

// sync calls syncfs on all targets at once. It cannot be interrupted: when ctx
// ends, the calls go on in the background until busy is done.
func (f *Freezer) sync(ctx context.Context, targets []*target, busy *sync.WaitGroup) error {
	done := make(chan error, 1)
	busy.Go(func() {
		done <- each(targets, func(t *target) error {
			if err := unix.Syncfs(t.fd); err != nil {
				return fmt.Errorf("sync %s: %w", t.mount.Path, err)
			}
			return nil
		})
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closeLater closes the targets when no sync uses them any more.
func (f *Freezer) closeLater(targets []*target, busy *sync.WaitGroup) {
	f.syncs.Go(func() {
		busy.Wait()
		closeTargets(targets)
	})
}

// Freeze syncs the filesystems and freezes them all, within the bound. On any
// error nothing is frozen when it returns. It waits as long as the kernel does:
// a freeze that is under way cannot be called off.
func (f *Freezer) Freeze(ctx context.Context, mounts []disk.Mount) (*Frozen, error) {
	if err := f.check(mounts); err != nil {
		return nil, err
	}
	select {
	case <-f.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	fr, err := f.freeze(ctx, mounts)
	if err != nil {
		f.turn <- struct{}{}
		return nil, err
	}
	return fr, nil
}

func (f *Freezer) freeze(ctx context.Context, mounts []disk.Mount) (*Frozen, error) {
	targets, err := openAll(mounts)
	if err != nil {
		return nil, err
	}
	var busy sync.WaitGroup
	for range 2 {
		if err := f.sync(ctx, targets, &busy); err != nil {
			f.closeLater(targets, &busy)
			return nil, err
		}
	}
	began := time.Now()
	if err := f.arm(targets); err != nil {
		closeTargets(targets)
		return nil, err
	}
	a := &attempt{began: began, deadline: began.Add(f.opt.Bound), targets: targets}
	if err := a.run(ctx); err != nil {
		f.disarm()
		closeTargets(targets)
		return nil, err
	}
	fr := &Frozen{freezer: f, attempt: a}
	for _, t := range targets {
		if t.state == stateSkipped {
			fr.skipped = append(fr.skipped, Skipped{t.mount, "the filesystem (" + t.mount.FSType + ") cannot be frozen; it was synced before"})
		}
	}
	return fr, nil
}

// arm puts the targets into the guard's care. A guard that has died is replaced.
func (f *Freezer) arm(targets []*target) error {
	if len(targets) > maxMounts {
		return fmt.Errorf("%d filesystems are more than the %d that can be frozen at once", len(targets), maxMounts)
	}
	fds := make([]int, len(targets))
	for i, t := range targets {
		fds[i] = t.fd
	}
	if f.guard != nil {
		if err := f.guard.arm(f.opt.Bound, fds); err == nil {
			return nil
		}
		_ = f.guard.stop()
		f.guard = nil
	}
	w, err := startGuard(f.opt.GuardCommand)
	if err != nil {
		return err
	}
	if err := w.arm(f.opt.Bound, fds); err != nil {
		return errors.Join(err, w.stop())
	}
	f.guard = w
	return nil
}

// disarm ends the guard's care. One that does not answer is left behind: it thaws
// what is thawed already and goes.
func (f *Freezer) disarm() {
	if err := f.guard.disarm(); err != nil {
		_ = f.guard.stop()
		f.guard = nil
	}
}

// check refuses what could hang the machine.
func (f *Freezer) check(mounts []disk.Mount) error {
	type danger struct {
		path, reason string
		swap         bool
	}
	var dangers []danger
	for _, p := range f.opt.Avoid {
		dangers = append(dangers, danger{path: p, reason: "the agent writes to " + p})
	}
	if !f.locked {
		dangers = append(dangers, danger{path: "/proc/self/exe", reason: "it holds the agent's program, which could not be locked in memory"})
	}
	if !f.opt.AllowSwapFiles {
		swaps, err := disk.ActiveSwaps()
		if err != nil {
			return err
		}
		for _, s := range swaps {
			if s.File {
				dangers = append(dangers, danger{path: s.Path, reason: "it holds the active swap file " + s.Path + " (swapoff it, or allow swap files)", swap: true})
			}
		}
	}
	for _, d := range dangers {
		on, ok, err := disk.FilesystemOf(d.path)
		if errors.Is(err, os.ErrNotExist) && d.swap {
			continue // deleted but in use: its blocks are past any filesystem
		}
		if err != nil {
			return fmt.Errorf("check whether freezing is safe: %w", err)
		}
		i := slices.IndexFunc(mounts, func(m disk.Mount) bool { return m.Major == on.Major && m.Minor == on.Minor })
		if ok && i >= 0 {
			return &Refused{Mount: mounts[i], Reason: d.reason}
		}
	}
	return nil
}
