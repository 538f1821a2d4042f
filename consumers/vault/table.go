package vault

import (
	"encoding/binary"
	"math"
	"math/bits"
	"runtime"
	"slices"
)

// pageBlocks is how many blocks a page of the table covers: 1 MiB of disk.
const pageBlocks = 256

// page is kept by value, so that its sums fill an allocation of 4 KiB exactly.
type page struct {
	sums *sumPage
	used int // sums that are not zero
}

// table holds the sum of every block of a disk that is not zero: 4 KiB of memory
// for each MiB of disk that holds anything, beyond 4 GiB of such disk in a file. Pages may
// not be used when the table is garbage.
type table struct {
	arena *arena
	pages map[uint64]page // by block / pageBlocks; a page has at least one sum
	top   uint64          // no page is higher; there need not be this one
}

func newTable() *table { return newTableWith(heapPages) }

func newTableWith(limit int) *table {
	t := &table{arena: newArena(limit), pages: map[uint64]page{}}
	t.arena.closeWith(t)
	return t
}

func (t *table) get(block uint64) Sum {
	if p, ok := t.pages[block/pageBlocks]; ok {
		s := p.sums[block%pageBlocks]
		runtime.KeepAlive(t)
		return s
	}
	return Sum{}
}

func (t *table) set(block uint64, s Sum) {
	n := block / pageBlocks
	p, ok := t.pages[n]
	if !ok {
		if s == (Sum{}) {
			return
		}
		p.sums = t.arena.page()
		t.top = max(t.top, n)
	}
	was := p.used
	old := &p.sums[block%pageBlocks]
	if *old != (Sum{}) {
		p.used--
	}
	if s != (Sum{}) {
		p.used++
	}
	*old = s
	switch p.used {
	case 0:
		t.drop(n)
	case was:
	default:
		t.pages[n] = p
	}
	runtime.KeepAlive(t)
}

// drop forgets a page.
func (t *table) drop(n uint64) {
	if p, ok := t.pages[n]; ok {
		t.arena.release(p.sums)
		delete(t.pages, n)
	}
}

// each calls yield for every block in [start, end) that is not zero, in no order
// beyond that of pages.
func (t *table) each(start, end uint64, yield func(block uint64, s Sum)) {
	defer runtime.KeepAlive(t)
	for _, n := range t.pagesIn(start, end) {
		p, first := t.pages[n], n*pageBlocks
		for i := range p.sums {
			if b := first + uint64(i); b >= start && b < end && p.sums[i] != (Sum{}) {
				yield(b, p.sums[i])
			}
		}
	}
}

// pagesIn returns the numbers of the pages that touch [start, end), ascending,
// with work that depends on what is there and not on how long the range is.
func (t *table) pagesIn(start, end uint64) []uint64 {
	if start >= end {
		return nil
	}
	// Every commit asks for what lies beyond the disk's end: that must not look through
	// the million pages of a full disk of 1 TiB.
	first, last := start/pageBlocks, min(t.top, (end-1)/pageBlocks)
	if first > last {
		return nil
	}
	var in []uint64
	if last-first < uint64(len(t.pages)) {
		for n := first; n <= last; n++ {
			if _, ok := t.pages[n]; ok {
				in = append(in, n)
			}
		}
		return in
	}
	for n := range t.pages {
		if n >= first && n <= last {
			in = append(in, n)
		}
	}
	slices.Sort(in)
	return in
}

// read returns the sums of count blocks from start on.
func (t *table) read(start uint64, count int) []Sum {
	sums := make([]Sum, max(0, count))
	end := start + uint64(len(sums))
	if end < start {
		end = math.MaxUint64
	}
	t.each(start, end, func(b uint64, s Sum) { sums[b-start] = s })
	return sums
}

// bounds returns the smallest range within [start, end) that holds every block
// there that is not zero.
func (t *table) bounds(start, end uint64) (first, last uint64, any bool) {
	t.each(start, end, func(b uint64, _ Sum) {
		if !any {
			first, any = b, true
		}
		last = b + 1
	})
	return first, last, any
}

// clear sets the blocks of [start, end) to zero.
func (t *table) clear(start, end uint64) {
	for _, n := range t.pagesIn(start, end) {
		lo, hi := max(start, n*pageBlocks), min(end, (n+1)*pageBlocks)
		if hi-lo == pageBlocks {
			t.drop(n)
			continue
		}
		for b := lo; b < hi; b++ {
			t.set(b, Sum{})
		}
	}
}

// digest computes the digest of all that is in the table.
func (t *table) digest() (d Digest) {
	defer runtime.KeepAlive(t)
	for n, p := range t.pages {
		for i := range p.sums {
			d.apply(n*pageBlocks+uint64(i), p.sums[i], false)
		}
	}
	return d
}

// add adds up the digests of disjoint sets of blocks.
func (d *Digest) add(other Digest) {
	var carry uint64
	for i := len(d) - 8; i >= 0; i -= 8 {
		var x uint64
		x, carry = bits.Add64(binary.BigEndian.Uint64(d[i:]), binary.BigEndian.Uint64(other[i:]), carry)
		binary.BigEndian.PutUint64(d[i:], x)
	}
}

const sumSize = len(Sum{})
