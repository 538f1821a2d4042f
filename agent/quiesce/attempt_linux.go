package quiesce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
)

type state int

const (
	stateThawed  state = iota
	stateFrozen        // frozen by us
	stateSkipped       // cannot be frozen
)

// target is a filesystem on its way.
type target struct {
	mount disk.Mount
	fd    int
	state state
}

// openAll opens the mountpoints, highest filesystem first. A filesystem over
// several disks may be named once for each of them; it is frozen once.
func openAll(mounts []disk.Mount) ([]*target, error) {
	type superblock struct{ major, minor uint32 }
	seen := make(map[superblock]bool)
	var targets []*target
	for _, m := range mounts {
		sb := superblock{m.Major, m.Minor}
		if seen[sb] {
			continue
		}
		seen[sb] = true
		fd, err := openMount(m)
		if err != nil {
			closeTargets(targets)
			return nil, err
		}
		targets = append(targets, &target{mount: m, fd: fd})
	}
	slices.SortStableFunc(targets, func(a, b *target) int { return cmp.Compare(b.mount.Depth, a.mount.Depth) })
	return targets, nil
}

// openMount opens a mountpoint and makes sure that it is still the same mount.
func openMount(m disk.Mount) (int, error) {
	fd, err := unix.Open(m.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open mountpoint %s: %w", m.Path, err)
	}
	id, err := disk.MountID(fd)
	if err == nil && id != m.ID {
		err = errors.New("something else is mounted there now, or over it; look at the mounts again")
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("open mountpoint %s: %w", m.Path, err)
	}
	return fd, nil
}

func closeTargets(targets []*target) {
	for _, t := range targets {
		_ = unix.Close(t.fd)
	}
}

// each runs fn for all targets at once and gathers the errors.
func each(targets []*target, fn func(*target) error) error {
	errs := make([]error, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() { errs[i] = fn(t) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// attempt is one freeze of all targets.
type attempt struct {
	began    time.Time
	deadline time.Time
	targets  []*target // by falling depth

	mu      sync.Mutex
	aborted bool
}

// run freezes level by level. On any error it thaws everything and returns when
// nothing is frozen or being frozen any more.
func (a *attempt) run(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, a.deadline)
	defer cancel()
	var wg sync.WaitGroup
	err := a.levels(ctx, &wg)
	if err == nil {
		return nil
	}
	err = errors.Join(err, a.abort())
	wg.Wait()
	return err
}

func (a *attempt) levels(ctx context.Context, wg *sync.WaitGroup) error {
	for rest := a.targets; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].mount.Depth == rest[0].mount.Depth {
			n++
		}
		done := make(chan error, n)
		for _, t := range rest[:n] {
			wg.Go(func() { done <- a.freeze(t) })
		}
		for range n {
			select {
			case err := <-done:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return a.tooSlow(ctx)
			}
		}
		rest = rest[n:]
	}
	if ctx.Err() != nil {
		return a.tooSlow(ctx)
	}
	return nil
}

func (a *attempt) tooSlow(ctx context.Context) error {
	if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Now().Before(a.deadline) {
		return err
	}
	return fmt.Errorf("%w of %v", ErrTooSlow, a.deadline.Sub(a.began))
}

// freeze freezes one target; if the attempt was given up meanwhile, it is thawed.
func (a *attempt) freeze(t *target) error {
	err := freezeFD(t.fd)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil && a.aborted:
		_ = thawFD(t.fd)
		return nil
	case err == nil:
		t.state = stateFrozen
		return nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOTTY):
		t.state = stateSkipped
		return nil
	case errors.Is(err, unix.EBUSY):
		return &Refused{Mount: t.mount, Reason: "somebody else has frozen it"}
	case errors.Is(err, unix.EPERM):
		return &Refused{Mount: t.mount, Reason: "root is needed (CAP_SYS_ADMIN)"}
	default:
		return fmt.Errorf("freeze %s: %w", t.mount.Path, err)
	}
}

// abort thaws what is frozen and makes later ones thaw themselves. That the guard
// was faster is no error here.
func (a *attempt) abort() error {
	a.mu.Lock()
	a.aborted = true
	frozen := a.frozen()
	a.mu.Unlock()
	err := each(frozen, (*target).thaw)
	if errors.Is(err, ErrThawed) {
		return nil
	}
	return err
}

func (a *attempt) frozen() []*target {
	var list []*target
	for _, t := range a.targets {
		if t.state == stateFrozen {
			list = append(list, t)
		}
	}
	return list
}

func (t *target) thaw() error {
	switch err := thawFD(t.fd); {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s %w", t.mount.Path, ErrThawed)
	case err != nil:
		return fmt.Errorf("thaw %s: %w", t.mount.Path, err)
	default:
		return nil
	}
}

// Frozen is a set of filesystems that stand still. Thaw must be called.
type Frozen struct {
	freezer *Freezer
	attempt *attempt
	skipped []Skipped
	thawed  bool
}

// Deadline is when the guard thaws: be done with reading before it.
func (f *Frozen) Deadline() time.Time { return f.attempt.deadline }

// Skipped are the filesystems that could not be frozen.
func (f *Frozen) Skipped() []Skipped { return f.skipped }

// Thaw lets everything go on and tells how long it stood, from the first freeze
// to the last thaw. ErrThawed means that not everything stood still until now; all
// other errors leave doubt too: the cut is valid only if Thaw returns nil.
func (f *Frozen) Thaw() (held time.Duration, err error) {
	if f.thawed {
		return 0, errors.New("thaw: called twice")
	}
	f.thawed = true
	frozen := f.attempt.frozen()
	slices.Reverse(frozen)
	err = each(frozen, (*target).thaw)
	held = time.Since(f.attempt.began)
	f.freezer.disarm()
	closeTargets(f.attempt.targets)
	f.freezer.turn <- struct{}{}
	return held, err
}
