package overlay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/leeward-dr/leeward/control/target"
)

// restoreAtOnce is how much of what was changed is read at a time, in bytes.
const restoreAtOnce = 1 << 20

// ChangedDisk is a disk with the changes that an overlay over it holds. Nobody may be writing
// to the overlay. All of the base is read and compared with its digest, also what was
// changed; of the changes nobody has promised anything.
type ChangedDisk struct {
	base target.Restorer
	o    *Overlay
	runs []run
}

// run is what was changed in one piece.
type run struct {
	off, end int64
	zero     bool
}

var _ target.Restorer = (*ChangedDisk)(nil)

// Apply returns base as o, an overlay over it, has changed it.
func Apply(base target.Restorer, o *Overlay) *ChangedDisk {
	d := &ChangedDisk{base: base, o: o}
	o.Changed(func(off, length int64, zero bool) bool {
		d.runs = append(d.runs, run{off, off + length, zero})
		return true
	})
	return d
}

// Name returns the name of the disk.
func (d *ChangedDisk) Name() string { return d.base.Name() }

// Size returns its size in bytes.
func (d *ChangedDisk) Size() int64 { return d.base.Size() }

// Digest returns that of the base: what was changed has none that anybody promised.
func (d *ChangedDisk) Digest() [32]byte { return d.base.Digest() }

// Base returns the disk as it was.
func (d *ChangedDisk) Base() target.Restorer { return d.base }

// Runs calls yield for the runs of bytes that were changed, ascending.
func (d *ChangedDisk) Runs(yield func(off, length int64) bool) {
	for _, r := range d.runs {
		if !yield(r.off, r.end-r.off) {
			return
		}
	}
}

// Bytes returns how much was changed, in bytes.
func (d *ChangedDisk) Bytes() (n int64) {
	for _, r := range d.runs {
		n += r.end - r.off
	}
	return n
}

// ReadAt reads the disk as it was changed.
func (d *ChangedDisk) ReadAt(p []byte, off int64) (int, error) { return d.o.ReadAt(p, off) }

// Extents implements target.Disk.
func (d *ChangedDisk) Extents(yield func(off, length int64) bool) {
	d.o.Extents(0, d.o.Size(), func(off, length int64, hole bool) bool { return hole || yield(off, length) })
}

// Restore implements target.Restorer: the base restores itself, and what was changed is
// put in the place of what it was.
func (d *ChangedDisk) Restore(ctx context.Context, dst io.WriterAt, progress target.Progress) error {
	if err := d.base.Restore(ctx, around{d.runs, dst}, progress); err != nil {
		return err
	}
	buf := make([]byte, restoreAtOnce)
	for _, r := range d.runs {
		for off := r.off; off < r.end && !r.zero; off += int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), r.end-off)]
			if n, err := d.o.ReadAt(b, off); n < len(b) || err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read what was changed of disk %s at %d: %w", d.Name(), off, errors.Join(err, io.ErrUnexpectedEOF))
			}
			if err := writeBlocks(dst, b, off); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeBlocks writes the blocks that are not zero, in as few pieces as that takes.
func writeBlocks(dst io.WriterAt, b []byte, off int64) error {
	for at := 0; at < len(b); {
		end := at
		for end < len(b) && !allZero(b[end:min(end+PageSize, len(b))]) {
			end = min(end+PageSize, len(b))
		}
		if end > at {
			if _, err := dst.WriteAt(b[at:end], off+int64(at)); err != nil {
				return err
			}
		}
		at = end + PageSize
	}
	return nil
}

func allZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
}

// around writes what lies outside of runs, which ascend.
type around struct {
	runs []run
	dst  io.WriterAt
}

// WriteAt implements io.WriterAt. What was changed counts as written.
func (a around) WriteAt(b []byte, off int64) (int, error) {
	at, end := off, off+int64(len(b))
	i, _ := slices.BinarySearchFunc(a.runs, off, func(r run, off int64) int {
		if r.end <= off {
			return -1
		}
		return 1
	})
	for ; at < end; i++ {
		stop := end
		if i < len(a.runs) {
			stop = min(end, max(at, a.runs[i].off))
		}
		if stop > at {
			if n, err := a.dst.WriteAt(b[at-off:stop-off], at); err != nil {
				return int(at-off) + n, err
			}
		}
		if at = end; i < len(a.runs) {
			at = min(end, max(stop, a.runs[i].end))
		}
	}
	return len(b), nil
}
