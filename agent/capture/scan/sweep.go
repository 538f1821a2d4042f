package scan

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Device is what is read; *disk.Disk is one.
type Device interface {
	Path() string
	Blocks() uint64
	ReadBlocks(ctx context.Context, start uint64, buf []byte) error
}

// Options bound the work. Zero values mean the defaults.
type Options struct {
	Workers        int    // goroutines that read and hash; default two per CPU, at most 16
	BytesPerSecond int64  // ceiling for reading; default none
	From           uint64 // first block to look at; to go on where Stats.Next says
	TableDir       string // of a Source: where its table lies; default in memory
}

// holed is a device that knows where it holds nothing.
type holed interface {
	// NextData is the first block from start on that may hold anything but zeros, the
	// number of blocks if there is none.
	NextData(start uint64) uint64
}

// chunkBlocks are read at once: large enough for any disk to be at its fastest, small
// enough to be hashed while it is still in the CPU's cache.
const chunkBlocks = 256

// holeBlocks of a hole are passed on at once.
const holeBlocks = wire.MaxSums

const chunkBytes = chunkBlocks * wire.BlockSize

func (o Options) withDefaults() Options {
	if o.Workers <= 0 {
		o.Workers = min(2*runtime.NumCPU(), 16)
	}
	return o
}

// chunk is a run of blocks on its way through a sweep.
type chunk struct {
	start uint64
	buf   []byte     // empty for a hole
	sums  []wire.Sum // never written to for a hole
	err   error
	done  chan struct{}
}

// noSums are those of a hole; never written.
var noSums [holeBlocks]wire.Sum

// sweep reads a device once from o.From to its end, several large reads at a time, sums
// up its blocks on several CPUs, and calls fn in ascending order. Memory is
// chunkBytes for each worker and two more.
func sweep(ctx context.Context, dev Device, o Options, fn func(*chunk) error) error {
	ctx, cancel := context.WithCancel(ctx)
	n := o.Workers + 2
	free, work, ordered := make(chan *buffer, n), make(chan *chunk, n), make(chan *chunk, n)
	for range n {
		free <- &buffer{disk.AlignedBuffer(chunkBytes), make([]wire.Sum, chunkBlocks)}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(work)
		defer close(ordered)
		plan(ctx, dev, o, free, func(c *chunk) bool {
			select {
			case ordered <- c:
			case <-ctx.Done():
				return false
			}
			if c.buf != nil {
				work <- c // has room for every buffer there is
			}
			return true
		})
	})
	for range o.Workers {
		wg.Go(func() {
			for c := range work {
				if c.err = dev.ReadBlocks(ctx, c.start, c.buf); c.err == nil {
					c.sum()
				}
				c.done <- struct{}{}
			}
		})
	}
	for c := range ordered {
		if c.buf != nil {
			<-c.done
		}
		if c.err != nil {
			return c.err
		}
		if err := fn(c); err != nil {
			return err
		}
		if c.buf != nil {
			free <- &buffer{c.buf[:chunkBytes], c.sums[:chunkBlocks]}
		}
	}
	return ctx.Err()
}

// buffer is what a chunk of data needs.
type buffer struct {
	buf  []byte
	sums []wire.Sum
}

// plan emits chunks in order until the end or cancellation.
func plan(ctx context.Context, dev Device, o Options, free <-chan *buffer, emit func(*chunk) bool) {
	began, done := time.Now(), int64(0)
	holes, _ := dev.(holed)
	end := dev.Blocks()
	for at := o.From; at < end; {
		if holes != nil {
			for next := min(holes.NextData(at), end); at < next; {
				n := min(next-at, holeBlocks)
				if !emit(&chunk{start: at, sums: noSums[:n]}) {
					return
				}
				at += n
			}
			if at == end {
				return
			}
		}
		if o.BytesPerSecond > 0 && !sleepUntil(ctx, began.Add(due(done, o.BytesPerSecond))) {
			return
		}
		var b *buffer
		select {
		case b = <-free:
		case <-ctx.Done():
			return
		}
		n := int(min(chunkBlocks, end-at))
		if !emit(&chunk{start: at, buf: b.buf[:n*wire.BlockSize], sums: b.sums[:n], done: make(chan struct{}, 1)}) {
			return
		}
		at += uint64(n)
		done += int64(n) * wire.BlockSize
	}
}

// due is the time after which so many bytes may have been read.
func due(bytes, perSecond int64) time.Duration {
	return time.Duration(float64(bytes) / float64(perSecond) * float64(time.Second))
}

func sleepUntil(ctx context.Context, at time.Time) bool {
	d := time.Until(at)
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// zeroRun is how many bytes are held against zeros at once: a compare of real data
// ends at its first word, so the test costs nothing there.
const zeroRun = 64 << 10

var zeros [zeroRun]byte // never written

// sum fills in the sums of a chunk's blocks.
func (c *chunk) sum() {
	for off := 0; off < len(c.buf); off += zeroRun {
		run := c.buf[off:min(off+zeroRun, len(c.buf))]
		sums := c.sums[off/wire.BlockSize:][:len(run)/wire.BlockSize]
		if bytes.Equal(run, zeros[:len(run)]) {
			clear(sums)
			continue
		}
		for i := range sums {
			sums[i] = wire.SumOf(run[i*wire.BlockSize : (i+1)*wire.BlockSize])
		}
	}
}

// fits checks that a run of blocks is on a disk.
func fits(start uint64, count int, blocks uint64) error {
	if start > blocks || uint64(count) > blocks-start {
		return fmt.Errorf("blocks %d+%d are beyond the end at %d", start, count, blocks)
	}
	return nil
}
