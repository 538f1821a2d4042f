package mastertarget

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

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
	want, err := m.hoped(ctx, d)
	if err != nil {
		return err
	}
	m.dev.dropCaches()
	var got vault.Digest
	blocks := m.rec.blocks()
	for at := uint64(0); at < blocks; at += m.window {
		n := min(m.window, blocks-at)
		sums, err := m.many(ctx, at, n, want)
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

// hoped returns the sums that a disk far away is asked to have, so that it need not send
// those that it has; nil for one that is here.
func (m *Master) hoped(ctx context.Context, d *vault.PointDisk) (*vault.Sums, error) {
	if m.cfg.Rescue == nil {
		return nil, nil
	}
	return m.cfg.Vault.SumsAt(ctx, m.cfg.Disk, d.At)
}

// many returns the sums of many blocks.
func (m *Master) many(ctx context.Context, start, count uint64, hoped *vault.Sums) ([]vault.Sum, error) {
	sums := make([]vault.Sum, count)
	g, ctx := errgroup.WithContext(ctx)
	next := atomic.Uint64{}
	piece := m.dev.piece()
	for range workers {
		g.Go(func() error {
			buf := m.dev.buffer()
			for {
				at := (next.Add(1) - 1) * piece
				if at >= count {
					return nil
				}
				r := run{start + at, min(piece, count-at)}
				var want []vault.Sum
				if hoped != nil {
					want = hoped.Read(r.start, int(r.count))
				}
				part, err := m.dev.sums(ctx, r, want, coarse, buf)
				if err != nil {
					return err
				}
				copy(sums[at:], part)
			}
		})
	}
	return sums, g.Wait()
}

// Finish says where the disk is that it is as at a point, verified.
func (m *Master) Finish(ctx context.Context, point string) error { return m.dev.done(ctx, point) }
