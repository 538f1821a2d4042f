package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Rig owns everything a bench makes on this machine.
type Rig struct {
	Dir string // private temporary directory, removed by Close
	Log *slog.Logger
	// Keep leaves the directory, with the logs of all programs, for people to look at.
	Keep bool

	mu   sync.Mutex
	undo []step
}

type step struct {
	what string
	f    func() error
}

// New makes a private directory below parent ("" means the system's place for
// temporary files). Call Close on every way out.
func New(parent string, log *slog.Logger) (*Rig, error) {
	dir, err := os.MkdirTemp(parent, "leeward-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the bench: %w", err)
	}
	r := &Rig{Dir: dir, Log: log}
	r.Defer("remove "+dir, func() error {
		if r.Keep {
			return nil
		}
		return os.RemoveAll(dir)
	})
	r.Defer("end the machines that are left", func() error { return endKept(dir) })
	return r, nil
}

// Defer registers what takes something away again.
func (r *Rig) Defer(what string, f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.undo = append(r.undo, step{what, f})
}

// Close takes everything away, the newest first, and reports what it could not.
// It may be called twice.
func (r *Rig) Close() error {
	var all []error
	for {
		r.mu.Lock()
		n := len(r.undo)
		if n == 0 {
			r.mu.Unlock()
			return errors.Join(all...)
		}
		s := r.undo[n-1]
		r.undo = r.undo[:n-1]
		r.mu.Unlock()
		if err := s.f(); err != nil {
			all = append(all, fmt.Errorf("%s: %w", s.what, err))
		}
	}
}

// Run runs a program to its end and returns what it printed. The error holds the
// end of what it said.
func Run(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 10 * time.Second
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, lastLines(msg.String()+out.String(), 3))
	}
	return out.String(), nil
}

// ReadOnly ends all writing to a filesystem. While it is frozen for a point it is busy,
// so that is tried again for a minute.
func ReadOnly(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	err := Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		_, last = Run(ctx, "mount", "-o", "remount,ro", dir)
		return last == nil, nil
	})
	return errors.Join(err, last)
}

// lastLines returns the last n lines of s, joined by " / ".
func lastLines(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], " / ")
}

// Have reports whether all programs are on PATH, and the first that is not.
func Have(programs ...string) (missing string, ok bool) {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p, false
		}
	}
	return "", true
}

// Root reports whether this process may make loop devices and mounts.
func Root() bool { return os.Geteuid() == 0 }

// Poll calls f every step until it reports true or an error, or ctx ends.
func Poll(ctx context.Context, step time.Duration, f func() (bool, error)) error {
	t := time.NewTicker(step)
	defer t.Stop()
	for {
		ok, err := f()
		if ok || err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
