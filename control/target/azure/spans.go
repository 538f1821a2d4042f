package azure

import (
	"cmp"
	"slices"
	"sync"
)

// span is a run of bytes: from off up to end.
type span struct{ off, end int64 }

// spans are runs of bytes. They may be added from several goroutines.
type spans struct {
	mu     sync.Mutex
	all    []span
	sorted int // how many, from the beginning, are ascending and do not touch
}

// tidyAt is how many runs may wait to be sorted in.
const tidyAt = 4096

func (s *spans) add(off, end int64) {
	if off >= end {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.all); n > s.sorted && s.all[n-1].end == off {
		s.all[n-1].end = end
		return
	}
	s.all = append(s.all, span{off, end})
	if len(s.all)-s.sorted >= max(tidyAt, s.sorted) {
		s.tidy()
	}
}

func (s *spans) tidy() {
	slices.SortFunc(s.all, func(a, b span) int { return cmp.Compare(a.off, b.off) })
	out := s.all[:0]
	for _, x := range s.all {
		if n := len(out); n > 0 && out[n-1].end >= x.off {
			out[n-1].end = max(out[n-1].end, x.end)
			continue
		}
		out = append(out, x)
	}
	s.all, s.sorted = out, len(out)
}

// list returns the runs, ascending; those that touch are one.
func (s *spans) list() []span {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tidy()
	return slices.Clone(s.all)
}

// without returns what of a run is in none of held, which ascend and do not touch.
func (x span) without(held []span) (rest []span) {
	i, _ := slices.BinarySearchFunc(held, x.off, func(h span, off int64) int {
		if h.end <= off {
			return -1
		}
		return 1
	})
	for ; i < len(held) && held[i].off < x.end; i++ {
		if held[i].off > x.off {
			rest = append(rest, span{x.off, held[i].off})
		}
		x.off = max(x.off, held[i].end)
	}
	if x.off < x.end {
		rest = append(rest, x)
	}
	return rest
}

// total is how many bytes runs have.
func total(all []span) (n int64) {
	for _, x := range all {
		n += x.end - x.off
	}
	return n
}

// differ returns a run that is in one of two lists and not in the other.
func differ(a, b []span) (span, bool) {
	for _, pair := range [][2][]span{{a, b}, {b, a}} {
		for _, x := range pair[0] {
			if rest := x.without(pair[1]); len(rest) > 0 {
				return rest[0], true
			}
		}
	}
	return span{}, false
}
