package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// String returns "epoch/number".
func (p Position) String() string { return fmt.Sprintf("%d/%d", p.Epoch, p.Number) }

// Compare orders positions by epoch, then number. A later position need not contain
// an earlier one: epochs fork.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Number, q.Number))
}

// readers is how many objects are read at once where order matters little.
const readers = 8

// history is what the store lists of a disk, by epoch, each ascending.
type history map[uint64][]segmentRef

func (d *disk) history(ctx context.Context) (history, error) {
	h := history{}
	err := d.list(ctx, 0, func(r segmentRef) error {
		h[r.epoch] = append(h[r.epoch], r)
		return nil
	})
	return h, err
}

// latest returns the newest epoch, 0 if there is none.
func (h history) latest() (epoch uint64) {
	for e := range h {
		epoch = max(epoch, e)
	}
	return epoch
}

// branch is the part of an epoch that a position builds on.
type branch struct {
	epoch, last uint64
	refs        []segmentRef
}

// lineage returns the branches that the disk at p is made of, oldest first.
func (d *disk) lineage(ctx context.Context, h history, p Position) ([]branch, error) {
	var all []branch
	for p != (Position{}) {
		refs := h[p.Epoch]
		if len(refs) == 0 || refs[0].first != 1 {
			return nil, d.missing(Position{p.Epoch, 1})
		}
		n, _ := slices.BinarySearchFunc(refs, p.Number+1, func(r segmentRef, first uint64) int { return cmp.Compare(r.first, first) })
		first, err := d.read(ctx, refs[0], partTrailer)
		if err != nil {
			return nil, err
		}
		all = append(all, branch{epoch: p.Epoch, last: p.Number, refs: refs[:n:n]})
		p = Position{first.BaseEpoch, first.BaseNumber} // of an older epoch: the loop ends
	}
	slices.Reverse(all)
	return all, nil
}

// missing says that the segment with link p is not there.
func (d *disk) missing(p Position) error {
	return damaged(d.keyOf(segmentRef{epoch: p.Epoch, first: p.Number}), contradiction("it is missing"))
}

// follows checks that s is the segment after prev; the segment after nil starts the
// disk's history.
func (d *disk) follows(prev, s *segment) error {
	if prev == nil {
		if s.First != 1 || s.BaseEpoch != 0 || s.BaseHash != [32]byte{} {
			return d.missing(Position{s.Epoch, 1})
		}
		return nil
	}
	if s.Epoch != prev.Epoch {
		base := Position{s.BaseEpoch, s.BaseNumber}
		if s.First != 1 || base != prev.end() || s.BaseHash != prev.Hash {
			return damaged(s.key, contradiction("epoch %d is based on %s, which does not end a segment there", s.Epoch, base))
		}
		return nil
	}
	switch {
	case s.First > prev.Last+1:
		return d.missing(Position{s.Epoch, prev.Last + 1})
	case s.First <= prev.Last || s.Prev != prev.Hash:
		return damaged(s.key, contradiction("it does not continue %s", prev.key))
	case s.BaseEpoch != prev.BaseEpoch || s.BaseNumber != prev.BaseNumber || s.BaseHash != prev.BaseHash:
		return damaged(s.key, contradiction("it names another base than %s", prev.key))
	}
	return nil
}

// walk reads segments in order and calls yield for each, after checking that it
// continues the one before; prev is what the first has to continue.
func (d *disk) walk(ctx context.Context, prev *segment, refs []segmentRef, want parts, yield func(*segment) error) error {
	read := func(ctx context.Context, r segmentRef) (*segment, error) { return d.read(ctx, r, want) }
	return inOrder(ctx, readers, refs, read, func(s *segment) error {
		if err := d.follows(prev, s); err != nil {
			return err
		}
		prev = s
		return yield(s)
	})
}

// since returns the segments of a lineage after p, which must end one of them.
func since(line []branch, p Position) (refs []segmentRef, ok bool) {
	ok = p == Position{}
	for _, b := range line {
		if ok {
			refs = append(refs, b.refs...)
			continue
		}
		if b.epoch != p.Epoch {
			continue
		}
		n, found := slices.BinarySearchFunc(b.refs, p.Number+1, func(r segmentRef, first uint64) int { return cmp.Compare(r.first, first) })
		if !found && p.Number != b.last {
			return nil, false
		}
		refs, ok = b.refs[n:], true
	}
	return slices.Clip(refs), ok
}

// inOrder does work for each of in, at most n at once and at most n results ahead,
// and calls yield with the results in the order of in. It stops at the first error.
func inOrder[A, B any](ctx context.Context, n int, in []A, work func(context.Context, A) (B, error), yield func(B) error) error {
	type result struct {
		b   B
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	slots := make([]chan result, min(n, len(in)))
	for i := range slots {
		slots[i] = make(chan result, 1)
	}
	start := func(i int) {
		wg.Go(func() {
			b, err := work(ctx, in[i])
			slots[i%len(slots)] <- result{b, err}
		})
	}
	for i := range slots {
		start(i)
	}
	for i := range in {
		r := <-slots[i%len(slots)]
		if r.err != nil {
			return r.err
		}
		if next := i + len(slots); next < len(in) {
			start(next)
		}
		if err := yield(r.b); err != nil {
			return err
		}
	}
	return nil
}
