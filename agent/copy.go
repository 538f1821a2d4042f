package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

// sync brings the copy in the vault up to the disk as far as that can be done while
// it is written to: a new epoch if one is needed, then a comparison if one is
// needed. It returns when the epoch stands and nothing is left to compare.
//
// It tries for ever, unless the disk is not the one it was or, there being others,
// cannot be read again and again: trouble says what it is.
func (r *replica) sync(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := r.trySync(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrFenced) || errors.Is(err, disk.ErrReplaced) {
			return err
		}
		if err := r.trouble(); err != nil && !r.alone() {
			return err
		}
		if !errors.Is(err, errAgain) {
			// The bus or the disk failed: say so and go on trying. Nothing is forgotten.
			r.log.Warn("replication interrupted, trying again", "disk", r.name, "error", err)
			r.tell("waiting", 0, 0, err.Error())
			if r.why == "" {
				r.why = "interrupted"
			}
			if r.pub != nil {
				r.pub.Close()
				r.pub = nil
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

func (r *replica) trySync(ctx context.Context) error {
	if err := r.state(); err != nil || r.full != "" && r.compared {
		if err != nil && !errors.Is(err, errAgain) {
			return err
		}
		// A comparison must see everything sent before in the vault, so it starts an
		// epoch of its own: the process server bases that on all that came before.
		if r.why == "" {
			r.why = r.full
		}
		if err := r.open(ctx); err != nil {
			return err
		}
		r.compared = false
	}
	if r.full == "" {
		return r.reconcile(ctx)
	}
	r.compared = true
	return r.compare(ctx)
}

// compare reads the whole disk once and sends what differs from the epoch's base.
func (r *replica) compare(ctx context.Context) error {
	total := r.dev.Blocks()
	fetch, phase, from := r.sums, "compare", uint64(0)
	if rc, _ := r.last(); rc != nil {
		from = r.begin(rc.BaseEpoch)
	}
	if rc, _ := r.last(); rc != nil && rc.BaseEpoch == 0 {
		// Nothing was ever sent of this disk: the vault holds zeros.
		fetch, phase = scan.Nothing, "first copy"
	}
	began, before, b := time.Now(), r.sentBytes(), r.pub.Builder()
	opt := r.cfg.scanOptions()
	opt.From = from
	checkpoint := opt.From + r.cfg.checkpointBlocks()
	send := func(start uint64, data []byte, sums []wire.Sum) error {
		if start >= checkpoint {
			checkpoint = start + r.cfg.checkpointBlocks()
			if err := r.settled(ctx, b.Flush, start); err != nil {
				return err
			}
		}
		if err := r.seed(start, sums); err != nil {
			return err
		}
		return b.Add(ctx, start, data, sums)
	}
	_, err := scan.Compare(ctx, watched{r, phase}, opt, r.seeded(fetch), send)
	r.read(err)
	if err != nil {
		return err
	}
	if err := r.settled(ctx, b.Flush, 0); err != nil {
		return err
	}
	sent := r.sentBytes() - before
	r.tell(phase, int64(r.dev.Size()), int64(r.dev.Size()), "")
	r.log.Info("disk compared with the vault", "disk", r.name, "reason", r.full, "bytes", total*wire.BlockSize, "sent", sent, "seconds", time.Since(began).Seconds())
	if phase == "compare" {
		r.events("resync", wire.Info, r.name, fmt.Sprintf("disk %s was compared with the vault (%s): %d of %d MiB differed", r.name, r.full, sent>>20, total*wire.BlockSize>>20), "")
	}
	r.full, r.doubt = "", capture.Set{}
	return nil
}

// seeder is a source that finds changes by comparing with what was sent before.
type seeder interface {
	Seed(start uint64, sums []wire.Sum) error
}

// seed tells a comparing source what the vault holds, or will hold.
func (r *replica) seed(start uint64, sums []wire.Sum) error {
	if s, ok := r.src.(seeder); ok {
		return s.Seed(start, sums)
	}
	return nil
}

func (r *replica) seeded(fetch scan.Fetch) scan.Fetch {
	return func(ctx context.Context, start uint64, count int) ([]wire.Sum, error) {
		sums, err := fetch(ctx, start, count)
		if err != nil {
			return nil, err
		}
		return sums, r.seed(start, sums)
	}
}

// watched is the disk during a comparison: it shows how far the reading is, and
// reads no further when the epoch is over.
type watched struct {
	r     *replica
	phase string
}

func (w watched) Blocks() uint64 { return w.r.dev.Blocks() }
func (w watched) Path() string   { return w.r.dev.Path() }
func (w watched) Size() uint64   { return w.r.dev.Size() }

func (w watched) NextData(start uint64) uint64 { return w.r.dev.NextData(start) }

func (w watched) ReadBlocks(ctx context.Context, start uint64, buf []byte) error {
	if err := w.begins(start); err != nil {
		return err
	}
	return w.r.dev.ReadBlocks(ctx, start, buf)
}

// begins is called before each read.
func (w watched) begins(start uint64) error {
	if _, err := w.r.over(); err != nil {
		return err
	}
	w.r.tell(w.phase, int64(start)*wire.BlockSize, int64(w.r.dev.Size()), "")
	return nil
}

func (w watched) Queue(depth int) (disk.Reads, error) {
	q, err := w.r.dev.Queue(depth)
	return watchedReads{q, w}, err
}

type watchedReads struct {
	disk.Reads
	watched watched
}

func (q watchedReads) Submit(tag int, start uint64, buf []byte) error {
	if err := q.watched.begins(start); err != nil {
		return err
	}
	return q.Reads.Submit(tag, start, buf)
}

// take moves what the source saw into dirty, and returns it.
func (r *replica) take(ctx context.Context) (*capture.Set, error) {
	set, err := r.src.Take(ctx)
	if set != nil {
		r.dirty.Merge(set)
		r.show()
	}
	if errors.Is(err, capture.ErrLost) {
		r.board.lost.Add(1)
		r.full, r.looked = "lost: "+err.Error(), looked{}
		r.events("resync", wire.Warning, r.name, fmt.Sprintf("disk %s must be compared with the vault: %v", r.name, err), "nothing: it has begun; if it happens often give the tracker a larger ring")
		return nil, errAgain
	}
	if errors.Is(err, disk.ErrReplaced) {
		r.replace(err)
	}
	if err != nil {
		return nil, fmt.Errorf("take changes of disk %s: %w", r.name, err)
	}
	return set, nil
}

// sendDirty reads and sends every block of dirty. What could not be sent stays dirty.
func (r *replica) sendDirty(ctx context.Context, phase string) error {
	if r.dirty.Len() == 0 {
		return nil
	}
	if err := r.state(); err != nil {
		return err
	}
	set := r.dirty
	r.dirty = capture.Set{}
	b := r.pub.Builder()
	err := r.readSet(ctx, &set, func(start uint64, data []byte) error { return b.Add(ctx, start, data, nil) })
	if err == nil {
		err = b.Flush(ctx)
	}
	if err != nil {
		r.dirty.Merge(&set)
		return err
	}
	r.handOver(&set)
	r.show()
	r.tell(phase, int64(set.Len())*wire.BlockSize, int64(set.Len())*wire.BlockSize, "")
	return nil
}

// readSet reads the blocks of a set and calls fn for pieces of it in order. What it
// reads is what the vault will hold, so a comparing source is told.
func (r *replica) readSet(ctx context.Context, set *capture.Set, fn func(start uint64, data []byte) error) error {
	_, compares := r.src.(seeder)
	err := r.reader.Read(ctx, set.Ranges(), func(start uint64, data []byte) error {
		if compares {
			sums := make([]wire.Sum, len(data)/wire.BlockSize)
			wire.SumsOf(data, sums)
			if err := r.seed(start, sums); err != nil {
				return err
			}
		}
		return fn(start, data)
	})
	r.read(err)
	return err
}

// release sends what hold read, and the cut behind it; it returns the cut's link.
func (r *replica) release(ctx context.Context, h *held, cut *wire.Cut) (uint64, error) {
	if err := r.state(); err != nil {
		return 0, err
	}
	b := r.pub.Builder()
	for _, p := range h.pieces {
		if err := b.Add(ctx, p.start, p.data, nil); err != nil {
			return 0, err
		}
	}
	if err := b.Flush(ctx); err != nil {
		return 0, err
	}
	r.handOver(&r.dirty)
	r.dirty = capture.Set{}
	cut.Size = r.dev.Size()
	began := time.Now()
	n, err := r.pub.Cut(ctx, cut)
	if err == nil {
		r.board.acks.Observe(time.Since(began))
		r.show()
		r.handed = capture.Set{} // all of it is in links now, and so in the journal
		if r.keeper != nil && r.full == "" {
			r.seal(capture.Mark{Epoch: r.pub.Epoch(), Number: n})
		}
	}
	return n, err
}

// handOver notes what the publisher was given. Until it is settled, some of it may
// not be in a link yet: if the epoch ends first, only this set knows of it.
func (r *replica) handOver(set *capture.Set) {
	r.handed.Merge(set)
	r.compared = true // something was sent: a comparison needs an epoch of its own
}

// each runs f for every replica at the same time and waits for all of them: what one
// disk cannot do is no reason to break off what another one is sending, whose epoch
// would be over. The error names every disk's.
func each(ctx context.Context, rs []*replica, f func(context.Context, *replica) error) error {
	errs := make([]error, len(rs))
	var wg sync.WaitGroup
	for i, r := range rs {
		wg.Go(func() { errs[i] = f(ctx, r) })
	}
	wg.Wait()
	return oneLine(errs)
}

// oneLine joins errors for people.
func oneLine(errs []error) (all error) {
	for _, err := range errs {
		switch {
		case all == nil:
			all = err
		case err != nil:
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return all
}

// together is each for work that is worth nothing unless every disk does it, and that
// sends nothing: the first error ends it.
func together(ctx context.Context, hs []*holding, f func(*holding, context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, h := range hs {
		g.Go(func() error { return f(h, ctx) })
	}
	return g.Wait()
}
