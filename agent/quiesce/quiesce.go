package quiesce

import (
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
)

// ownProgram is the program that runs, whatever has become of its file.
const ownProgram = "/proc/self/exe"

// DefaultBound is how long filesystems are frozen at most if nothing else is said.
const DefaultBound = 3 * time.Second

// Errors of this package, for errors.Is.
var (
	// ErrTooSlow means that the filesystems were not frozen within the bound; all
	// are thawed. Try again when the machine is less busy, or with a higher bound.
	ErrTooSlow = errors.New("freezing took longer than its bound")
	// ErrRefused means that freezing one of the filesystems could hang this machine;
	// errors.As with *Refused tells which and why.
	ErrRefused = errors.New("will not be frozen")
	// ErrThawed means that something was thawed before Thaw: the cut is not valid.
	ErrThawed = errors.New("was thawed before the cut was complete")
	// ErrNoGuard means that there is no guard process; nothing is frozen without.
	ErrNoGuard = errors.New("no guard process")
)

// Refused says why a filesystem is not frozen.
type Refused struct {
	Mount  disk.Mount
	Reason string
}

// Error names the mount and the reason.
func (r *Refused) Error() string {
	return fmt.Sprintf("%s %v: %s", r.Mount.Path, ErrRefused, r.Reason)
}

// Is makes errors.Is(err, ErrRefused) true.
func (r *Refused) Is(target error) bool { return target == ErrRefused }

// Skipped is a filesystem that is not frozen though the rest is.
type Skipped struct {
	Mount  disk.Mount
	Reason string
}

// Options of a Freezer.
type Options struct {
	// GuardCommand starts the guard: a program that calls GuardMain. Default: this
	// program, even if its file was replaced meanwhile, with the one argument "guard".
	GuardCommand []string
	// Bound is how long filesystems may be frozen; default DefaultBound.
	Bound time.Duration
	// Avoid are paths that are written to while filesystems are frozen. What holds
	// one of them is refused.
	Avoid []string
	// AllowSwapFiles freezes filesystems with active swap files too. The kernel
	// writes to them past the filesystem, so nothing hangs, but their blocks are not
	// of one instant.
	AllowSwapFiles bool
}

func (o Options) withDefaults() Options {
	if len(o.GuardCommand) == 0 {
		o.GuardCommand = []string{ownProgram, "guard"}
	}
	if o.Bound <= 0 {
		o.Bound = DefaultBound
	}
	return o
}
