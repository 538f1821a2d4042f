package blocks

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/streams/wire"
)

// FrameBlocks is how many blocks of data a frame holds: 256 KiB is where JetStream
// moves most bytes per second and where zstd has reached most of its ratio.
const FrameBlocks = 64

// room is kept before the data of a frame, so that a link is encoded around it and not
// copied: enough for 64 sums and a few hundred extents.
const room = 4 << 10

// bufferSize is the size of a frame's buffer, with one byte for what stands behind.
const bufferSize = room + FrameBlocks*wire.BlockSize + 1

// frame is one link in the making.
type frame struct {
	extents []wire.Extent
	sums    []wire.Sum // of the data blocks; empty: to be computed
	buf     []byte     // room, and behind it the data
	blocks  int
}

func (f *frame) data() []byte {
	if f.buf == nil {
		return nil
	}
	return f.buf[room:]
}

// Builder packs blocks into frames. Blocks must come in ascending order between
// two calls of Flush. It is used by one goroutine.
type Builder struct {
	p *Publisher
	f *frame
}

// Builder returns a new Builder that hands its frames to p.
func (p *Publisher) Builder() *Builder { return &Builder{p: p} }

// Add takes the contents of consecutive blocks from start on; data is a multiple
// of wire.BlockSize and may be used again when Add returns. sums are those of the
// blocks if the caller knows them, else nil: then they are computed on the way.
// Blocks of zeros become zero extents. Add blocks while the window is full.
func (b *Builder) Add(ctx context.Context, start uint64, data []byte, sums []wire.Sum) error {
	if len(data)%wire.BlockSize != 0 || sums != nil && len(sums) != len(data)/wire.BlockSize {
		return fmt.Errorf("add %d bytes with %d sums from block %d: want whole blocks with a sum each", len(data), len(sums), start)
	}
	for i := 0; len(data) > 0; i++ {
		block := data[:wire.BlockSize]
		data = data[wire.BlockSize:]
		var sum *wire.Sum
		if sums != nil {
			sum = &sums[i]
		}
		if err := b.one(ctx, start+uint64(i), block, sum); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) one(ctx context.Context, at uint64, block []byte, sum *wire.Sum) error {
	zero := false
	if sum != nil {
		zero = *sum == wire.Sum{}
	} else {
		zero = wire.IsZero(block)
	}
	if zero {
		return b.Zero(ctx, at, 1)
	}
	if b.f != nil && (b.f.blocks == FrameBlocks || (len(b.f.sums) > 0) != (sum != nil) && b.f.blocks > 0) {
		if err := b.Flush(ctx); err != nil {
			return err
		}
	}
	if err := b.extend(ctx, at, 1, wire.ExtentData); err != nil {
		return err
	}
	if b.f.buf == nil {
		b.f.buf = b.p.buffer()
	}
	b.f.buf = append(b.f.buf, block...)
	b.f.blocks++
	if sum != nil {
		b.f.sums = append(b.f.sums, *sum)
	}
	return nil
}

// Zero says that count blocks from start on read as zeros.
func (b *Builder) Zero(ctx context.Context, start, count uint64) error {
	for count > 0 {
		n := min(count, 1<<31)
		if err := b.extend(ctx, start, uint32(n), wire.ExtentZero); err != nil {
			return err
		}
		start, count = start+n, count-n
	}
	return nil
}

// extend grows the last extent or begins a new one; a frame out of extents is sent.
func (b *Builder) extend(ctx context.Context, start uint64, count uint32, kind wire.ExtentKind) error {
	if b.f != nil {
		if l := &b.f.extents[len(b.f.extents)-1]; l.Kind == kind && l.Start+uint64(l.Count) == start && uint64(l.Count)+uint64(count) <= 1<<31 {
			l.Count += count
			return nil
		}
		if len(b.f.extents) == wire.MaxExtents {
			if err := b.Flush(ctx); err != nil {
				return err
			}
		}
	}
	if b.f == nil {
		b.f = &frame{}
	}
	b.f.extents = append(b.f.extents, wire.Extent{Start: start, Count: count, Kind: kind})
	return nil
}

// Flush sends what is packed so far. It does not wait for JetStream.
func (b *Builder) Flush(ctx context.Context) error {
	if b.f == nil {
		return nil
	}
	f := b.f
	b.f = nil
	return b.p.put(ctx, f)
}
