package overlay

import (
	"math/bits"
	"slices"
)

// recent is a set of pages, in leaves that exist where a page is set.
type recent map[int64]*[leafPages / 64]uint64

func (r recent) add(page, n int64) {
	for n > 0 {
		l := r[page/leafPages]
		if l == nil {
			l = new([leafPages / 64]uint64)
			r[page/leafPages] = l
		}
		in := page % leafPages
		count := min(n, 64-in%64)
		l[in/64] |= ^uint64(0) >> (64 - count) << (in % 64)
		page, n = page+count, n-count
	}
}

// Track makes Take tell of every change from now on.
func (o *Overlay) Track() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.recent == nil {
		o.recent = recent{}
	}
}

// Take calls yield for what was changed since the Take before, or Track, in ascending
// runs of whole pages (the last may be short), and forgets it. A change that returned
// before Take was called is in it; one that goes on may be in it, and is in the next.
// So read after Take, never before.
func (o *Overlay) Take(yield func(off, length int64)) {
	o.mu.Lock()
	taken := o.recent
	if taken != nil {
		o.recent = recent{}
	}
	o.mu.Unlock()
	at := make([]int64, 0, len(taken))
	for n := range taken {
		at = append(at, n)
	}
	slices.Sort(at)
	first, end := int64(-1), int64(-1) // the run so far, in pages
	flush := func() {
		if first >= 0 {
			yield(first*PageSize, min(end*PageSize, o.size)-first*PageSize)
		}
	}
	for _, n := range at {
		for i, w := range taken[n] {
			for w != 0 {
				low := int64(bits.TrailingZeros64(w))
				count := int64(bits.TrailingZeros64(^(w >> low)))
				count = min(count, 64-low)
				w &^= ^uint64(0) >> (64 - count) << low
				page := n*leafPages + int64(i)*64 + low
				if page != end {
					flush()
					first = page
				}
				end = page + count
			}
		}
	}
	flush()
}
