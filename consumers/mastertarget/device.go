package mastertarget

import (
	"context"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/home"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/rescue"
	"github.com/leeward-dr/leeward/streams/wire"
)

// device is the disk at home: on this host, or in a rescue.
type device interface {
	// piece is how many blocks are read and compared at once.
	piece() uint64
	// buffer is what sums needs.
	buffer() []byte
	// sums returns those of blocks of the disk. want, if there is any, is what they should
	// be: a disk far away sends no sums of groups that are the same.
	sums(ctx context.Context, r run, want []vault.Sum, group uint32, buf []byte) ([]vault.Sum, error)
	// write writes data, piece by piece where the extents say.
	write(ctx context.Context, to []rescue.Extent, data []byte) error
	zero(ctx context.Context, to []rescue.Extent) error
	// sync returns when all that was written and zeroed is on stable storage.
	sync(ctx context.Context) error
	// dropCaches lets the next sums be of what the disk itself holds.
	dropCaches()
	// done says that the disk is as at a point.
	done(ctx context.Context, point string) error
	close() error
}

// How many blocks share a tag: few where some are expected to differ, many where none is.
const (
	fine   = 8
	coarse = 256
)

// local is a disk on this host.
type local struct {
	d    *home.Disk
	size uint64 // of the protected disk
}

// localPiece is 1 MiB.
const localPiece = 256

func (*local) piece() uint64 { return localPiece }

func (*local) buffer() []byte { return disk.AlignedBuffer(localPiece * vault.BlockSize) }

func (l *local) sums(ctx context.Context, r run, _ []vault.Sum, _ uint32, buf []byte) ([]vault.Sum, error) {
	own := make([]wire.Sum, r.count)
	if err := l.d.Sums(ctx, r.start, l.size, own, buf); err != nil {
		return nil, err
	}
	return vaultSums(own), nil
}

func vaultSums(all []wire.Sum) []vault.Sum {
	out := make([]vault.Sum, len(all))
	for i := range all {
		out[i] = vault.Sum(all[i])
	}
	return out
}

func (l *local) write(_ context.Context, to []rescue.Extent, data []byte) error {
	for _, e := range to {
		if err := l.d.WriteAt(data[:e.Length], int64(e.Offset)); err != nil {
			return err
		}
		data = data[e.Length:]
	}
	return nil
}

func (l *local) zero(_ context.Context, to []rescue.Extent) error {
	for _, e := range to {
		if err := l.d.Zero(int64(e.Offset), int64(e.Length)); err != nil {
			return err
		}
	}
	return nil
}

func (l *local) sync(context.Context) error { return l.d.Sync() }

func (l *local) dropCaches() { l.d.DropCaches() }

func (*local) done(context.Context, string) error { return nil }

func (l *local) close() error { return l.d.Close() }
