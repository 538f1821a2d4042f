package optimize

import (
	"cmp"
	"container/heap"
	"math"
	"slices"

	"github.com/leeward-dr/leeward/streams/wire"
)

// span is an extent of one link: blocks [start, end) of the disk.
type span struct {
	start, end uint64
	link       int    // index of the link in the run; the highest wins
	off        uint32 // first block within the link's frame
	zero       bool
}

// cover returns the parts of the spans that nobody later overwrites, ascending
// and disjoint. Zeros that touch are joined; data is split only where something
// else lies in between. It takes O(n log n) for n spans and reorders its argument.
func cover(in []span) []span {
	slices.SortFunc(in, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	out := make([]span, 0, len(in))
	var top latest
	pos := uint64(0)
	for i := 0; i < len(in) || len(top) > 0; {
		if len(top) == 0 {
			pos = max(pos, in[i].start)
		}
		for ; i < len(in) && in[i].start <= pos; i++ {
			heap.Push(&top, in[i])
		}
		if top[0].end <= pos {
			heap.Pop(&top)
			continue
		}
		// The winner holds until its end or until a later link begins; what begins
		// within it and is older waits in the heap.
		w := top[0]
		until := w.end
		for ; i < len(in) && in[i].start < until; i++ {
			if in[i].link > w.link {
				until = in[i].start
				break
			}
			heap.Push(&top, in[i])
		}
		out = emit(out, w, pos, until)
		pos = until
	}
	return out
}

// emit appends blocks [from, to) of w, joined with what came before if they touch.
func emit(out []span, w span, from, to uint64) []span {
	p := span{start: from, end: to, link: w.link, zero: w.zero}
	if !w.zero {
		p.off = w.off + uint32(from-w.start)
	}
	if n := len(out); n > 0 {
		l := &out[n-1]
		same := l.zero && p.zero || !l.zero && !p.zero && l.link == p.link && uint64(l.off)+(l.end-l.start) == uint64(p.off)
		if same && l.end == p.start && p.end-l.start <= math.MaxUint32 {
			l.end = p.end
			return out
		}
	}
	return append(out, p)
}

// spans lists the extents of a link's block.
func spans(out []span, link int, b *wire.Block) []span {
	off := uint32(0)
	for _, e := range b.Extents {
		s := span{start: e.Start, end: e.Start + uint64(e.Count), link: link, zero: e.Kind != wire.ExtentData}
		if !s.zero {
			s.off = off
			off += e.Count
		}
		out = append(out, s)
	}
	return out
}

// latest is a heap of spans, the one of the latest link first.
type latest []span

func (h latest) Len() int           { return len(h) }
func (h latest) Less(i, j int) bool { return h[i].link > h[j].link }
func (h latest) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *latest) Push(x any)        { *h = append(*h, x.(span)) }
func (h *latest) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
