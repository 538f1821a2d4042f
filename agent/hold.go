package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/streams/wire"
)

// held is what was read of one disk for a cut.
type held struct {
	pieces []piece
}

type piece struct {
	start uint64
	data  []byte
}

// errBusy means that the disk was written to all the time: no instant was caught.
var errBusy = errors.New("the disk is written to all the time")

// errMuch means that too much changed to be read inside a freeze.
var errMuch = errors.New("too much changed to be read while frozen")

// tries is how often holdAll reads what changed under its hands.
const tries = 5

// holdAll catches disks at one instant: take, read, and take again until nothing was
// written meanwhile. The blocks stay dirty until release. It sends nothing, because
// filesystems may be frozen while it runs.
//
// Discards may go on under a freeze (ext4 and btrfs send them from workers of their
// own, and a running trim is not stopped). They count like writes: a point is exactly
// the bytes that the disk held, or it is not made.
//
// Disks that are frozen (c.frozenDisk) stand still, so that each may be caught when it
// comes to rest, and so may one that is not: its instant is that of all. Several that are
// not must be found at rest in the same round, in which every take begins after all others
// have ended reading: else what was written to one of them after it was caught (a log)
// would be missing though what was written after that to another (data) is there.
func (a *Agent) holdAll(ctx context.Context, which []int, c *cutResult) error {
	err := a.holdRounds(ctx, which, c)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %v", context.Cause(ctx), err)
	}
	return err
}

func (a *Agent) holdRounds(ctx context.Context, which []int, c *cutResult) error {
	var frozen, loose []*holding
	for _, i := range which {
		h := &holding{replica: a.replicas[i]}
		c.held[i] = &h.held
		if c.frozenDisk[i] {
			frozen = append(frozen, h)
		} else {
			loose = append(loose, h)
		}
	}
	for range tries {
		// What is at rest is looked at again only for others' sake.
		all := append(moving(frozen), loose...)
		if len(loose) == 1 {
			all = append(moving(frozen), moving(loose)...)
		}
		if err := together(ctx, all, (*holding).look); err != nil {
			return err
		}
		again := moving(all)
		if len(again) == 0 {
			return nil
		}
		if err := together(ctx, again, (*holding).read); err != nil {
			return err
		}
	}
	return fmt.Errorf("disk %s: %w", moving(append(frozen, loose...))[0].name, errBusy)
}

// still is an error if a disk was written to since it was caught.
func (a *Agent) still(ctx context.Context) error { return each(ctx, a.replicas, atRest) }

// atRest is an error if r was written to since it was looked at last.
func atRest(ctx context.Context, r *replica) error {
	set, err := r.take(ctx)
	if err == nil && set.Len() > 0 {
		err = fmt.Errorf("disk %s: %w", r.name, errBusy)
	}
	return err
}

// holding is a disk that is being caught.
type holding struct {
	*replica
	held
	looks int
	still bool // nothing has changed since it was read
}

// moving are those that are not known to be still.
func moving(all []*holding) (some []*holding) {
	for _, h := range all {
		if !h.still {
			some = append(some, h)
		}
	}
	return some
}

// look finds out whether anything changed since the disk was read.
func (h *holding) look(ctx context.Context) error {
	set, err := h.take(ctx)
	if err != nil {
		return err
	}
	h.still = set.Len() == 0 && (h.looks > 0 || h.dirty.Len() == 0)
	h.looks++
	return nil
}

// read reads everything dirty.
func (h *holding) read(ctx context.Context) error {
	if h.dirty.Len()*wire.BlockSize > uint64(h.cfg.FreezeBytes) {
		return fmt.Errorf("disk %s: %w (%d KiB, limit %d KiB)", h.name, errMuch, h.dirty.Len()*wire.BlockSize>>10, h.cfg.FreezeBytes>>10)
	}
	h.pieces = h.pieces[:0]
	var set capture.Set
	set.Merge(&h.dirty)
	return h.readSet(ctx, &set, func(start uint64, data []byte) error {
		h.pieces = append(h.pieces, piece{start, append([]byte(nil), data...)})
		return nil
	})
}
