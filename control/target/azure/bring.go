package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

// Brought is what was done to make what is kept of a disk like a recovery point.
type Brought struct {
	Whole   bool  // all of the disk was looked at: it was new, or not known
	Sent    int64 // bytes
	Read    int64 // bytes that were there and were looked at
	Cleared int64 // bytes
}

// String tells of it.
func (b Brought) String() string {
	what := "the difference"
	if b.Whole {
		what = "the whole disk"
	}
	return fmt.Sprintf("%s: %d bytes sent, %d cleared, %d looked at", what, b.Sent, b.Cleared, b.Read)
}

// Bring makes what is kept like d. label and at tell people which recovery point that is.
// Whatever it was before, and wherever it is broken off, what is written down says what
// the bytes may be.
func (k *Kept) Bring(ctx context.Context, d target.Versioned, label string, at time.Time) (b Brought, err error) {
	if d.Size() != k.now.Size {
		return b, fmt.Errorf("azure: %s is kept of a disk of %d bytes, the disk has %d", k.key.name(), k.now.Size, d.Size())
	}
	if k.now.At == d.Version() && len(k.now.Going)+len(k.now.Doubt) == 0 {
		return b, nil
	}
	runs, sure, err := k.differ(ctx, d)
	if err != nil {
		return b, err
	}
	err = k.tell(ctx, func(c *known) {
		if !sure {
			c.At, c.Going, c.Doubt = "", nil, nil
		} else if !slices.Contains(c.Going, d.Version()) {
			c.Going = append(slices.Clone(c.Going), d.Version())
		}
	})
	if err != nil {
		return b, err
	}
	p := k.pages()
	if sure {
		err = p.patch(ctx, d, runs, &b)
	} else {
		b.Whole = true
		err = k.whole(ctx, p, d, &b)
	}
	b.Sent, b.Read = p.bytes.Load(), p.read.Load()
	if err != nil {
		return b, taken(err)
	}
	return b, k.tell(ctx, func(c *known) {
		c.At, c.Going, c.Doubt, c.Label, c.Time = d.Version(), nil, nil, label, at
		if b.Whole {
			c.Verified = time.Now()
		}
	})
}

// differ lists where what is kept may not be like d; sure is false if that cannot be said.
func (k *Kept) differ(ctx context.Context, d target.Versioned) (runs []span, sure bool, err error) {
	if k.now.At == "" || len(k.now.Going) >= mostGoing {
		return nil, false, nil
	}
	err = d.Since(ctx, append([]string{k.now.At}, k.now.Going...), func(off, length int64) bool {
		runs = append(runs, span{off, off + length})
		return true
	})
	if errors.Is(err, target.ErrNoVersion) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	for _, x := range k.now.Doubt {
		if x.off < k.now.Size {
			runs = append(runs, span{x.off, min(x.end, k.now.Size)})
		}
	}
	return sorted(runs), true, nil
}

// whole sends all of a disk, but for what is there and right.
func (k *Kept) whole(ctx context.Context, p *pages, d target.Restorer, b *Brought) error {
	all, err := p.list(ctx)
	if err != nil {
		return fmt.Errorf("azure: what is kept of %s: %w", k.key.name(), brief(err))
	}
	p.held, p.heldKnown, p.doubt = all, true, true
	q := p.pack(ctx)
	if err := q.end(d.Restore(q.ctx, q, k.cfg.Progress)); err != nil {
		return err
	}
	size := p.size - pageSize
	if err := p.put(ctx, size, k.key.footer(size)); err != nil {
		return err
	}
	p.sent.add(size, p.size)
	sent := p.sent.list()
	for _, x := range p.held { // what is zero now
		for _, y := range x.without(sent) {
			for ; y.off < y.end; y.off += clearOnce {
				part := span{y.off, min(y.end, y.off+clearOnce)}
				if err := p.clear(ctx, part); err != nil {
					return err
				}
				b.Cleared += part.end - part.off
			}
		}
	}
	if ok, err := p.verify(ctx); err != nil || !ok {
		return errors.Join(err, fmt.Errorf("azure: what is kept of %s is not what was sent", k.key.name()))
	}
	return nil
}

// clearOnce is how much is cleared by one request, in bytes.
const clearOnce = 1 << 30

// patch makes runs of a blob like those of d.
func (p *pages) patch(ctx context.Context, d io.ReaderAt, runs []span, b *Brought) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	zero := make(chan int64)
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for n := range zero {
			b.Cleared += n
		}
	}()
	for _, x := range runs {
		for ; x.off < x.end && ctx.Err() == nil; x.off += maxPut {
			part := span{x.off, min(x.end, x.off+maxPut)}
			g.Go(func() error { return p.patchOne(ctx, d, part, zero) })
		}
	}
	err := g.Wait()
	close(zero)
	<-counted
	return err
}

func (p *pages) patchOne(ctx context.Context, d io.ReaderAt, x span, zero chan<- int64) error {
	// A page is 512 bytes; the disk's last block may be shorter, its sectors are whole.
	buf := make([]byte, x.end-x.off)
	if n, err := d.ReadAt(buf, x.off); n < len(buf) || err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %d bytes at %d of the recovery point: %w", len(buf), x.off, errors.Join(err, io.ErrUnexpectedEOF))
	}
	none := make([]byte, target.BlockSize)
	isZero := func(i int) bool {
		part := buf[i:min(i+target.BlockSize, len(buf))]
		return bytes.Equal(part, none[:len(part)])
	}
	for i := 0; i < len(buf); {
		end, z := i, isZero(i)
		for end < len(buf) && isZero(end) == z {
			end = min(end+target.BlockSize, len(buf))
		}
		at := span{x.off + int64(i), x.off + int64(end)}
		if z {
			if err := p.clear(ctx, at); err != nil {
				return err
			}
			zero <- at.end - at.off
		} else if err := p.put(ctx, at.off, buf[i:end]); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// Change puts in the changes that d has over its base, which must be what is kept.
func (k *Kept) change(ctx context.Context, d *overlay.ChangedDisk) (b Brought, err error) {
	var runs []span
	d.Runs(func(off, length int64) bool {
		runs = append(runs, span{off, off + length})
		return true
	})
	if err := k.tell(ctx, func(c *known) { c.Doubt = sorted(append(slices.Clone(runs), c.Doubt...)) }); err != nil {
		return b, err
	}
	p := k.pages()
	err = p.patch(ctx, d, runs, &b)
	b.Sent = p.bytes.Load()
	return b, taken(err)
}

// Verified returns when all of it was last read, or sent, and compared.
func (k *Kept) Verified() time.Time { return k.now.Verified }

// Verify reads all that is kept and compares it with the digest of d. If it is not that, it
// is not known any more what it is: Bring then looks at all of it.
func (k *Kept) Verify(ctx context.Context, d target.Verifier) error {
	wrong, err := k.verify(ctx, d)
	if err != nil {
		return err // who knows
	}
	return errors.Join(wrong, k.tell(ctx, func(c *known) {
		if c.Verified = time.Now(); wrong != nil {
			c.At, c.Going, c.Doubt, c.Verified = "", nil, nil, time.Time{}
		}
	}))
}

// verify returns what is wrong with what is kept, and what kept it from being looked at.
func (k *Kept) verify(ctx context.Context, d target.Verifier) (wrong, err error) {
	p := k.pages()
	held, err := p.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("azure: what is kept of %s: %w", k.key.name(), brief(err))
	}
	r := &reading{ctx: ctx, p: p, held: held}
	if wrong = d.Verify(ctx, r); r.err != nil || ctx.Err() != nil {
		return nil, errors.Join(r.err, ctx.Err())
	} else if wrong != nil {
		return fmt.Errorf("what is kept of %s in Azure: %w", k.key.name(), wrong), nil
	}
	// What lies outside of what was read must be zero.
	var has spans
	d.Extents(func(off, length int64) bool { has.add(off, off+length); return true })
	has.add(p.size-pageSize, p.size)
	inside := has.list()
	for _, x := range held {
		for _, y := range x.without(inside) {
			buf := make([]byte, min(maxPut, y.end-y.off))
			for ; y.off < y.end; y.off += int64(len(buf)) {
				b := buf[:min(int64(len(buf)), y.end-y.off)]
				if err := p.readAt(ctx, b, y.off); err != nil {
					return nil, err
				}
				if len(bytes.Trim(b, "\x00")) > 0 {
					return fmt.Errorf("what is kept of %s in Azure has data at %d, the recovery point has none", k.key.name(), y.off), nil
				}
			}
		}
	}
	return nil, nil
}

// reading reads a blob's pages, and what it does not hold as zeros, in large pieces.
type reading struct {
	ctx  context.Context
	p    *pages
	held []span
	err  error // why it could not be read
}

// ReadAt implements io.ReaderAt.
func (r *reading) ReadAt(b []byte, off int64) (int, error) {
	clear(b)
	x := span{off, off + int64(len(b))}
	for _, y := range x.without(x.without(r.held)) {
		if r.err = r.p.readAt(r.ctx, b[y.off-off:y.end-off], y.off); r.err != nil {
			return 0, r.err
		}
	}
	return len(b), nil
}
