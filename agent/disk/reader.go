package disk

import (
	"context"
	"fmt"
	"iter"
	"sync"
)

// ReadOptions bound a Reader. Zero values mean the defaults.
type ReadOptions struct {
	Depth   int // reads in flight; default 32
	Bytes   int // memory for blocks being read, in bytes; default 16 MiB, at least MaxRead
	MaxRead int // largest piece handed on at once, in bytes; default 1 MiB
	Gap     int // unwanted bytes between two ranges that are read along rather than
	// starting another read; default 16 KiB (128 KiB on rotating disks), negative: none
}

func (o ReadOptions) withDefaults(rotational bool) ReadOptions {
	if o.Depth <= 0 {
		o.Depth = 32
	}
	if o.MaxRead <= 0 {
		o.MaxRead = 1 << 20
	}
	o.MaxRead = max(o.MaxRead/BlockSize*BlockSize, BlockSize)
	if o.Bytes <= 0 {
		o.Bytes = 16 << 20
	}
	o.Bytes = max(o.Bytes/BlockSize*BlockSize, o.MaxRead)
	switch {
	case o.Gap < 0:
		o.Gap = 0
	case o.Gap == 0 && rotational:
		o.Gap = 128 << 10
	case o.Gap == 0:
		o.Gap = 16 << 10
	}
	return o
}

// Reader reads many ranges of a disk with many reads in flight. All its memory is
// allocated by NewReader, so that it can be used while filesystems are frozen. It
// is used by one goroutine at a time.
type Reader struct {
	d    *Disk
	opt  ReadOptions
	slab slab
	jobs []job // a ring of Depth jobs
}

// job is one read of the device and the parts of it that were asked for.
type job struct {
	start uint64
	buf   []byte
	parts []part
	used  int // bytes of slab, including what was skipped at its end
	done  chan error
}

type part struct{ start, count uint64 }

// NewReader prepares a reader and touches its memory.
func NewReader(d *Disk, o ReadOptions) *Reader {
	o = o.withDefaults(d.info.rotational)
	r := &Reader{d: d, opt: o, slab: slab{mem: AlignedBuffer(o.Bytes)}, jobs: make([]job, o.Depth)}
	for i := 0; i < len(r.slab.mem); i += BlockSize {
		r.slab.mem[i] = 1 // a page that was never written has no memory behind it yet
	}
	for i := range r.jobs {
		r.jobs[i].done = make(chan error, 1)
		r.jobs[i].parts = make([]part, 0, 8)
	}
	return r
}

// ReadRanges reads ranges with a Reader made for this one call.
func (d *Disk) ReadRanges(ctx context.Context, ranges iter.Seq2[uint64, uint64], o ReadOptions, fn func(start uint64, blocks []byte) error) error {
	return NewReader(d, o).Read(ctx, ranges, fn)
}

// Read reads ranges of (first block, count), which must be ascending and must not
// overlap, and calls fn with what was read, in ascending order, in pieces of at
// most MaxRead bytes. blocks is only valid during the call. The first error stops
// the work; Read returns when nothing is in flight any more.
func (r *Reader) Read(ctx context.Context, ranges iter.Seq2[uint64, uint64], fn func(start uint64, blocks []byte) error) error {
	next, stop := iter.Pull2(ranges)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &planner{next: next, max: uint64(r.opt.MaxRead / BlockSize), gap: uint64(r.opt.Gap / BlockSize), end: r.d.Blocks()}
	w := workers{r: r, ctx: ctx, todo: make(chan *job, len(r.jobs))}
	defer w.stop()
	r.slab.reset()
	return r.loop(ctx, p, &w, fn)
}

// loop keeps the queue full and hands on the oldest job's blocks.
func (r *Reader) loop(ctx context.Context, p *planner, w *workers, fn func(uint64, []byte) error) error {
	head, inflight := 0, 0
	var failed error
	for {
		for failed == nil && inflight < len(r.jobs) && p.peek() {
			buf, used := r.slab.alloc(int(p.count) * BlockSize)
			if buf == nil {
				break
			}
			j := &r.jobs[(head+inflight)%len(r.jobs)]
			j.start, j.buf, j.used = p.start, buf, used
			j.parts = append(j.parts[:0], p.parts...)
			p.pop()
			inflight++
			w.submit(j, inflight)
		}
		if failed == nil {
			failed = p.err
		}
		if inflight == 0 {
			return failed
		}
		j := &r.jobs[head]
		if err := <-j.done; failed == nil {
			failed = err
		}
		if failed == nil {
			failed = j.deliver(ctx, fn)
		}
		r.slab.free(j.used)
		head, inflight = (head+1)%len(r.jobs), inflight-1
	}
}

func (j *job) deliver(ctx context.Context, fn func(uint64, []byte) error) error {
	for _, p := range j.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		from := (p.start - j.start) * BlockSize
		if err := fn(p.start, j.buf[from:from+p.count*BlockSize]); err != nil {
			return err
		}
	}
	return nil
}

// workers are the goroutines that wait for the device, as many as reads are in
// flight at most.
type workers struct {
	r       *Reader
	ctx     context.Context
	todo    chan *job
	running int
	wg      sync.WaitGroup
}

func (w *workers) submit(j *job, inflight int) {
	if w.running < inflight {
		w.running++
		w.wg.Go(func() {
			for j := range w.todo {
				j.done <- w.r.d.ReadBlocks(w.ctx, j.start, j.buf)
			}
		})
	}
	w.todo <- j
}

func (w *workers) stop() {
	close(w.todo)
	w.wg.Wait()
}

// planner turns ranges into reads: it cuts long ones and joins near ones.
type planner struct {
	next     func() (uint64, uint64, bool)
	max, gap uint64
	end      uint64 // blocks of the disk
	err      error

	start, count uint64 // the read that peek prepared
	parts        []part
	rest         part // of the range last pulled
	last         uint64
	ready        bool
}

// peek prepares the next read, if there is one.
func (p *planner) peek() bool {
	if p.ready {
		return true
	}
	if !p.pull() {
		return false
	}
	p.parts = p.parts[:0]
	p.start, p.count = p.rest.start, 0
	for p.pull() {
		hole := p.rest.start - (p.start + p.count)
		room := p.max - p.count
		if len(p.parts) > 0 && (hole > p.gap || hole >= room || p.count+hole+p.rest.count > p.max) {
			break
		}
		n := min(p.rest.count, room)
		p.parts = append(p.parts, part{p.rest.start, n})
		p.count += hole + n
		p.rest.start += n
		p.rest.count -= n
	}
	p.ready = p.err == nil
	return p.ready
}

func (p *planner) pop() { p.ready = false }

// pull makes sure that rest holds something.
func (p *planner) pull() bool {
	for p.rest.count == 0 && p.err == nil {
		start, count, ok := p.next()
		if !ok {
			return false
		}
		if start < p.last || start > p.end || count > p.end-start {
			p.err = fmt.Errorf("range of %d blocks at %d is out of order or beyond the end at %d", count, start, p.end)
			return false
		}
		p.last = start + count
		p.rest = part{start, count}
	}
	return p.err == nil
}

// slab hands out memory in the order in which it gets it back.
type slab struct {
	mem        []byte
	head, used int
}

func (s *slab) reset() { s.head, s.used = 0, 0 }

// alloc returns n bytes and how many to free later, nil if they are not to be had
// before something is freed.
func (s *slab) alloc(n int) ([]byte, int) {
	if s.used == 0 {
		s.head = 0
	}
	skip := 0
	if s.head+n > len(s.mem) {
		skip = len(s.mem) - s.head
	}
	if s.used+skip+n > len(s.mem) {
		return nil, 0
	}
	at := (s.head + skip) % len(s.mem)
	s.head = (at + n) % len(s.mem)
	s.used += skip + n
	return s.mem[at : at+n : at+n], skip + n
}

func (s *slab) free(n int) { s.used -= n }
