package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/leeward-dr/leeward/consumers/vault/store"
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

// history is what the store lists of a disk, by epoch.
type history map[uint64]*epochRefs

// epochRefs is what the store lists of an epoch, each ascending by first link.
//
// Raw segments follow each other without gap or overlap, until Maintain folds them:
// then folded segments cover what they covered, and may cover each other. What lies
// inside a folded segment counts for nothing where that can be used. So a name that
// became free by folding can be taken again, by a process server that slept all the
// while, and does no harm.
//
// Maps stand for segments too, for who only wants to know where blocks are.
type epochRefs struct{ raw, folded, maps []segmentRef }

func (d *disk) history(ctx context.Context) (history, error) {
	h := history{}
	err := d.v.st.List(ctx, segmentsPrefix(d.id), func(i store.Info) error {
		h.listed(i)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list segments of %s: %w", d.id, err)
	}
	return h, nil
}

// listed adds an object of a disk and reports whether its name is known.
func (h history) listed(i store.Info) bool {
	_, r, ok := parseSegmentKey(i.Key)
	if !ok {
		_, r, ok = parseMapKey(i.Key)
	}
	if ok {
		r.size, r.modified = i.Size, i.Modified
		h.add(r)
	}
	return ok
}

// add adds a segment or map; they come in the order of the store's list.
func (h history) add(r segmentRef) {
	e := h[r.epoch]
	if e == nil {
		e = new(epochRefs)
		h[r.epoch] = e
	}
	switch {
	case r.isMap():
		e.maps = append(e.maps, r)
	case r.level == levelRaw:
		e.raw = append(e.raw, r)
	default:
		e.folded = append(e.folded, r)
	}
}

// latest returns the newest epoch, 0 if there is none.
func (h history) latest() (epoch uint64) {
	for e, refs := range h {
		if len(refs.raw)+len(refs.folded) > 0 {
			epoch = max(epoch, e)
		}
	}
	return epoch
}

// epochs returns all epochs that have segments, ascending.
func (h history) epochs() (all []uint64) {
	for e, refs := range h {
		if len(refs.raw)+len(refs.folded) > 0 {
			all = append(all, e)
		}
	}
	slices.Sort(all)
	return all
}

// begin returns a segment with the first link of an epoch.
func (e *epochRefs) begin() (segmentRef, bool) {
	if e == nil {
		return segmentRef{}, false
	}
	for _, refs := range [][]segmentRef{e.folded, e.raw} {
		if len(refs) > 0 && refs[0].first == 1 {
			return refs[0], true
		}
	}
	return segmentRef{}, false
}

// folded is the last link that a folded segment covers, 0 if none.
func (e *epochRefs) foldedTo() (last uint64) {
	for _, r := range e.folded {
		last = max(last, r.last)
	}
	return last
}

// at returns the index of the first of refs that begins with link n or later.
func at(refs []segmentRef, n uint64) int {
	i, _ := slices.BinarySearchFunc(refs, n, func(r segmentRef, n uint64) int { return cmp.Compare(r.first, n) })
	return i
}

// chain returns the segments to read for links 1 to last: folded ones where they can
// be used, the longest first, raw ones elsewhere. Gaps are found by who reads them.
func (e *epochRefs) chain(last uint64, usable func(segmentRef) bool) []segmentRef {
	return e.chainOf(e.folded, 1, last, usable)
}

// mapped is chain with maps where they can be used, for who wants no more than to know
// where blocks are.
func (e *epochRefs) mapped(last uint64, usable func(segmentRef) bool) []segmentRef {
	if len(e.maps) == 0 {
		return e.chain(last, usable)
	}
	both := slices.Concat(e.folded, e.maps)
	slices.SortStableFunc(both, func(a, b segmentRef) int { return cmp.Compare(a.first, b.first) })
	return e.chainOf(both, 1, last, usable)
}

// chainOf is chain from a link on that begins a segment; ranges ascend.
func (e *epochRefs) chainOf(ranges []segmentRef, from, last uint64, usable func(segmentRef) bool) []segmentRef {
	var fit []segmentRef
	for _, r := range ranges {
		if r.last <= last && usable(r) {
			fit = append(fit, r)
		}
	}
	var refs []segmentRef
	for n := from; n <= last; {
		for len(fit) > 0 && fit[0].first < n {
			fit = fit[1:]
		}
		var best segmentRef
		for _, r := range fit {
			if r.first != n {
				break
			}
			if r.last > best.last || r.last == best.last && r.until.Compare(best.until) > 0 {
				best = r
			}
		}
		if best.last != 0 {
			refs = append(refs, best)
			n = best.last + 1
			continue
		}
		i := at(e.raw, n)
		if i < len(e.raw) && len(fit) > 0 && fit[0].first < e.raw[i].first {
			n = fit[0].first // there is a gap before it
			continue
		}
		if i == len(e.raw) || e.raw[i].first > last {
			break
		}
		refs = append(refs, e.raw[i])
		n = math.MaxUint64
		if i+1 < len(e.raw) {
			n = e.raw[i+1].first
		}
		if j := at(fit, e.raw[i].first+1); j < len(fit) {
			n = min(n, fit[j].first)
		}
	}
	return refs
}

// branch is the part of an epoch that a position builds on.
type branch struct {
	epoch, last uint64
	refs        []segmentRef
}

// lineage is what a position is made of, oldest first.
type lineage []branch

// contains tells whether the way to the position goes through p.
func (l lineage) contains(p Position) bool {
	for i := range l {
		if l[i].epoch == p.Epoch {
			return p.Number <= l[i].last
		}
	}
	return p == Position{}
}

// refs returns the segments of all branches.
func (l lineage) refs() []segmentRef {
	var all []segmentRef
	for i := range l {
		all = append(all, l[i].refs...)
	}
	return all
}

// after returns the segments after p, which must end one of them.
func (l lineage) after(p Position) (refs []segmentRef, ok bool) {
	ok = p == Position{}
	for _, b := range l {
		if ok {
			refs = append(refs, b.refs...)
			continue
		}
		if b.epoch != p.Epoch {
			continue
		}
		n := at(b.refs, p.Number+1)
		found := n < len(b.refs) && b.refs[n].first == p.Number+1
		if !found && p.Number != b.last {
			return nil, false
		}
		refs, ok = b.refs[n:], true
	}
	return slices.Clip(refs), ok
}

// lineage returns what the disk at p is made of.
func (d *disk) lineage(ctx context.Context, h history, p Position) (lineage, error) {
	return d.lineageOf(ctx, h, p, (*epochRefs).chain)
}

func (d *disk) lineageOf(ctx context.Context, h history, p Position, chain func(*epochRefs, uint64, func(segmentRef) bool) []segmentRef) (lineage, error) {
	var all lineage
	for p != (Position{}) {
		begin, ok := h[p.Epoch].begin()
		if !ok {
			return nil, d.missing(Position{p.Epoch, 1})
		}
		all = append(all, branch{epoch: p.Epoch, last: p.Number})
		base, err := d.base(ctx, begin)
		if err != nil {
			return nil, err
		}
		p = base // of an older epoch: the loop ends
	}
	slices.Reverse(all)
	for i := range all {
		b := &all[i]
		b.refs = chain(h[b.epoch], b.last, func(r segmentRef) bool { return all.contains(r.until) })
	}
	return all, nil
}

// base returns where the epoch that begins with segment r forks from.
func (d *disk) base(ctx context.Context, r segmentRef) (Position, error) {
	s, err := d.read(ctx, r, partTrailer)
	if err != nil {
		return Position{}, err
	}
	return Position{s.BaseEpoch, s.BaseNumber}, nil
}

// dropped tells whether something was folded away that the lineage would need: then
// its position is one that nobody asked to keep.
func (h history) dropped(l lineage) bool {
	for _, b := range l {
		for _, r := range h[b.epoch].folded {
			if r.first <= b.last && (r.last > b.last || !l.contains(r.until)) {
				return true
			}
		}
	}
	return false
}

// head returns the last position of the newest epoch.
func (d *disk) head(ctx context.Context, h history) (Position, error) {
	e := h.latest()
	refs := h[e]
	last := refs.foldedTo()
	if n := len(refs.raw); n > 0 && refs.raw[n-1].first > last {
		s, err := d.read(ctx, refs.raw[n-1], partTrailer)
		if err != nil {
			return Position{}, err
		}
		return s.end(), nil
	}
	return Position{e, last}, nil
}

// errGone means that a segment which the store listed is not there any more.
var errGone = errors.New("it was listed, but is gone")

func gone(err error) error {
	if errors.Is(err, ErrNotFound) && !errors.Is(err, errGone) {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return err
}

// looks is how often a disk is listed again because segments vanished between the
// list and the look: Maintain has replaced them.
const looks = 4

// steady runs look until it does not meet vanished segments.
func steady(look func() error) (err error) {
	for range looks {
		if err = look(); !errors.Is(err, errGone) {
			return err
		}
	}
	return err
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
	read := func(ctx context.Context, r segmentRef) (*segment, error) {
		if r.isMap() {
			return d.openMap(ctx, r)
		}
		return d.read(ctx, r, want)
	}
	return inOrder(ctx, readers, refs, read, func(s *segment) error {
		if err := d.follows(prev, s); err != nil {
			return err
		}
		prev = s
		return yield(s)
	})
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
