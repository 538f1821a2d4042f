package vault

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"
)

// RestoreOptions tune Restore. The zero value is a good choice.
type RestoreOptions struct {
	// Progress is told how many bytes of data of how many are written. Calls do not
	// overlap.
	Progress func(done, total int64)
	Workers  int // that unpack and write at once; 0 means 4
	// Zero writes zeros too, because the destination is not known to be zero. If it
	// has a method WriteZeros(off, n int64) error, that is used.
	Zero bool
}

// RestoreResult says what Restore did.
type RestoreResult struct {
	Data    int64 // bytes of data written
	Zeros   int64 // bytes of zeros written
	Fetched int64 // bytes read from the store
	Digest  Digest
	Took    time.Duration
}

// WriteZeros is implemented by destinations that can clear a range in a better way
// than by writing it.
type zeroWriter interface {
	WriteZeros(off, n int64) error
}

const defaultWorkers = 4

// Restore writes the disk to dst and makes sure that what it wrote has the digest
// which the vault recorded; if not, it returns ErrDamaged. Runs of data are written
// roughly in the order of the disk, by several workers at once, each frame fetched
// once. Nothing is written beyond Size, and dst is not truncated or synced.
func (r *Reader) Restore(ctx context.Context, dst io.WriterAt, o RestoreOptions) (RestoreResult, error) {
	if !r.enter() {
		return RestoreResult{}, errClosed
	}
	defer r.wg.Done()
	started := time.Now()
	var res RestoreResult
	err := r.current(func(w *view) error {
		j := &restore{view: w, dst: dst, progress: o.Progress}
		if o.Progress != nil {
			r.Extents(func(_, length int64) bool { j.total += length; return true })
		}
		j.result.Fetched = res.Fetched // segments vanished: from the beginning
		err := j.run(ctx, o)
		res = j.result
		return err
	})
	res.Took = time.Since(started)
	if err != nil {
		return res, fmt.Errorf("restore %s at %s: %w", r.d.id, r.at, err)
	}
	if res.Digest != r.digest {
		return res, &DamageError{
			Key:  segmentsPrefix(r.d.id),
			What: fmt.Sprintf("the disk at %s has digest %x, the vault recorded %x", r.at, res.Digest[:8], r.digest[:8]),
			Try:  "run `leeward vault check --read-data` to find out which segment it is, and restore another point", err: errContent,
		}
	}
	return res, nil
}

// restore is one run of Restore.
type restore struct {
	*view
	dst   io.WriterAt
	total int64 // bytes of data

	mu       sync.Mutex
	progress func(done, total int64)
	result   RestoreResult // mu guards
}

// restorePart is a part of the disk.
type restorePart struct {
	*blockMap
	order []uint32 // frames, by the first block that each maps
	head  []uint32 // by frame: its first piece
	next  []uint32 // by piece: the next one of its frame, or noPiece
}

const noPiece = math.MaxUint32

func newRestorePart(m *blockMap, from, to uint64) *restorePart {
	if len(m.pieces) > 0 && (m.pieces[0].start() < from || m.pieces[len(m.pieces)-1].end() > to) {
		m = &blockMap{pieces: slices.Clone(m.pieces), frames: m.frames} // what is beyond is in another part
		for i, p := range m.pieces {
			m.pieces[i] = p.cut(max(p.start(), from), min(p.end(), to))
		}
	}
	j := &restorePart{blockMap: m, head: make([]uint32, len(m.frames)), next: make([]uint32, len(m.pieces))}
	tail := make([]uint32, len(m.frames))
	for i := range j.head {
		j.head[i] = noPiece
	}
	for i, p := range m.pieces {
		j.next[i] = noPiece
		if j.head[p.frame] == noPiece {
			j.head[p.frame] = uint32(i)
			j.order = append(j.order, p.frame)
		} else {
			j.next[tail[p.frame]] = uint32(i)
		}
		tail[p.frame] = uint32(i)
	}
	return j
}

// clip is how many bytes of the disk a piece covers.
func (r *Reader) clip(p piece) int64 {
	return max(0, min(int64(p.end())*BlockSize, r.size)-int64(p.start())*BlockSize)
}

// stretch is work for one worker: a run of frames, or zeros.
type stretch struct {
	part     *restorePart
	run      []uint32
	off, end int64 // bytes of zeros
}

// run works until all is written or something fails.
func (j *restore) run(ctx context.Context, o RestoreOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(j.r.ctx, func() { cancel(errClosed) }) // Close ends it
	defer stop()
	workers := o.Workers
	if workers <= 0 {
		workers = defaultWorkers
	}
	todo := make(chan stretch)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			w := restoreWorker{restore: j}
			for s := range todo {
				if err := w.do(ctx, s); err != nil {
					cancel(err)
					break
				}
			}
			for range todo { // let the feeder end
			}
			j.mu.Lock()
			j.result.Digest.add(w.digest)
			j.mu.Unlock()
		})
	}
	if err := j.feed(ctx, todo, o.Zero); err != nil {
		cancel(err)
	}
	close(todo)
	wg.Wait()
	return context.Cause(ctx)
}

func (j *restore) feed(ctx context.Context, todo chan<- stretch, zero bool) error {
	send := func(s stretch) error {
		select {
		case todo <- s:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	err := j.chunks(0, func(m *blockMap, from, to uint64) error {
		part := newRestorePart(m, from, to)
		for _, run := range part.runs(part.order, maxRequest) {
			if err := send(stretch{part: part, run: run}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !zero {
		return err
	}
	const piece = 256 << 20
	at := int64(0)
	gap := func(end int64) bool {
		for ; at < end; at = min(at+piece, end) {
			if err = send(stretch{off: at, end: min(at+piece, end)}); err != nil {
				return false
			}
		}
		return true
	}
	j.r.Extents(func(off, length int64) bool {
		ok := gap(off)
		at = off + length
		return ok
	})
	gap(j.r.size)
	return err
}

// restoreWorker unpacks and writes. What lies side by side on the disk and in its
// buffer is written at once.
type restoreWorker struct {
	*restore
	digest Digest
	buf    []byte
	sums   []Sum
	zeros  []byte
}

func (w *restoreWorker) do(ctx context.Context, s stretch) error {
	if s.run == nil {
		return w.writeZeros(ctx, s)
	}
	w.buf = w.buf[:0]
	size := 0
	for _, id := range s.run {
		size += s.part.frames[id].raw()
	}
	if cap(w.buf) < size {
		w.buf = make([]byte, 0, size)
	}
	var todo pending
	i := 0
	fetched := int64(0)
	err := w.request(ctx, s.part.blockMap, s.run, func(f *frameRef, data []byte) error {
		fetched += int64(f.length)
		from := len(w.buf)
		room := w.buf[from:from:cap(w.buf)]
		if _, err := w.unpack(room, f, data); err != nil {
			return err
		}
		w.buf = w.buf[:from+f.raw()]
		for p := s.part.head[s.run[i]]; p != noPiece; p = s.part.next[p] {
			if err := w.take(&todo, s.part.pieces[p], from); err != nil {
				return err
			}
		}
		i++
		return nil
	})
	if err == nil {
		err = todo.flush(w)
	}
	w.report(todo.written, 0, fetched)
	return err
}

// take adds piece p, whose frame lies in the buffer from byte from on.
func (w *restoreWorker) take(todo *pending, p piece, from int) error {
	at := from + int(p.off())*BlockSize
	n := int(p.count)
	w.sums = slices.Grow(w.sums[:0], n)[:n]
	sumsOf(w.buf[at:at+n*BlockSize], w.sums)
	for i, s := range w.sums {
		w.digest.apply(p.start()+uint64(i), s, false)
	}
	off, length := int64(p.start())*BlockSize, w.r.clip(p)
	if todo.n > 0 && todo.off+todo.n == off && todo.at+int(todo.n) == at {
		todo.n += length
		return nil
	}
	if err := todo.flush(w); err != nil {
		return err
	}
	todo.off, todo.at, todo.n = off, at, length
	return nil
}

// pending is a write that may still grow.
type pending struct {
	off     int64 // on the disk
	at      int   // in the buffer
	n       int64
	written int64
}

func (t *pending) flush(w *restoreWorker) error {
	if t.n <= 0 {
		return nil
	}
	if _, err := w.dst.WriteAt(w.buf[t.at:t.at+int(t.n)], t.off); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", t.n, t.off, err)
	}
	t.written += t.n
	t.n = 0
	return nil
}

func (w *restoreWorker) writeZeros(ctx context.Context, s stretch) error {
	if z, ok := w.dst.(zeroWriter); ok {
		if err := z.WriteZeros(s.off, s.end-s.off); err != nil {
			return fmt.Errorf("write zeros at %d: %w", s.off, err)
		}
		w.report(0, s.end-s.off, 0)
		return nil
	}
	if w.zeros == nil {
		w.zeros = make([]byte, 1<<20)
	}
	for s.off < s.end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(s.end-s.off, int64(len(w.zeros)))
		if _, err := w.dst.WriteAt(w.zeros[:n], s.off); err != nil {
			return fmt.Errorf("write %d zeros at %d: %w", n, s.off, err)
		}
		s.off += n
		w.report(0, n, 0)
	}
	return nil
}

func (j *restore) report(data, zeros, fetched int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.result.Data += data
	j.result.Zeros += zeros
	j.result.Fetched += fetched
	if j.progress != nil && data > 0 {
		j.progress(j.result.Data, j.total)
	}
}
