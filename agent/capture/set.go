package capture

import (
	"iter"
	"math/bits"
	"slices"
)

// Set is a set of block numbers. The zero value is empty. It holds pages that exist
// only where a block is set: a short list while few are, a bitmap later, and nothing
// at all for a page that is full. So its memory follows what changed (some ten MiB for a
// block in each 128 MiB of 16 TiB), and is bounded by the disk's size (32 MiB per TiB)
// however many changes there are.
type Set struct {
	pages map[uint64]*page
	count uint64
}

const (
	pageBits   = 15 // 32768 blocks = 128 MiB of disk in a page, 4 KiB as a bitmap
	pageBlocks = 1 << pageBits
	pageWords  = pageBlocks / 64
	fewBlocks  = 32 // in a page that is a list
)

// page is a part of the disk. Nobody changes fullPage, and only add changes others.
type page struct {
	words *bitmap
	few   []uint16 // ascending; only without words
}

type bitmap [pageWords]uint64

// fullPage is what every page with all its blocks set is.
var fullPage = func() *page {
	p := &page{words: new(bitmap)}
	for i := range p.words {
		p.words[i] = ^uint64(0)
	}
	return p
}()

// Add puts blocks start to start+count-1 into the set.
func (s *Set) Add(start, count uint64) {
	if count == 1 && s.set(start) {
		return
	}
	if s.pages == nil {
		s.pages = make(map[uint64]*page)
	}
	for count > 0 {
		key, bit := start>>pageBits, start&(pageBlocks-1)
		n := min(pageBlocks-bit, count)
		p := s.pages[key]
		switch {
		case p == fullPage:
		case n == pageBlocks:
			s.count += pageBlocks - p.len()
			s.pages[key] = fullPage
		default:
			if p == nil {
				p = new(page)
				s.pages[key] = p
			}
			s.count += p.add(bit, n)
		}
		start += n
		count -= n
	}
}

// set puts one block into a page that is a bitmap; false if there is none. A source does
// this for each small write of a busy disk.
func (s *Set) set(block uint64) bool {
	p := s.pages[block>>pageBits]
	if p == nil || p.words == nil {
		return false
	}
	bit := block & (pageBlocks - 1)
	if w, mask := &p.words[bit/64], uint64(1)<<(bit%64); *w&mask == 0 { // never of fullPage
		*w |= mask
		s.count++
	}
	return true
}

// add sets n bits from bit on and says how many of them were not set.
func (p *page) add(bit, n uint64) (more uint64) {
	if p.words == nil && n == 1 {
		if at, has := slices.BinarySearch(p.few, uint16(bit)); has {
			return 0
		} else if len(p.few) < fewBlocks {
			p.few = slices.Insert(p.few, at, uint16(bit))
			return 1
		}
	}
	p.grow()
	for n > 0 {
		w, b := bit/64, bit%64
		k := min(64-b, n)
		mask := (^uint64(0) >> (64 - k)) << b
		more += uint64(bits.OnesCount64(mask &^ p.words[w]))
		p.words[w] |= mask
		bit += k
		n -= k
	}
	return more
}

// grow makes a bitmap of a list.
func (p *page) grow() {
	if p.words == nil {
		p.words, p.few = p.bitmap(), nil
	}
}

// len is the number of blocks; p may be nil.
func (p *page) len() (n uint64) {
	switch {
	case p == nil:
	case p == fullPage:
		return pageBlocks
	case p.words == nil:
		return uint64(len(p.few))
	default:
		for _, w := range p.words {
			n += uint64(bits.OnesCount64(w))
		}
	}
	return n
}

// Merge adds every block of o.
func (s *Set) Merge(o *Set) {
	for start, count := range o.Ranges() {
		s.Add(start, count)
	}
}

// Subtract takes every block of o out of the set.
func (s *Set) Subtract(o *Set) {
	for key, q := range o.pages {
		p := s.pages[key]
		if p == nil {
			continue
		}
		s.count -= p.len()
		if p = p.without(q); p == nil {
			delete(s.pages, key)
			continue
		}
		s.pages[key] = p
		s.count += p.len()
	}
}

// without is a page with what is in p and not in q, nil if that is nothing.
func (p *page) without(q *page) *page {
	if q == fullPage {
		return nil
	}
	left := &page{words: p.bitmap()}
	for i, w := range q.bitmap() {
		left.words[i] &^= w
	}
	if left.len() == 0 {
		return nil
	}
	return left
}

// bitmap is a copy of the page as a bitmap.
func (p *page) bitmap() *bitmap {
	c := new(bitmap)
	if p.words != nil {
		*c = *p.words
	}
	for _, b := range p.few {
		c[b/64] |= 1 << (b % 64)
	}
	return c
}

// Len is the number of blocks in the set.
func (s *Set) Len() uint64 { return s.count }

// Has reports whether a block is in the set.
func (s *Set) Has(block uint64) bool {
	p, bit := s.pages[block>>pageBits], block&(pageBlocks-1)
	switch {
	case p == nil:
		return false
	case p.words == nil:
		_, has := slices.BinarySearch(p.few, uint16(bit))
		return has
	}
	return p.words[bit/64]>>(bit%64)&1 == 1
}

// Ranges yields the set as (start, count) runs in ascending order. Runs that touch
// are joined, also across pages.
func (s *Set) Ranges() iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		r := runs{yield: yield}
		for _, k := range s.sortedPages() {
			if !r.page(k<<pageBits, s.pages[k]) {
				return
			}
		}
		if r.count > 0 {
			yield(r.start, r.count)
		}
	}
}

// runs joins what touches on its way to yield.
type runs struct {
	start, count uint64
	yield        func(uint64, uint64) bool
}

func (r *runs) add(start, count uint64) bool {
	if r.count > 0 && r.start+r.count == start {
		r.count += count
		return true
	}
	if r.count > 0 && !r.yield(r.start, r.count) {
		return false
	}
	r.start, r.count = start, count
	return true
}

func (r *runs) page(base uint64, p *page) bool {
	if p == fullPage {
		return r.add(base, pageBlocks)
	}
	for _, b := range p.few {
		if !r.add(base+uint64(b), 1) {
			return false
		}
	}
	if p.words == nil {
		return true
	}
	for w, v := range p.words {
		for v != 0 {
			b := uint64(bits.TrailingZeros64(v))
			n := uint64(bits.TrailingZeros64(^(v >> b)))
			n = min(n, 64-b)
			if !r.add(base+uint64(w)*64+b, n) {
				return false
			}
			if b+n == 64 {
				break
			}
			v &= ^uint64(0) << (b + n)
		}
	}
	return true
}

func (s *Set) sortedPages() []uint64 {
	keys := make([]uint64, 0, len(s.pages))
	for k := range s.pages {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
