package vault

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// keepTree says, for a disk, which positions must stay what they are, and so what of
// its history can be folded. Its methods decide; they touch no store.
type keepTree struct {
	h     history
	bases map[uint64]Position // by epoch, of those that are needed
	kept  map[Position]bool
	stops map[uint64][]uint64 // by epoch: where a kept position is or a needed epoch forks off, ascending
	fresh map[uint64]uint64   // by epoch: the first link that is too new to be touched
}

// newKeepTree looks at a disk of which positions have to be kept. What is younger
// than grace, by the times of the store alone, is kept whole, and so is the head: a
// cut may be there that nobody has listed as a point yet.
func (d *disk) newKeepTree(ctx context.Context, h history, positions []Position, grace time.Duration) (*keepTree, error) {
	t := &keepTree{h: h, bases: map[uint64]Position{}, kept: map[Position]bool{}, stops: map[uint64][]uint64{}, fresh: h.fresh(grace)}
	need := slices.Clone(positions)
	for e, first := range t.fresh {
		p := Position{e, first - 1}
		if first == 1 {
			begin, ok := h[e].begin()
			if !ok {
				return nil, d.missing(Position{e, 1})
			}
			base, err := d.base(ctx, begin)
			if err != nil {
				return nil, err
			}
			t.bases[e], p = base, base
		}
		if p != (Position{}) {
			need = append(need, p)
		}
	}
	for _, p := range need {
		if p.Epoch == 0 || p.Number == 0 {
			return nil, fmt.Errorf("%w: position %s", ErrInvalid, p)
		}
		t.kept[p] = true
		if err := t.need(ctx, d, p); err != nil {
			return nil, fmt.Errorf("what the disk at %s needs: %w", p, err)
		}
	}
	for e := range t.stops {
		slices.Sort(t.stops[e])
		t.stops[e] = slices.Compact(t.stops[e])
	}
	return t, nil
}

// fresh returns the first link of each epoch from which on segments are younger
// than grace, seen from the newest of the disk, or are the newest there is.
func (h history) fresh(grace time.Duration) map[uint64]uint64 {
	var newest time.Time
	for _, e := range h {
		for _, r := range e.raw {
			if r.modified.After(newest) {
				newest = r.modified
			}
		}
	}
	first := map[uint64]uint64{}
	for n, e := range h {
		for _, r := range e.raw {
			if r.first > e.foldedTo() && newest.Sub(r.modified) < grace {
				first[n] = r.first
				break
			}
		}
	}
	last := h.latest()
	if first[last] == 0 {
		if e := h[last]; len(e.raw) > 0 && e.raw[len(e.raw)-1].first > e.foldedTo() {
			first[last] = e.raw[len(e.raw)-1].first
		} else {
			first[last] = e.foldedTo() + 1
		}
	}
	return first
}

// need notes the stops on the way to p.
func (t *keepTree) need(ctx context.Context, d *disk, p Position) error {
	for p != (Position{}) {
		seen := slices.Contains(t.stops[p.Epoch], p.Number)
		t.stops[p.Epoch] = append(t.stops[p.Epoch], p.Number)
		base, ok := t.bases[p.Epoch]
		if seen && ok {
			return nil
		}
		if !ok {
			begin, there := t.h[p.Epoch].begin()
			if !there {
				return d.missing(Position{p.Epoch, 1})
			}
			var err error
			if base, err = d.base(ctx, begin); err != nil {
				return err
			}
			t.bases[p.Epoch] = base
		}
		p = base
	}
	return nil
}

// needed returns the last link of an epoch that anything needs, 0 if none.
func (t *keepTree) needed(epoch uint64) uint64 {
	if s := t.stops[epoch]; len(s) > 0 {
		return s[len(s)-1]
	}
	return 0
}

// next returns the position that every kept position goes through which contains p:
// what is overwritten between p and there, nobody will ever ask for.
func (t *keepTree) next(p Position) (Position, bool) {
	for {
		s := t.stops[p.Epoch]
		i, _ := slices.BinarySearch(s, p.Number)
		if i == len(s) {
			return Position{}, false
		}
		at := Position{p.Epoch, s[i]}
		child, only := t.child(at)
		if t.kept[at] || i < len(s)-1 || !only {
			return at, true
		}
		p = Position{child, 1}
	}
}

// child returns the needed epoch that forks off at a position, if it is the only one.
func (t *keepTree) child(at Position) (epoch uint64, only bool) {
	n := 0
	for e, base := range t.bases {
		if base == at && t.needed(e) > 0 {
			epoch = e
			n++
		}
	}
	return epoch, n == 1
}

// lineage returns the branches of a position, without their segments.
func (t *keepTree) lineage(p Position) lineage {
	var l lineage
	for p != (Position{}) {
		l = append(l, branch{epoch: p.Epoch, last: p.Number})
		p = t.bases[p.Epoch]
	}
	slices.Reverse(l)
	return l
}

// window is a stretch of a disk's history that only the disk at until needs, with
// the segments that it is made of, oldest first.
type window struct {
	until Position
	refs  []segmentRef
}

// windows returns the needed history in the order of epochs. Segments that are too
// new to be touched are in none.
func (t *keepTree) windows() []window {
	byUntil := map[Position]*window{}
	var order []*window
	for _, e := range slices.Sorted(maps.Keys(t.stops)) {
		last := t.needed(e)
		if first, ok := t.fresh[e]; ok {
			last = min(last, first-1) // which ends a segment
		}
		refs := t.h[e].chain(last, t.usable)
		for i, r := range refs {
			end := last
			if i+1 < len(refs) {
				end = refs[i+1].first - 1
			}
			r.last = end // also of raw ones: their names do not tell
			until, _ := t.next(Position{e, end})
			w := byUntil[until]
			if w == nil {
				w = &window{until: until}
				byUntil[until] = w
				order = append(order, w)
			}
			w.refs = append(w.refs, r)
		}
	}
	all := make([]window, len(order))
	for i, w := range order {
		all[i] = *w
	}
	return all
}

// usable tells whether a folded segment serves every kept position behind it.
func (t *keepTree) usable(r segmentRef) bool {
	until, ok := t.next(r.foldEnd())
	if !ok {
		return false
	}
	s := t.stops[r.epoch]
	i, _ := slices.BinarySearch(s, r.first)
	return s[i] >= r.last && t.lineage(until).contains(r.until)
}

// inUse returns the keys of the segments that the kept positions are read from.
func (t *keepTree) inUse(d *disk) map[string]bool {
	keys := map[string]bool{}
	add := func(refs []segmentRef) {
		for _, r := range refs {
			keys[d.keyOf(r)] = true
		}
	}
	positions := slices.SortedFunc(maps.Keys(t.kept), func(a, b Position) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(b.Number, a.Number)) // the longest first
	})
	var longest lineage
	for _, p := range positions {
		l := t.lineage(p)
		if len(longest) == len(l) && longest[len(l)-1].epoch == p.Epoch && longest.serves(p) {
			continue // it is read from the same
		}
		for i := range l {
			l[i].refs = t.h[l[i].epoch].chain(l[i].last, func(r segmentRef) bool { return l.contains(r.until) })
		}
		longest = l
		add(l.refs())
	}
	return keys
}

// serves tells whether p, in the last epoch of l and no later, is read from the
// segments of l up to p.
func (l lineage) serves(p Position) bool {
	tip := l[len(l)-1]
	n := at(tip.refs, p.Number+1)
	if n < len(tip.refs) && tip.refs[n].first != p.Number+1 || n == len(tip.refs) && p.Number != tip.last {
		return false
	}
	before := func(r segmentRef) bool { return r.level == levelRaw || r.until.Compare(p) <= 0 }
	for _, b := range l[:len(l)-1] {
		if !slices.ContainsFunc(b.refs, func(r segmentRef) bool { return !before(r) }) {
			continue
		}
		return false
	}
	for _, r := range tip.refs[:n] {
		if !before(r) || r.level != levelRaw && r.last > p.Number {
			return false
		}
	}
	return true
}

// garbage returns the segments that nobody needs, in the order to delete them in:
// so that what is left has no gaps, wherever that stops.
func (t *keepTree) garbage(d *disk) []segmentRef {
	used := t.inUse(d)
	var gone []segmentRef
	for _, e := range t.h.epochs() {
		first, isFresh := t.fresh[e]
		if !isFresh {
			first = math.MaxUint64
		}
		for _, refs := range [][]segmentRef{t.h[e].raw, t.h[e].folded} {
			for _, r := range refs {
				if !used[d.keyOf(r)] && r.first < first {
					gone = append(gone, r)
				}
			}
		}
	}
	slices.SortFunc(gone, func(a, b segmentRef) int {
		return cmp.Or(cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.first, a.first), cmp.Compare(a.level, b.level))
	})
	return gone
}
