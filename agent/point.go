package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams/wire"
)

// point makes one recovery point of all disks of the machine, or fails and leaves
// everything as it was: what changed stays marked.
func (a *Agent) point(ctx context.Context) error {
	began := time.Now()
	if len(a.replicas) == 0 {
		return nil // none is up to date yet: that has been said
	}
	if err := a.sizes(); err != nil {
		return err
	}
	var c *cutResult
	var consistency wire.Consistency
	var err error
	for range attempts {
		var usage []*disk.Usage
		if usage, err = a.inspect(); err != nil {
			return err
		}
		if err = a.rounds(ctx, usage); err != nil {
			return err
		}
		// A burst right before the freeze, such as a trim of all free space, is copied
		// by the next rounds: no reason to give the point up.
		c, consistency, err = a.cutReady(ctx, func(ctx context.Context) (*cutResult, error) { return a.cut(ctx, usage) })
		if !errors.Is(err, errMuch) && !errors.Is(err, errMounted) && !(errors.Is(err, errBusy) && a.cheap()) {
			break
		}
	}
	if err != nil {
		return err
	}
	cuts, err := a.release(ctx, c, a.cfg.group(), consistency)
	if err != nil {
		return err
	}
	m := &wire.Marker{
		ID: c.id, Group: a.cfg.group(), Time: c.at.UnixNano(), Consistency: consistency,
		Frozen: c.frozen.Nanoseconds(), Members: []wire.Member{{Machine: a.cfg.Machine, Facts: a.facts, Disks: cuts}},
	}
	if err := markers.Publish(ctx, a.bus.JS, m); err != nil {
		return err
	}
	a.log.Info("point cut", "point", m.ID, "consistency", m.Consistency, "frozen_ms", float64(c.frozen.Microseconds())/1e3, "seconds", time.Since(began).Seconds())
	for _, r := range a.replicas {
		r.tell("point", 0, 0, fmt.Sprintf("%s frozen %v", m.ID, c.frozen.Round(time.Microsecond)))
	}
	return nil
}

// release publishes what a cut caught of every disk, and the cuts behind it.
func (a *Agent) release(ctx context.Context, c *cutResult, group string, consistency wire.Consistency) ([]wire.DiskCut, error) {
	cuts := make([]wire.DiskCut, len(a.replicas))
	err := each(ctx, a.replicas, func(ctx context.Context, r *replica) error {
		i := a.index(r)
		n, err := r.release(ctx, c.held[i], &wire.Cut{Point: c.id, Group: group, Time: c.at.UnixNano(), Consistency: consistency})
		if err != nil {
			return err
		}
		note := c.notes[i]
		if lacks := a.lacking(); lacks != "" {
			note = clip(strings.TrimSuffix(lacks+"; "+note, "; ")) // what is lacking must not be cut off
		}
		cuts[i] = wire.DiskCut{Disk: r.name, Epoch: r.pub.Epoch(), Number: n, Size: r.dev.Size(), Frozen: c.frozenDisk[i], Note: note}
		return nil
	})
	return cuts, err
}

func (a *Agent) index(r *replica) int { return slices.Index(a.replicas, r) }

// attempts is how often a freeze is tried for one point when too much changed
// between the last round and the freeze, or discards went on under it.
const attempts = 3

// errResized means that a disk is not the size it was opened with.
var errResized = errors.New("disk was resized")

// sizes makes sure that every disk still has the size that the vault was told.
func (a *Agent) sizes() error {
	for _, r := range a.replicas {
		n, err := r.dev.CurrentSize()
		if err != nil {
			return err
		}
		if n != r.dev.Size() {
			return fmt.Errorf("disk %s: %w from %d to %d bytes", r.name, errResized, r.dev.Size(), n)
		}
	}
	return nil
}

// newID makes the id of a point: sortable by time, unique by chance.
func newID(at time.Time) string {
	return at.UTC().Format("20060102T150405") + "-" + strings.ToLower(rand.Text()[:8])
}

// rounds copies what changed until little is left or it stops getting less.
func (a *Agent) rounds(ctx context.Context, usage []*disk.Usage) error {
	last := ^uint64(0)
	for i := range a.cfg.Rounds {
		var mu sync.Mutex
		left := uint64(0)
		err := each(ctx, a.replicas, func(ctx context.Context, r *replica) error {
			if !r.src.Cheap() && i > 0 {
				return nil // the scan driver's own passes come in the cut
			}
			if _, err := r.take(ctx); err != nil {
				return err
			}
			mu.Lock()
			left += r.dirty.Len() * wire.BlockSize
			mu.Unlock()
			return r.sendDirty(ctx, "round")
		})
		if err != nil {
			return err
		}
		// What was just sent took time; a quarter of the freeze budget is what the
		// next round or the freeze itself may find.
		if left <= uint64(a.cfg.FreezeBytes)/4 || left > last {
			return nil
		}
		last = left
		if err := a.freezer.Sync(ctx, mountsOf(usage)); err != nil {
			return err
		}
	}
	return nil
}

// cutResult is what was caught at one instant.
type cutResult struct {
	id         string
	at         time.Time
	frozen     time.Duration // 0 if nothing was frozen
	held       []*held
	frozenDisk []bool
	notes      []string
}

// cut freezes what can be frozen, catches every disk at one instant, and thaws.
func (a *Agent) cut(ctx context.Context, usage []*disk.Usage) (*cutResult, error) {
	c := &cutResult{held: make([]*held, len(a.replicas)), frozenDisk: make([]bool, len(a.replicas)), notes: make([]string, len(a.replicas))}
	slow, cheap := a.split()
	// Drivers that must read everything cannot do so inside a freeze: they wait for
	// a pass that finds no change, which is the disk as it was when the pass began.
	c.at = time.Now()
	if err := a.holdAll(ctx, slow, c); err != nil {
		return nil, err
	}
	if len(cheap) == 0 {
		c.id = newID(c.at)
		return c, nil
	}
	if len(slow) > 0 {
		return nil, errors.New("disks followed by scan and by trace cannot share a point: protect them as two machines, or use one driver for all")
	}
	if err := a.freezer.Sync(ctx, mountsOf(usage)); err != nil {
		return nil, err
	}
	if err := each(ctx, a.replicas, func(ctx context.Context, r *replica) error {
		if _, err := r.take(ctx); err != nil {
			return err
		}
		return r.sendDirty(ctx, "round")
	}); err != nil {
		return nil, err
	}
	f, err := a.freeze(ctx, usage)
	if err != nil {
		return nil, err
	}
	if err := a.catch(ctx, f, cheap, c); err != nil {
		return c, err
	}
	return c, a.mounted(usage)
}

// catch fills c while f lasts, and ends f.
func (a *Agent) catch(ctx context.Context, f *freeze, which []int, c *cutResult) error {
	c.at = time.Now()
	c.id = newID(c.at)
	for i := range a.replicas {
		c.frozenDisk[i], c.notes[i] = f.describe(i)
	}
	limited, cancel := context.WithTimeoutCause(ctx, a.freezeLimit(), quiesce.ErrTooSlow)
	err := a.holdAll(limited, which, c)
	if err == nil {
		err = a.audit(limited, c.frozenDisk)
	}
	cancel()
	if err == nil && a.cfg.AtCut != nil {
		err = a.cfg.AtCut(c.id, a.still)
	}
	if f.frozen == nil {
		return err
	}
	held, terr := f.frozen.Thaw()
	c.frozen = held
	if err == nil {
		err = terr
	}
	return err
}

// split returns the indexes of replicas whose sources are slow and cheap to take.
func (a *Agent) split() (slow, cheap []int) {
	for i, r := range a.replicas {
		if r.src.Cheap() {
			cheap = append(cheap, i)
		} else {
			slow = append(slow, i)
		}
	}
	return slow, cheap
}

// cheap reports whether every disk can be caught again at once.
func (a *Agent) cheap() bool {
	slow, _ := a.split()
	return len(slow) == 0
}

// audit compares the trackers with the kernel's counters while nothing moves: disks are
// frozen, or were found at rest; a tracker allows for what moves all the same.
// A disk that was resized since the point was begun is not what the vault was told.
func (a *Agent) audit(ctx context.Context, frozen []bool) error {
	if err := a.sizes(); err != nil {
		return err
	}
	for i, r := range a.replicas {
		err := r.src.Audit(ctx)
		if errors.Is(err, capture.ErrLost) {
			r.full, r.looked = "ledger: "+err.Error(), looked{}
			r.board.lost.Add(1)
			if !frozen[i] {
				r.full += " (the disk was at rest, but not frozen)"
			}
			a.event("resync", wire.Warning, r.name, fmt.Sprintf("disk %s must be compared with the vault: %v", r.name, err), "nothing: it has begun")
			return errAgain
		}
		if err != nil {
			return fmt.Errorf("audit disk %s: %w", r.name, err)
		}
	}
	return nil
}
