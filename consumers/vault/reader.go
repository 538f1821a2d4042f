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
	last, err := r.renew(ctx, false)
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
	stack
	r     *Reader
	cache *cache[frameID, []byte]
}

// renew chooses what to read from, as it is now: maps where there are any, unless
// plain says to do without.
func (r *Reader) renew(ctx context.Context, plain bool) (last *segment, err error) {
	var s stack
	with := []choice{(*disk).quick, (*disk).mapped, (*disk).plain}
	if plain {
		with = with[2:]
	}
	for _, choose := range with {
		// A map that nobody repaired may be in the way, also by standing for segments that
		// now have other limits. What is wrong without maps is wrong.
		err = steady(func() error {
			s, last, err = r.d.stack(ctx, r.at, choose)
			return err
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return nil, r.d.explain(ctx, r.at, err)
	}
	size := func(b []byte) int64 { return int64(len(b)) }
	r.now.Store(&view{stack: s, r: r, cache: newCache[frameID](r.budget, size)})
	return last, nil
}

// explain says of an error that it only means that a position is not kept any more.
func (d *disk) explain(ctx context.Context, at Position, err error) error {
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrDamaged) || errors.Is(err, errGone) {
		return err
	}
	h, err2 := d.history(ctx)
	if err2 != nil || h[at.Epoch] == nil {
		return err
	}
	if line, err2 := d.lineage(ctx, h, at); err2 == nil && h.dropped(line) {
		return fmt.Errorf("%w: the position is not kept any more: what it needs was folded into later ones", ErrNotFound)
	}
	return err
}

// renewed makes sure that the view is another than w, which was found to be out of
// date.
func (r *Reader) renewed(w *view, plain bool) error {
	r.again.Lock()
	defer r.again.Unlock()
	if r.now.Load() != w {
		return nil // somebody else did it
	}
	_, err := r.renew(r.ctx, plain)
	return err
}

// current runs f with the view, and again with a new one if segments vanished or a map
// cannot be used.
func (r *Reader) current(f func(w *view) error) error {
	for try := 1; ; try++ {
		w := r.now.Load()
		err := f(w)
		bad := errors.Is(err, errMap)
		if !bad && !errors.Is(err, errGone) || try == looks {
			return err
		}
		// A map may name segments that are gone: the last tries do without.
		if err := r.renewed(w, bad || try > 1); err != nil {
			return err
		}
	}
}

// stack returns the layers that the disk at a position is made of, and the last
// segment or map.
func (d *disk) stack(ctx context.Context, at Position, choose choice) (s stack, last *segment, err error) {
	k := &mapMaker{d: d, parts: newParts(partsBudget), bottom: true}
	err = d.build(ctx, at, choose, func(x *segment) error { return k.add(ctx, x) })
	if err != nil {
		return nil, nil, err
	}
	k.flush()
	return k.newestFirst(), k.last, nil
}

// choice returns what to read for the disk at a position, oldest first; nil if it
// cannot tell.
type choice func(d *disk, ctx context.Context, at Position) (lineage, error)

// build calls yield for each segment or map that the disk at a position is made of,
// oldest first.
func (d *disk) build(ctx context.Context, at Position, choose choice, yield func(*segment) error) error {
	if at.Epoch == 0 || at.Number == 0 {
		return fmt.Errorf("%w: the vault has no such position", ErrNotFound)
	}
	line, err := choose(d, ctx, at)
	if err != nil {
		return err
	}
	end := Position{}
	err = d.walk(ctx, nil, line.refs(), partIndex, func(s *segment) error {
		end = s.end()
		return yield(s)
	})
	if err == nil && end != at {
		err = fmt.Errorf("%w: no segment ends there, the last before it ends at %s", ErrNotFound, end)
	}
	return err
}

// mapped chooses maps and segments.
func (d *disk) mapped(ctx context.Context, at Position) (lineage, error) {
	h, err := d.history(ctx)
	if err != nil {
		return nil, err
	}
	return d.lineageOf(ctx, h, at, (*epochRefs).mapped)
}

// plain chooses segments only.
func (d *disk) plain(ctx context.Context, at Position) (lineage, error) {
	h, err := d.history(ctx)
	if err != nil {
		return nil, err
	}
	if h[at.Epoch] == nil {
		return nil, fmt.Errorf("%w: the vault has no such position", ErrNotFound)
	}
	return d.lineage(ctx, h, at)
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

// chunk is how many blocks a window has when all of the disk is wanted: 2 GiB.
const chunk = 1 << 19

// Extents calls yield for every run of bytes that may hold data, ascending, until it
// returns false. What lies between reads as zeros. Where the vault does not tell, for
// it cannot be read, there may be data: who reads it will see the error.
func (r *Reader) Extents(yield func(off, length int64) bool) {
	start, end := int64(-1), int64(0) // the run so far
	more := true
	add := func(from, to int64) bool {
		if start >= 0 && from > end {
			more = yield(start, end-start)
			start = -1
		}
		if start < 0 {
			start = from
		}
		end = to
		return more
	}
	err := r.current(func(w *view) error {
		at := uint64(end) / BlockSize // a second try goes on
		return w.chunks(at, func(m *blockMap, from, to uint64) error {
			for _, p := range m.pieces {
				off := int64(max(p.start(), from)) * BlockSize
				if off >= r.size || !add(off, min(int64(min(p.end(), to))*BlockSize, r.size)) {
					return io.EOF
				}
			}
			return nil
		})
	})
	if err != nil && !errors.Is(err, io.EOF) && more && end < r.size {
		add(end, r.size)
	}
	if more && start >= 0 {
		yield(start, end-start)
	}
}

// chunks calls f with the windows of the disk from block at on, one after the other.
// When all is in memory anyway there is one.
func (w *view) chunks(at uint64, f func(m *blockMap, from, to uint64) error) error {
	step, end := uint64(chunk), blocksOf(uint64(w.r.size))
	if w.inMemory() {
		step = end
	}
	for from := at; from < end; from += step {
		to := min(from+step, end)
		m, err := w.window(w.r.ctx, from, to)
		if err == nil {
			err = f(m, from, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
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
	for len(p) > 0 {
		part := p[:min(len(p), maxWindow-int(off%BlockSize))]
		m, err := w.window(w.r.ctx, uint64(off)/BlockSize, blocksOf(uint64(off)+uint64(len(part))))
		if err == nil {
			err = w.fillFrom(m, part, off)
		}
		if err != nil {
			return err
		}
		p, off = p[len(part):], off+int64(len(part))
	}
	return nil
}

// maxWindow is how many bytes of the disk are looked up at once.
const maxWindow = 64 << 20

func (w *view) fillFrom(m *blockMap, p []byte, off int64) error {
	end := off + int64(len(p))
	i := m.from(uint64(off) / BlockSize)
	for {
		first, held := i, 0
		var ids []uint32
		for ; i < len(m.pieces) && int64(m.pieces[i].start())*BlockSize < end && held < maxHeld; i++ {
			if f := m.pieces[i].frame; len(ids) == 0 || ids[len(ids)-1] != f {
				ids = append(ids, f)
				held += m.frames[f].raw()
			}
		}
		upTo := end
		if i < len(m.pieces) {
			upTo = min(end, int64(m.pieces[i].start())*BlockSize)
		}
		part := p[:upTo-off]
		if err := w.copyPieces(m, part, off, m.pieces[first:i], ids); err != nil {
			return err
		}
		if upTo == end {
			return nil
		}
		p, off = p[len(part):], upTo
	}
}

// copyPieces reads p from off, where there is nothing but pieces, of frames ids.
func (w *view) copyPieces(m *blockMap, p []byte, off int64, pieces []piece, ids []uint32) error {
	data, err := w.load(m, ids)
	if err != nil {
		return err
	}
	done := int64(0) // bytes of p
	for _, x := range pieces {
		from, to := int64(x.start())*BlockSize-off, int64(x.end())*BlockSize-off
		skip := max(0, -from)
		from, to = from+skip, min(to, int64(len(p)))
		clear(p[done:from])
		copy(p[from:to], data[x.frame].value[int64(x.off())*BlockSize+skip:])
		done = to
	}
	clear(p[done:])
	return nil
}

// frameEntry is a frame in the cache.
type frameEntry = entry[frameID, []byte]

// load returns the entries of frames, all there.
func (w *view) load(m *blockMap, ids []uint32) (map[uint32]*frameEntry, error) {
	got := make(map[uint32]*frameEntry, len(ids))
	var mine []*frameEntry
	var todo []uint32
	for _, id := range ids {
		if got[id] != nil {
			continue
		}
		e, fetch := w.cache.claim(m.frames[id].id())
		got[id] = e
		if fetch {
			mine = append(mine, e)
			todo = append(todo, id)
		}
	}
	w.fetch(m, todo, mine)
	for _, e := range got {
		<-e.done // whoever claimed it completes it, also when the reader is closed
		if e.err != nil {
			return nil, e.err
		}
	}
	return got, nil
}

// fetch completes entries that the caller has claimed, in as few requests as it can.
func (w *view) fetch(m *blockMap, ids []uint32, mine []*frameEntry) {
	runs := m.runs(ids, maxRequest)
	var wg sync.WaitGroup
	slots := make(chan struct{}, fetchers)
	for i, run := range runs {
		entries := mine[:len(run)]
		mine = mine[len(run):]
		if i == len(runs)-1 {
			w.fetchRun(m, run, entries) // the last one, and most often the only one, here
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			w.fetchRun(m, run, entries)
			<-slots
		})
	}
	wg.Wait()
}

func (w *view) fetchRun(m *blockMap, run []uint32, entries []*frameEntry) {
	done := 0
	err := w.request(w.r.ctx, m, run, func(f *frameRef, data []byte) error {
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
func (w *view) request(ctx context.Context, m *blockMap, run []uint32, yield func(f *frameRef, data []byte) error) error {
	first, last := &m.frames[run[0]], &m.frames[run[len(run)-1]]
	from, err := w.source(ctx, first)
	if err != nil {
		return err
	}
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
		f := &m.frames[id]
		at := f.offset - first.offset
		data, err := box.Open(b[at:at+f.length:at+f.length], seal.Frame, uint64(f.ordinal), nil)
		if err == nil {
			data, err = format.SplitFrame(data)
		}
		if err == nil {
			err = yield(f, data)
		}
		if err != nil {
			err = damaged(key, fmt.Errorf("frame %d: %w", f.ordinal, err))
			if _, ok := w.stack[f.layer].(*chart); ok {
				err = unusable(err) // the segment may be another than the map knew
			}
			return err
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
