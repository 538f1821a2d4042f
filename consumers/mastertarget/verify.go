package mastertarget

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/consumers/vault"
)

// ErrDiffers means that the disk is not what the point promises.
var ErrDiffers = errors.New("the disk at home is not as it is at the point")

// Verify reads all of the disk and compares it with what a point promises. If it differs
// the error wraps ErrDiffers, and the next Bring compares everything.
func (m *Master) Verify(ctx context.Context, d *vault.PointDisk) error {
	if d.Size != m.cfg.Size {
		return fmt.Errorf("%w: at the point disk %s has %d bytes, not %d", ErrRefused, m.cfg.Disk, d.Size, m.cfg.Size)
	}
	// What is cached proves nothing of the disk.
	_ = unix.Fadvise(int(m.write.Fd()), 0, int64(m.cfg.Size), unix.FADV_DONTNEED)
	var got vault.Digest
	blocks := m.rec.blocks()
	for at := uint64(0); at < blocks; at += m.window {
		n := min(m.window, blocks-at)
		sums, err := m.many(ctx, at, n)
		if err != nil {
			return fmt.Errorf("verify %s: %w", m.cfg.Path, err)
		}
		for i, s := range sums {
			got.Replace(at+uint64(i), vault.Sum{}, s)
		}
		m.cfg.Progress("verify", int64(at+n)*vault.BlockSize, int64(m.cfg.Size))
	}
	if got != d.Digest {
		m.rec.forget()
		return errors.Join(fmt.Errorf("%w: somebody else wrote to %s, or it does not keep what is written: bring it home again, everything is compared then", ErrDiffers, m.cfg.Path), m.save())
	}
	// Now it is known, whatever the record said.
	m.rec.reached(d.At, blocks)
	m.rec.Verified = &d.At
	return m.save()
}

// many returns the sums of many blocks.
func (m *Master) many(ctx context.Context, start, count uint64) ([]vault.Sum, error) {
	sums := make([]vault.Sum, count)
	g, ctx := errgroup.WithContext(ctx)
	next := atomic.Uint64{}
	for range workers {
		g.Go(func() error {
			buf := disk.AlignedBuffer(pieceBlocks * vault.BlockSize)
			for {
				at := (next.Add(1) - 1) * pieceBlocks
				if at >= count {
					return nil
				}
				part, err := m.sums(ctx, run{start + at, min(pieceBlocks, count-at)}, buf)
				if err != nil {
					return err
				}
				copy(sums[at:], part)
			}
		})
	}
	return sums, g.Wait()
}
