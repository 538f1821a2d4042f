package capture

import (
	"iter"
	"math/bits"
	"slices"
)

// Set is a set of block numbers. The zero value is empty. It holds a bitmap in
// pages that exist only where a block is set, so its memory is bounded by the
// disk's size (32 MiB per TiB at worst) however many changes there are.
type Set struct {
	pages map[uint64]*page
	count uint64
}

const (
	pageBits  = 15 // 32768 blocks = 128 MiB of disk in a page of 4 KiB
	pageWords = 1 << pageBits / 64
)

type page [pageWords]uint64

// Add puts blocks start to start+count-1 into the set.
func (s *Set) Add(start, count uint64) {
	if s.pages == nil {
		s.pages = make(map[uint64]*page)
	}
	for count > 0 {
		p := s.pages[start>>pageBits]
		if p == nil {
			p = new(page)
			s.pages[start>>pageBits] = p
		}
		bit := start & (1<<pageBits - 1)
		w, b := bit/64, bit%64
		n := min(64-b, count)
		mask := (^uint64(0) >> (64 - n)) << b
		s.count += uint64(bits.OnesCount64(mask &^ p[w]))
		p[w] |= mask
		start += n
		count -= n
	}
}

// Merge adds every block of o.
func (s *Set) Merge(o *Set) {
	for start, count := range o.Ranges() {
		s.Add(start, count)
	}
}

// Len is the number of blocks in the set.
func (s *Set) Len() uint64 { return s.count }

// Has reports whether a block is in the set.
func (s *Set) Has(block uint64) bool {
	p := s.pages[block>>pageBits]
	if p == nil {
		return false
	}
	bit := block & (1<<pageBits - 1)
	return p[bit/64]>>(bit%64)&1 == 1
}

// Ranges yields the set as (start, count) runs in ascending order. Runs that touch
// are joined, also across pages.
func (s *Set) Ranges() iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		var start, count uint64
		for _, k := range s.sortedPages() {
			p := s.pages[k]
			for w, v := range p {
				base := k<<pageBits + uint64(w)*64
				for v != 0 {
					b := uint64(bits.TrailingZeros64(v))
					n := uint64(bits.TrailingZeros64(^(v >> b)))
					if n > 64-b {
						n = 64 - b
					}
					if count > 0 && start+count == base+b {
						count += n
					} else {
						if count > 0 && !yield(start, count) {
							return
						}
						start, count = base+b, n
					}
					if b+n == 64 {
						break
					}
					v &= ^uint64(0) << (b + n)
				}
			}
		}
		if count > 0 {
			yield(start, count)
		}
	}
}

func (s *Set) sortedPages() []uint64 {
	keys := make([]uint64, 0, len(s.pages))
	for k := range s.pages {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
