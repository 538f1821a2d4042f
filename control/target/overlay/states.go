package overlay

import "math/bits"

// state is what a page is.
type state uint64

const (
	isHole state = iota
	isBase
	isWritten
	isZeroed
)

const (
	wordPages = 32                  // states in a word
	leafPages = 512 * 32            // states in a leaf: 64 MiB of disk
	everyPage = uint64(1<<64-1) / 3 // 01 for each page of a word
)

type leaf [leafPages / wordPages]uint64

// states holds the state of every page. A leaf that is nil is all holes; one that is
// allBase is shared and copied before it changes.
type states struct {
	leaves  []*leaf
	allBase *leaf
	pages   int64
	dirty   map[int64]struct{} // leaves that changed, see takeDirty
}

func newStates(pages int64) *states {
	s := &states{leaves: make([]*leaf, (pages+leafPages-1)/leafPages), allBase: new(leaf), pages: pages, dirty: map[int64]struct{}{}}
	for i := range s.allBase {
		s.allBase[i] = everyPage * uint64(isBase)
	}
	return s
}

// set gives n pages from page on the state to.
func (s *states) set(page, n int64, to state) {
	for n > 0 {
		at := page / leafPages
		from := page % leafPages
		count := min(n, leafPages-from)
		whole := count == leafPages
		switch {
		case whole && to == isHole:
			s.leaves[at] = nil
		case whole && to == isBase:
			s.leaves[at] = s.allBase
		case s.leaves[at] == nil && to == isHole:
		case s.leaves[at] == s.allBase && to == isBase:
		default:
			if s.own(at).set(from, count, to) {
				s.dirty[at] = struct{}{}
			}
		}
		page += count
		n -= count
	}
}

// own returns the leaf at, no longer shared.
func (s *states) own(at int64) *leaf {
	switch l := s.leaves[at]; l {
	case nil:
		s.leaves[at] = new(leaf)
	case s.allBase:
		c := *l
		s.leaves[at] = &c
	}
	return s.leaves[at]
}

// set reports whether anything is another than before.
func (l *leaf) set(page, n int64, to state) (changed bool) {
	for n > 0 {
		from := page % wordPages
		count := min(n, wordPages-from)
		mask := ^uint64(0) >> (64 - 2*count) << (2 * from)
		w := &l[page/wordPages]
		was := *w
		*w = was&^mask | everyPage*uint64(to)&mask
		changed = changed || *w != was
		page += count
		n -= count
	}
	return changed
}

// run returns the state of page and how many pages from there on, up to limit, share
// it. limit is at least 1.
func (s *states) run(page, limit int64) (state, int64) {
	st := s.at(page)
	n := int64(0)
	for n < limit {
		p := page + n
		l := s.leaves[p/leafPages]
		in := p % leafPages
		switch {
		case l == nil && st != isHole, l == s.allBase && st != isBase:
			return st, n
		case l == nil, l == s.allBase:
			n += leafPages - in
		default:
			same := l.same(in, st)
			n += same
			if same < leafPages-in {
				return st, min(n, limit)
			}
		}
	}
	return st, limit
}

func (s *states) at(page int64) state {
	l := s.leaves[page/leafPages]
	if l == nil {
		return isHole
	}
	in := page % leafPages
	return state(l[in/wordPages] >> (2 * (in % wordPages)) & 3)
}

// same counts the pages from page to the end of the leaf that have the state st
// before the first that has not.
func (l *leaf) same(page int64, st state) int64 {
	n := int64(0)
	for page+n < leafPages {
		at := (page + n) % wordPages
		diff := (l[(page+n)/wordPages] ^ everyPage*uint64(st)) >> (2 * at)
		if diff != 0 {
			return n + int64(bits.TrailingZeros64(diff))/2
		}
		n += wordPages - at
	}
	return n
}
