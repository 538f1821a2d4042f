package mastertarget

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/consumers/vault"
)

// pieceBlocks is how much is read and compared at once: 1 MiB.
const pieceBlocks = 256

// work is one Bring under way.
type work struct {
	m       *Master
	goal    *vault.Sums
	from    *vault.Reader
	total   int64
	brought *Brought

	looked, differ, written, zeroed atomic.Int64
}

// run looks at all runs, and advances the record after each window.
func (w *work) run(ctx context.Context, runs []run) error {
	defer func() {
		b := w.brought
		b.Looked, b.Differ, b.Written, b.Zeroed = w.looked.Load(), w.differ.Load(), w.written.Load(), w.zeroed.Load()
	}()
	for len(runs) > 0 {
		var pieces []run
		for left := w.m.window; left > 0 && len(runs) > 0; {
			r := &runs[0]
			n := min(r.count, pieceBlocks, left)
			pieces = append(pieces, run{r.start, n})
			left -= n
			if r.start, r.count = r.start+n, r.count-n; r.count == 0 {
				runs = runs[1:]
			}
		}
		if err := w.pieces(ctx, pieces); err != nil {
			return err
		}
		done := w.m.rec.blocks()
		if len(runs) > 0 {
			done = runs[0].start
		}
		if err := w.advance(done); err != nil {
			return err
		}
	}
	return w.advance(w.m.rec.blocks())
}

// advance makes what was written durable, and then that it was.
func (w *work) advance(done uint64) error {
	if err := unix.Fdatasync(int(w.m.write.Fd())); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	w.m.rec.reached(w.goal.Position(), done)
	if err := w.m.save(); err != nil {
		return err
	}
	w.m.cfg.Progress("bring", w.looked.Load(), w.total)
	return nil
}

func (w *work) pieces(ctx context.Context, pieces []run) error {
	g, ctx := errgroup.WithContext(ctx)
	next := atomic.Int64{}
	for range workers {
		g.Go(func() error {
			buf := disk.AlignedBuffer(pieceBlocks * vault.BlockSize)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(pieces)) {
					return nil
				}
				if err := w.piece(ctx, pieces[i], buf); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// piece makes one piece as it is at the goal.
func (w *work) piece(ctx context.Context, r run, buf []byte) error {
	have, err := w.m.sums(ctx, r, buf)
	if err != nil {
		return err
	}
	want := w.goal.Read(r.start, int(r.count))
	w.looked.Add(int64(r.count) * vault.BlockSize)
	for i := 0; i < len(want); {
		if have[i] == want[i] {
			i++
			continue
		}
		zero := want[i] == vault.Sum{}
		n := 1
		for i+n < len(want) && have[i+n] != want[i+n] && (want[i+n] == vault.Sum{}) == zero {
			n++
		}
		w.differ.Add(int64(n) * vault.BlockSize)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.put(r.start+uint64(i), want[i:i+n], zero, buf); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// put writes blocks that differ. buf is free to be used.
func (w *work) put(start uint64, want []vault.Sum, zero bool, buf []byte) error {
	off := int64(start) * vault.BlockSize
	length := min(int64(len(want))*vault.BlockSize, int64(w.m.cfg.Size)-off)
	if zero {
		w.zeroed.Add(length)
		return w.m.zero(off, length)
	}
	data := buf[:len(want)*vault.BlockSize]
	clear(data[length:])
	if _, err := w.from.ReadAt(data[:length], off); err != nil && err != io.EOF {
		return err
	}
	for i := range want {
		// What is written here nobody reads again before it is trusted.
		if vault.SumOf(data[i*vault.BlockSize:][:vault.BlockSize]) != want[i] {
			return fmt.Errorf("block %d is not what its sum says: run leeward vault check", start+uint64(i))
		}
	}
	if _, err := w.m.write.WriteAt(data[:length], off); err != nil {
		return err
	}
	w.written.Add(length)
	return nil
}

// sums reads blocks of the disk at home and returns their sums.
func (m *Master) sums(ctx context.Context, r run, buf []byte) ([]vault.Sum, error) {
	sums := make([]vault.Sum, r.count)
	// What an image does not hold reads as zeros, of which the sum is zero.
	from := min(m.read.NextData(r.start), r.start+r.count)
	if from == r.start+r.count {
		return sums, nil
	}
	data := buf[:(r.start+r.count-from)*vault.BlockSize]
	if err := m.read.ReadBlocks(ctx, from, data); err != nil {
		return nil, err
	}
	end := int64(m.cfg.Size) - int64(from)*vault.BlockSize
	if end < int64(len(data)) {
		clear(data[end:]) // a larger device goes on behind the disk
	}
	for i := range r.start + r.count - from {
		sums[from-r.start+i] = vault.SumOf(data[i*vault.BlockSize:][:vault.BlockSize])
	}
	return sums, nil
}

// blkZeroOut zeros a range of a block device, by the device itself if it can.
const blkZeroOut = 0x127f

// zero makes bytes zeros.
func (m *Master) zero(off, length int64) error {
	if m.read.IsBlock() {
		span := [2]uint64{uint64(off), uint64(length)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, m.write.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span)))
		if errno == 0 {
			return nil
		}
	} else if unix.Fallocate(int(m.write.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length) == nil {
		return nil
	}
	_, err := m.write.WriteAt(make([]byte, length), off)
	return err
}
