package scan

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
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

// queueDepth is how many chunks are under way where the kernel keeps a queue.
const queueDepth = 12

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
	from  *buffer    // nil for a hole
	err   error
	done  chan struct{}
}

// noSums are those of a hole; never written.
var noSums [holeBlocks]wire.Sum

// queued is a device of which reads can be under way without a goroutine for each.
type queued interface {
	Queue(depth int) (disk.Reads, error)
}

// sweep reads a device once from o.From to its end, several large reads at a time, sums
// up its blocks on several CPUs, and calls fn in ascending order. Memory is chunkBytes
// for each read that is under way.
func sweep(ctx context.Context, dev Device, o Options, fn func(*chunk) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &reading{dev: dev, fail: cancel}
	depth := o.Workers + 2
	if q, ok := dev.(queued); ok {
		if reads, err := q.Queue(queueDepth); err == nil {
			depth, r.reads = queueDepth, reads
		}
	}
	mem, unmap := room(depth * chunkBytes)
	defer unmap()
	free, ordered := make(chan *buffer, depth), make(chan *chunk, depth)
	for i := range depth {
		free <- &buffer{i, mem[i*chunkBytes:][:chunkBytes], make([]wire.Sum, chunkBlocks)}
	}
	r.work, r.under = make(chan *chunk, depth), make([]atomic.Pointer[chunk], depth)
	var wg sync.WaitGroup
	defer func() {
		cancel(nil)
		wg.Wait()
		if r.reads != nil {
			r.reads.Close()
		}
	}()
	wg.Go(func() {
		defer close(r.work)
		defer close(ordered)
		plan(ctx, dev, o, free, func(c *chunk) bool {
			select {
			case ordered <- c:
			case <-ctx.Done():
				return false
			}
			if c.from != nil {
				r.begin(c)
			}
			return true
		})
	})
	for range o.Workers {
		wg.Go(func() { r.sum(ctx) })
	}
	for c := range ordered {
		if err := c.await(ctx); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
		if c.from != nil {
			free <- c.from
		}
	}
	return context.Cause(ctx)
}

// await waits until a chunk has been read and summed up.
func (c *chunk) await(ctx context.Context) error {
	if c.from == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reading is what the goroutines of a sweep share.
type reading struct {
	dev   Device
	reads disk.Reads              // nil: each goroutine waits for the read it has begun
	work  chan *chunk             // that were begun, or are to be; has room for every buffer there is
	under []atomic.Pointer[chunk] // reads under way, by tag
	fail  context.CancelCauseFunc
}

// begin begins to read a chunk.
func (r *reading) begin(c *chunk) {
	if r.reads != nil {
		r.under[c.from.tag].Store(c)
		if c.err = r.reads.Submit(c.from.tag, c.start, c.buf); c.err != nil {
			c.done <- struct{}{}
			return
		}
	}
	r.work <- c
}

// sum sums up chunks that have been read until there are no more. With a queue the chunk
// that it is told of says only that one more is under way.
func (r *reading) sum(ctx context.Context) {
	for c := range r.work {
		if r.reads == nil {
			c.err = r.dev.ReadBlocks(ctx, c.start, c.buf)
		} else {
			tag, err := r.reads.Wait()
			if tag < 0 {
				r.fail(err)
				return
			}
			c = r.under[tag].Load()
			c.err = err
		}
		if c.err == nil && ctx.Err() == nil {
			c.sum()
		}
		c.done <- struct{}{}
		runtime.Gosched() // to whoever hands on what is done, and begins to read again
	}
}

// buffer is what a chunk of data needs.
type buffer struct {
	tag  int
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
		if !emit(&chunk{start: at, buf: b.buf[:n*wire.BlockSize], sums: b.sums[:n], from: b, done: make(chan struct{}, 1)}) {
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
		wire.SumsOf(run, sums)
	}
}

// fits checks that a run of blocks is on a disk.
func fits(start uint64, count int, blocks uint64) error {
	if start > blocks || uint64(count) > blocks-start {
		return fmt.Errorf("blocks %d+%d are beyond the end at %d", start, count, blocks)
	}
	return nil
}
