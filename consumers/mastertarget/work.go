package mastertarget

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/rescue"
)

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
			n := min(r.count, w.m.dev.piece(), left)
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
		if err := w.advance(ctx, done); err != nil {
			return err
		}
	}
	return w.advance(ctx, w.m.rec.blocks())
}

// advance makes what was written durable, and then that it was.
func (w *work) advance(ctx context.Context, done uint64) error {
	if err := w.m.dev.sync(ctx); err != nil {
		return err
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
			buf, b := w.m.dev.buffer(), &batch{data: make([]byte, 0, batchBytes)}
			for {
				i := next.Add(1) - 1
				if i >= int64(len(pieces)) {
					return nil
				}
				if err := w.piece(ctx, pieces[i], buf, b); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// batch is what is to be written next: contents, and where they belong.
type batch struct {
	extents []rescue.Extent
	data    []byte
}

// batchBytes is how much of it there is at most.
const batchBytes = rescue.MaxData

// piece makes one piece as it is at the goal.
func (w *work) piece(ctx context.Context, r run, buf []byte, b *batch) error {
	want := w.goal.Read(r.start, int(r.count))
	have, err := w.m.dev.sums(ctx, r, want, fine, buf)
	if err != nil {
		return err
	}
	w.looked.Add(int64(r.count) * vault.BlockSize)
	var zeros []rescue.Extent
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
		if zero {
			off := int64(r.start+uint64(i)) * vault.BlockSize
			length := min(int64(n)*vault.BlockSize, int64(w.m.cfg.Size)-off)
			w.zeroed.Add(length)
			zeros = append(zeros, rescue.Extent{Offset: uint64(off), Length: uint64(length)})
		} else if err := w.put(ctx, r.start+uint64(i), want[i:i+n], b); err != nil {
			return err
		}
		i += n
	}
	if len(zeros) > 0 {
		if err := w.m.dev.zero(ctx, zeros); err != nil {
			return err
		}
	}
	return w.flush(ctx, b)
}

// put adds blocks that differ to what is written next.
func (w *work) put(ctx context.Context, start uint64, want []vault.Sum, b *batch) error {
	for len(want) > 0 {
		if len(b.data) > batchBytes-vault.BlockSize {
			if err := w.flush(ctx, b); err != nil {
				return err
			}
		}
		n := min(len(want), (batchBytes-len(b.data))/vault.BlockSize)
		off := int64(start) * vault.BlockSize
		length := min(int64(n)*vault.BlockSize, int64(w.m.cfg.Size)-off)
		was := len(b.data)
		b.data = b.data[:was+n*vault.BlockSize]
		data := b.data[was:]
		clear(data[length:])
		if _, err := w.from.ReadAt(data[:length], off); err != nil && err != io.EOF {
			return err
		}
		for i := range n {
			// What is written here nobody reads again before it is trusted.
			if vault.SumOf(data[i*vault.BlockSize:][:vault.BlockSize]) != want[i] {
				return fmt.Errorf("block %d is not what its sum says: run leeward vault check", start+uint64(i))
			}
		}
		b.data = b.data[:was+int(length)]
		b.extents = append(b.extents, rescue.Extent{Offset: uint64(off), Length: uint64(length)})
		start, want = start+uint64(n), want[n:]
	}
	return nil
}

// flush writes what was put.
func (w *work) flush(ctx context.Context, b *batch) error {
	if len(b.data) == 0 {
		return nil
	}
	if err := w.m.dev.write(ctx, b.extents, b.data); err != nil {
		return err
	}
	w.written.Add(int64(len(b.data)))
	b.extents, b.data = b.extents[:0], b.data[:0]
	return nil
}
