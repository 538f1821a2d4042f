package scan

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/streams/wire"
)

// Stats tell what a Compare or Take did.
type Stats struct {
	Blocks  uint64 // looked at
	Zero    uint64 // of these hold zeros
	Differ  uint64 // of these differ
	Next    uint64 // first block not done; the number of blocks when all is done
	Elapsed time.Duration
}

// meter counts while a sweep goes on.
type meter struct {
	Stats
	began time.Time
}

func newMeter() *meter { return &meter{began: time.Now()} }

func (m *meter) see(c *chunk) {
	m.Blocks += uint64(len(c.sums))
	if c.buf == nil {
		m.Zero += uint64(len(c.sums))
	}
	for i := range len(c.buf) / wire.BlockSize {
		if c.sums[i] == (wire.Sum{}) {
			m.Zero++
		}
	}
	m.Next = c.start + uint64(len(c.sums))
}

func (m *meter) stop() Stats {
	m.Elapsed = time.Since(m.began)
	return m.Stats
}

// Fetch gives the sums that the other side holds for blocks start to
// start+count-1, exactly count of them. count is at most wire.MaxSums.
type Fetch func(ctx context.Context, start uint64, count int) ([]wire.Sum, error)

// Nothing is the Fetch of another side that holds zeros only.
func Nothing(_ context.Context, _ uint64, count int) ([]wire.Sum, error) {
	if count > len(noSums) {
		return nil, fmt.Errorf("asked for %d sums, at most %d are given", count, len(noSums))
	}
	return noSums[:count], nil
}

// Compare reads a disk from o.From to its end, holds its blocks against the sums
// that fetch gives, and calls fn for each run of blocks that differ: their
// contents and sums, valid only during the call, at most 1 MiB, in ascending
// order. Sums are fetched ahead in one goroutine. Sending what fn is given saves
// reading it again; that is sound as long as a source that tracks changes was
// started before.
//
// When Compare fails, Stats.Next says where to go on; fn was called for
// everything before.
func Compare(ctx context.Context, dev Device, o Options, fetch Fetch, fn func(start uint64, blocks []byte, sums []wire.Sum) error) (Stats, error) {
	m := newMeter()
	m.Next = o.From
	ctx, cancel := context.WithCancel(ctx)
	theirs := fetchAhead(ctx, o.From, dev.Blocks(), fetch)
	defer func() {
		cancel()
		theirs.wait()
	}()
	err := sweep(ctx, dev, o.withDefaults(), func(c *chunk) error {
		for done := 0; done < len(c.sums); {
			have, err := theirs.next(len(c.sums) - done)
			if err != nil {
				return err
			}
			if c.buf == nil && &have[0] == &noSums[0] {
				done += len(have) // a hole, and nothing is there on the other side
				continue
			}
			for i, n := range runs(have, c.sums[done:done+len(have)]) {
				m.Differ += uint64(n)
				if err := c.hand(done+i, done+i+n, fn); err != nil {
					return err
				}
			}
			done += len(have)
		}
		m.see(c)
		return nil
	})
	return m.stop(), err
}

// hand calls fn for the blocks from to to-1 of a chunk.
func (c *chunk) hand(from, to int, fn func(start uint64, blocks []byte, sums []wire.Sum) error) error {
	if c.buf != nil {
		return fn(c.start+uint64(from), c.buf[from*wire.BlockSize:to*wire.BlockSize], c.sums[from:to])
	}
	for ; from < to; from += zeroRun / wire.BlockSize {
		n := min(zeroRun/wire.BlockSize, to-from)
		if err := fn(c.start+uint64(from), zeros[:n*wire.BlockSize], c.sums[from:from+n]); err != nil {
			return err
		}
	}
	return nil
}

// batch is one answer of a Fetch.
type batch struct {
	sums []wire.Sum
	err  error
}

// ahead fetches sums while others are used.
type ahead struct {
	batches chan batch
	current []wire.Sum
}

func fetchAhead(ctx context.Context, from, end uint64, fetch Fetch) *ahead {
	a := &ahead{batches: make(chan batch, 1)}
	go func() {
		defer close(a.batches)
		for at := from; at < end; {
			n := int(min(end-at, wire.MaxSums))
			sums, err := fetch(ctx, at, n)
			if err == nil && len(sums) != n {
				err = fmt.Errorf("asked for the sums of %d blocks at %d, got %d", n, at, len(sums))
			}
			select {
			case a.batches <- batch{sums, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
			at += uint64(n)
		}
	}()
	return a
}

// next gives up to n sums.
func (a *ahead) next(n int) ([]wire.Sum, error) {
	if len(a.current) == 0 {
		b, ok := <-a.batches
		if !ok {
			return nil, context.Canceled
		}
		if b.err != nil {
			return nil, b.err
		}
		a.current = b.sums
	}
	n = min(n, len(a.current))
	out := a.current[:n]
	a.current = a.current[n:]
	return out, nil
}

// wait ends with the goroutine, the context being cancelled.
func (a *ahead) wait() {
	for range a.batches {
	}
}
