package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

// One disk's trouble is that disk's alone. A disk that cannot be followed or read, or
// that is another one now, is set aside, by name; the others go on, and their points
// say what they lack. A disk that comes to them, or back, is copied beside them and
// joins their points when that is done.

// aside is a disk that should be protected and is not.
type aside struct {
	disk DiskConfig
	why  error
	at   time.Time // of the next try; zero: never, unless somebody says so
}

// joining is a disk that is brought up to date beside the others.
type joining struct {
	r      *replica
	cancel context.CancelFunc
	done   chan error
}

const patience = 3 // failures to read a disk in a row

// nextTry is when a disk that was set aside is tried again.
func (a *Agent) nextTry() time.Time {
	return time.Now().Add(cmp.Or(a.cfg.tryEvery, 30*time.Second))
}

// read notes how reading the disk went.
func (r *replica) read(err error) {
	switch {
	case err == nil:
		r.failures = 0
	case errors.Is(err, disk.ErrUnreadable):
		r.failure = fmt.Errorf("disk %s: %w", r.name, err)
		if r.failures++; r.failures == patience {
			r.events("disk-unreadable", wire.Critical, r.name, r.failure.Error(), "look at the disk and its cables; the agent goes on trying, the other disks are not touched")
		}
	}
}

// trouble is what keeps the disk from being protected; nil if nothing does.
func (r *replica) trouble() error {
	if r.replaced == nil && r.failures >= patience {
		return r.failure
	}
	return r.replaced
}

// replace notes that another disk is in this one's place.
func (r *replica) replace(err error) {
	if r.replaced != nil {
		return
	}
	r.replaced = fmt.Errorf("disk %s: %w", r.name, err)
	r.events("disk-replaced", wire.Critical, r.name, r.replaced.Error(), "if the new disk should be protected in its place, reload the list of disks or start the agent again: it compares all of it; else exclude it")
}

// protectAll begins to follow every disk that is there. One that is not is set aside
// if there are others; what is wrong with the agent's own settings ends it.
func (a *Agent) protectAll(ctx context.Context) error {
	for _, d := range a.cfg.Disks {
		r, err := a.protect(ctx, d)
		switch {
		case err == nil:
			a.setReplicas(append(a.replicas, r))
		case len(a.cfg.Disks) > 1 && absent(err):
			a.refuse(d, err)
		default:
			return err
		}
	}
	if len(a.replicas) == 0 {
		return a.aside[0].why
	}
	return nil
}

// absent says whether a disk is not there, or does not answer.
func absent(err error) bool {
	return slices.ContainsFunc([]error{fs.ErrNotExist, disk.ErrUnreadable, disk.ErrTooSmall, syscall.EIO, syscall.ENXIO, syscall.ENODEV}, func(e error) bool { return errors.Is(err, e) })
}

// refuse sets a disk aside that could not be opened, and tries it again later.
func (a *Agent) refuse(d DiskConfig, err error) {
	a.log.Warn("disk is not protected", "disk", d.Name, "error", err)
	a.event("disk-refused", wire.Critical, d.Name, fmt.Sprintf("disk %s (%s) is not protected: %v", d.Name, d.Path, err), "repair the cause: the disk is tried again every half minute, and when the list of disks is reloaded")
	a.aside = append(a.aside, &aside{d, err, a.nextTry()})
}

// setReplicas says which disks are in the machine's points, in the order of its list.
func (a *Agent) setReplicas(rs []*replica) {
	slices.SortStableFunc(rs, func(x, y *replica) int {
		return slices.Index(a.cfg.Disks, x.disk) - slices.Index(a.cfg.Disks, y.disk)
	})
	a.replicas = rs
	a.many.Store(int32(len(rs)))
}

func (a *Agent) drop(r *replica) {
	a.setReplicas(slices.DeleteFunc(slices.Clone(a.replicas), func(x *replica) bool { return x == r }))
}

// lone says whether there is no more than one disk in the machine's points.
func (a *Agent) lone() bool { return a.many.Load() <= 1 }

// setAside takes a disk out of the machine's points.
func (a *Agent) setAside(r *replica, why error) {
	a.drop(r)
	r.close()
	x := &aside{disk: r.disk, why: why}
	if r.replaced == nil {
		x.at = a.nextTry()
	}
	a.aside = append(a.aside, x)
	a.log.Error("disk is set aside", "disk", r.name, "path", r.disk.Path, "error", why)
	a.event("disk-aside", wire.Critical, r.name, fmt.Sprintf("disk %s (%s) is no longer in this machine's recovery points: %v", r.name, r.disk.Path, why), "until the cause is repaired use points from before, or do without this disk")
	a.writeStatus()
}

// beside brings a disk up to date while the others go on.
func (a *Agent) beside(ctx context.Context, r *replica) {
	ctx, cancel := context.WithCancel(ctx)
	j := &joining{r: r, cancel: cancel, done: make(chan error, 1)}
	r.alone = func() bool { return false }
	a.joining = append(a.joining, j)
	go func() { j.done <- r.sync(ctx) }()
}

// end gives a disk back that was on its way.
func (j *joining) end() {
	j.cancel()
	<-j.done
	j.r.close()
}

// recall gives back the disks that are on their way; they are tried again at once.
func (a *Agent) recall(why error) {
	for _, j := range a.joining {
		j.end()
		a.aside = append(a.aside, &aside{j.r.disk, why, time.Now()})
	}
	a.joining = nil
}

// joined takes the disks that are up to date among the others.
func (a *Agent) joined(ctx context.Context) error {
	for _, j := range slices.Clone(a.joining) {
		var err error
		select {
		case err = <-j.done:
		default:
			continue
		}
		a.joining = slices.DeleteFunc(a.joining, func(x *joining) bool { return x == j })
		j.cancel()
		switch {
		case err == nil:
			j.r.alone = a.lone
			a.setReplicas(append(slices.Clone(a.replicas), j.r))
			a.event("disk-joined", wire.Info, j.r.name, fmt.Sprintf("disk %s (%s) is in this machine's recovery points from now on", j.r.name, j.r.disk.Path), "")
		case errors.Is(err, ErrFenced):
			j.r.close()
			return err
		case ctx.Err() != nil:
			a.joining = append(a.joining, j) // recall, or Close, ends it
			j.done <- err
			return err
		default:
			a.setAside(j.r, err)
		}
		a.writeStatus()
	}
	return nil
}

// again tries the disks that were set aside and whose time has come.
func (a *Agent) again(ctx context.Context) {
	for _, x := range slices.Clone(a.aside) {
		if x.at.IsZero() || time.Now().Before(x.at) {
			continue
		}
		r, err := a.protect(ctx, x.disk)
		if err != nil {
			x.why, x.at = err, a.nextTry()
			continue
		}
		a.aside = slices.DeleteFunc(a.aside, func(y *aside) bool { return x == y })
		a.event("disk-back", wire.Info, x.disk.Name, fmt.Sprintf("disk %s (%s) is there again and is brought up to date", x.disk.Name, x.disk.Path), "")
		a.beside(ctx, r)
		a.writeStatus()
	}
}

// lacking says which of the disks are not in the machine's points, and why; empty if
// all are.
func (a *Agent) lacking() string {
	var all []string
	for _, x := range a.aside {
		all = append(all, fmt.Sprintf("%s%s: %v", wire.NoteWithout, x.disk.Name, x.why))
	}
	for _, j := range a.joining {
		all = append(all, fmt.Sprintf("%s%s: it is being brought up to date", wire.NoteWithout, j.r.name))
	}
	return strings.Join(all, "; ")
}
