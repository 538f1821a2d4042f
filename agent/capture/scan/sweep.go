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
	Workers        int    // goroutines that hash; default one per CPU, at most 8
	BytesPerSecond int64  // ceiling for reading; default none
	From           uint64 // first block to look at; to go on where Stats.Next says
}

// chunkBlocks are read at once: large enough for any disk to be at its fastest.
const chunkBlocks = 1024

const chunkBytes = chunkBlocks * wire.BlockSize

func (o Options) withDefaults() Options {
	if o.Workers <= 0 {
		o.Workers = min(runtime.NumCPU(), 8)
	}
	return o
}

// chunk is a run of blocks on its way through a sweep.
type chunk struct {
	start uint64
	buf   []byte
	sums  []wire.Sum
	err   error
	done  chan struct{}
}

// sweep reads a device once from o.From to its end, one large read at a time, sums
// up its blocks on several CPUs, and calls fn in ascending order. Memory is
// chunkBytes for each worker and two more.
func sweep(ctx context.Context, dev Device, o Options, fn func(*chunk) error) error {
	ctx, cancel := context.WithCancel(ctx)
	n := o.Workers + 2
	free, work, ordered := make(chan *chunk, n), make(chan *chunk, n), make(chan *chunk, n)
	for range n {
		free <- &chunk{buf: disk.AlignedBuffer(chunkBytes), sums: make([]wire.Sum, chunkBlocks), done: make(chan struct{}, 1)}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(work)
		defer close(ordered)
		read(ctx, dev, o, free, func(c *chunk) {
			ordered <- c
			work <- c
		})
	})
	for range o.Workers {
		wg.Go(func() {
			for c := range work {
				c.sum()
				c.done <- struct{}{}
			}
		})
	}
	for c := range ordered {
		<-c.done
		if c.err != nil {
			return c.err
		}
		if err := fn(c); err != nil {
			return err
		}
		free <- c
	}
	return ctx.Err()
}

// read fills free chunks in order until the end, an error, or cancellation.
func read(ctx context.Context, dev Device, o Options, free <-chan *chunk, emit func(*chunk)) {
	began, done := time.Now(), int64(0)
	end := dev.Blocks()
	for at := o.From; at < end; at += chunkBlocks {
		if o.BytesPerSecond > 0 && !sleepUntil(ctx, began.Add(due(done, o.BytesPerSecond))) {
			return
		}
		var c *chunk
		select {
		case c = <-free:
		case <-ctx.Done():
			return
		}
		n := int(min(chunkBlocks, end-at))
		c.start, c.buf, c.sums = at, c.buf[:n*wire.BlockSize], c.sums[:n]
		c.err = dev.ReadBlocks(ctx, at, c.buf)
		emit(c)
		if c.err != nil {
			return
		}
		done += int64(len(c.buf))
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
	if c.err != nil {
		return
	}
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
