package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// ReaderOptions tune a Reader. The zero value is a good choice.
type ReaderOptions struct {
	CacheBytes int64 // unpacked frames kept in memory; 0 means 64 MiB
	ReadAhead  int64 // bytes fetched ahead of sequential reads; 0 means 8 MiB, < 0 none
}

const (
	defaultCache     = 64 << 20
	defaultReadAhead = 8 << 20
	// maxRequest is how many stored bytes one request for frames fetches at most.
	maxRequest = 2 << 20
	// maxHeld is how many unpacked bytes one ReadAt holds at once, beside the cache.
	maxHeld = 8 << 20
	// fetchers is how many requests one ReadAt, or the read-ahead, makes at once.
	fetchers = 4
)

var errClosed = errors.New("reader is closed")

// Reader is a disk at a position. It may be used from many goroutines.
type Reader struct {
	now     atomic.Pointer[view]
	d       *disk
	at      Position
	size    int64
	digest  Digest
	budget  int64 // bytes of cache
	ahead   readAhead
	fetched atomic.Int64
	again   sync.Mutex // held while the view is renewed

	ctx    context.Context // ends with Close; fetches serve all who wait, not one caller
	cancel context.CancelCauseFunc
	mu     sync.Mutex
	closed bool           // mu guards
	wg     sync.WaitGroup // mu guards adding
}

// OpenAt opens a disk as it was at a position, which must end a segment, as every
// cut does. It reads the index of each segment the disk is made of; memory grows
// with how fragmented that is (16 bytes an extent), not with the size of the disk.
func (v *Vault) OpenAt(ctx context.Context, id DiskID, at Position, o ReaderOptions) (*Reader, error) {
	r, err := v.openAt(ctx, id, at, o)
	if err != nil {
		return nil, fmt.Errorf("open disk %s at %s: %w", id, at, err)
	}
	return r, nil
}

func (v *Vault) openAt(ctx context.Context, id DiskID, at Position, o ReaderOptions) (*Reader, error) {
	d, err := v.disk(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &Reader{d: d, at: at, budget: o.CacheBytes}
	if r.budget <= 0 {
		r.budget = defaultCache
	}
	last, err := r.renew(ctx)
	if err != nil {
		return nil, err
	}
	r.size, r.digest = int64(last.Size), last.Digest
	r.ahead.init(o.ReadAhead, r.budget)
	r.ctx, r.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	return r, nil
}

// view is what a Reader reads from: a choice of segments, of which Maintain may
// replace some while the Reader is open.
type view struct {
	blockMap
	r     *Reader
	cache *cache
}

// renew chooses the segments to read from, as they are now.
func (r *Reader) renew(ctx context.Context) (last *segment, err error) {
	var m mapBuilder
	err = steady(func() error {
		m = mapBuilder{}
		return r.d.build(ctx, r.at, func(s *segment) error {
			last = s
			return m.add(s)
		})
	})
	if err != nil {
		return nil, err
	}
	r.now.Store(&view{blockMap: m.done(), r: r, cache: newCache(r.budget)})
	return last, nil
}

// renewed makes sure that the view is another than w, which was found to be out of
// date.
func (r *Reader) renewed(w *view) error {
	r.again.Lock()
	defer r.again.Unlock()
	if r.now.Load() != w {
		return nil // somebody else did it
	}
	_, err := r.renew(r.ctx)
	return err
}

// current runs f with the view, and again with a new one if segments vanished.
func (r *Reader) current(f func(w *view) error) error {
	for try := 1; ; try++ {
		w := r.now.Load()
		err := f(w)
		if !errors.Is(err, errGone) || try == looks {
			return err
		}
		if err := r.renewed(w); err != nil {
			return err
		}
	}
}

// build calls yield for each segment that the disk at a position is made of, oldest
// first.
func (d *disk) build(ctx context.Context, at Position, yield func(*segment) error) error {
	h, err := d.history(ctx)
	if err != nil {
		return err
	}
	if h[at.Epoch] == nil || at.Number == 0 {
		return fmt.Errorf("%w: the vault has no such position", ErrNotFound)
	}
	line, err := d.lineage(ctx, h, at)
	if err != nil {
		return err
	}
	end := Position{}
	err = d.walk(ctx, nil, line.refs(), partIndex, func(s *segment) error {
		end = s.end()
		return yield(s)
	})
	switch {
	case err == nil && end == at:
		return nil
	case h.dropped(line):
		return fmt.Errorf("%w: the position is not kept any more: what it needs was folded into later ones", ErrNotFound)
	case err != nil:
		return err
	}
	return fmt.Errorf("%w: no segment ends there, the last before it ends at %s", ErrNotFound, end)
}

// Size returns the size of the disk in bytes.
func (r *Reader) Size() int64 { return r.size }

// Digest returns the digest that the vault recorded for the disk at this position.
func (r *Reader) Digest() Digest { return r.digest }

// BytesFetched returns how many bytes were read from the store for contents.
func (r *Reader) BytesFetched() int64 { return r.fetched.Load() }

// Close ends what is under way and waits for it. Reads fail from then on.
func (r *Reader) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel(errClosed)
	r.wg.Wait()
	return nil
}

// enter lets work begin that Close waits for.
func (r *Reader) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.wg.Add(1)
	}
	return !r.closed
}

// Extents calls yield for every run of bytes that may hold data, ascending, until it
// returns false. What lies between reads as zeros.
func (r *Reader) Extents(yield func(off, length int64) bool) {
	pieces := r.now.Load().pieces
	for i := 0; i < len(pieces); {
		start, end := pieces[i].start(), pieces[i].end()
		for i++; i < len(pieces) && pieces[i].start() == end; i++ {
			end = pieces[i].end()
		}
		off := int64(start) * BlockSize
		if off >= r.size || !yield(off, min(int64(end)*BlockSize, r.size)-off) {
			return
		}
	}
}

// ReadAt implements io.ReaderAt for any offset and length.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: %w: offset %d", r.d.id, ErrInvalid, off)
	}
	if off >= r.size {
		return 0, io.EOF
	}
	if !r.enter() {
		return 0, errClosed
	}
	defer r.wg.Done()
	n := int(min(int64(len(p)), r.size-off))
	r.readAhead(off, n)
	if err := r.current(func(w *view) error { return w.fill(p[:n], off) }); err != nil {
		return 0, fmt.Errorf("read %s at %s, offset %d: %w", r.d.id, r.at, off, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// fill reads p, whole, from off. It holds a bounded number of frames at once.
func (w *view) fill(p []byte, off int64) error {
	end := off + int64(len(p))
	i := w.from(uint64(off) / BlockSize)
	for {
		first, held := i, 0
		var ids []uint32
		for ; i < len(w.pieces) && int64(w.pieces[i].start())*BlockSize < end && held < maxHeld; i++ {
			if f := w.pieces[i].frame; len(ids) == 0 || ids[len(ids)-1] != f {
				ids = append(ids, f)
				held += w.frames[f].raw()
			}
		}
		upTo := end
		if i < len(w.pieces) {
			upTo = min(end, int64(w.pieces[i].start())*BlockSize)
		}
		part := p[:upTo-off]
		if err := w.copyPieces(part, off, w.pieces[first:i], ids); err != nil {
			return err
		}
		if upTo == end {
			return nil
		}
		p, off = p[len(part):], upTo
	}
}

// copyPieces reads p from off, where there is nothing but pieces, of frames ids.
func (w *view) copyPieces(p []byte, off int64, pieces []piece, ids []uint32) error {
	data, err := w.load(ids)
	if err != nil {
		return err
	}
	done := int64(0) // bytes of p
	for _, x := range pieces {
		from, to := int64(x.start())*BlockSize-off, int64(x.end())*BlockSize-off
		skip := max(0, -from)
		from, to = from+skip, min(to, int64(len(p)))
		clear(p[done:from])
		copy(p[from:to], data[x.frame].data[int64(x.off())*BlockSize+skip:])
		done = to
	}
	clear(p[done:])
	return nil
}

// load returns the entries of frames, all there.
func (w *view) load(ids []uint32) (map[uint32]*entry, error) {
	got := make(map[uint32]*entry, len(ids))
	var mine []*entry
	for _, id := range ids {
		if got[id] != nil {
			continue
		}
		e, fetch := w.cache.claim(id)
		got[id] = e
		if fetch {
			mine = append(mine, e)
		}
	}
	w.fetch(mine)
	for _, e := range got {
		<-e.done // whoever claimed it completes it, also when the reader is closed
		if e.err != nil {
			return nil, e.err
		}
	}
	return got, nil
}

// fetch completes entries that the caller has claimed, in as few requests as it can.
func (w *view) fetch(mine []*entry) {
	ids := make([]uint32, len(mine))
	for i, e := range mine {
		ids[i] = e.frame
	}
	runs := w.runs(ids, maxRequest)
	var wg sync.WaitGroup
	slots := make(chan struct{}, fetchers)
	for i, run := range runs {
		entries := mine[:len(run)]
		mine = mine[len(run):]
		if i == len(runs)-1 {
			w.fetchRun(run, entries) // the last one, and most often the only one, here
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			w.fetchRun(run, entries)
			<-slots
		})
	}
	wg.Wait()
}

func (w *view) fetchRun(run []uint32, entries []*entry) {
	done := 0
	err := w.request(w.r.ctx, run, func(f *frameRef, data []byte) error {
		var buf []byte
		if f.codec != format.CodecRaw || len(run) > 1 { // do not keep a whole request for one frame
			buf = make([]byte, 0, f.raw())
		}
		raw, err := w.unpack(buf, f, data)
		if err != nil {
			return err
		}
		w.cache.complete(entries[done], raw, nil)
		done++
		return nil
	})
	for _, e := range entries[done:] {
		w.cache.complete(e, nil, err)
	}
}

// request reads a run of frames and calls yield with the data of each, still packed.
func (w *view) request(ctx context.Context, run []uint32, yield func(f *frameRef, data []byte) error) error {
	first, last := &w.frames[run[0]], &w.frames[run[len(run)-1]]
	from := &w.sources[first.source]
	key := w.r.d.keyOf(from.segmentRef)
	b, err := w.r.d.v.st.Get(ctx, key, int64(first.offset), int64(last.offset+last.length-first.offset))
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return gone(damaged(key, err))
	}
	w.r.fetched.Add(int64(len(b)))
	box := w.r.d.box(from.segmentRef, from.salt)
	for _, id := range run {
		f := &w.frames[id]
		at := f.offset - first.offset
		data, err := box.Open(b[at:at+f.length:at+f.length], seal.Frame, uint64(f.ordinal), nil)
		if err == nil {
			data, err = format.SplitFrame(data)
		}
		if err == nil {
			err = yield(f, data)
		}
		if err != nil {
			return damaged(key, fmt.Errorf("frame %d: %w", f.ordinal, err))
		}
	}
	return nil
}

// unpack returns the blocks of a frame: in the room of buf, or data itself if that is
// raw and buf is nil.
func (w *view) unpack(buf []byte, f *frameRef, data []byte) ([]byte, error) {
	return unpack(w.r.d.v.codec, buf, f.codec, f.raw(), data)
}

func unpack(c codec, buf []byte, how format.Codec, size int, data []byte) ([]byte, error) {
	switch {
	case how == format.CodecZstd:
		raw, err := c.DecodeAll(data, buf[:0:min(cap(buf), size)])
		if err != nil {
			return nil, contradiction("it does not unpack: %v", err)
		}
		data = raw
	case buf != nil:
		data = append(buf[:0], data...)
	}
	if len(data) != size {
		return nil, contradiction("it unpacks to %d bytes, not %d", len(data), size)
	}
	return data, nil
}
