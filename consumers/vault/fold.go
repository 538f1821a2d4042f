package vault

import (
	"context"
	"math"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// Folding makes one segment of a run of them, without what nobody can see any more.
const (
	// foldTarget is how many stored bytes a folded segment should have at most: a
	// whole one is in memory while it is made.
	foldTarget = 32 << 20
	// foldRaw is how many bytes it may hold when unpacked.
	foldRaw = 128 << 20
	// foldRun is how many segments are one too many, however small the gain.
	foldRun = 16
	// worthwhile is how many dead bytes are not worth a single segment's rewriting.
	worthwhile = 4 << 10
	// tailBytes is about what a segment costs beside its frames.
	tailBytes = 600
)

// blockSet is a set of blocks of a disk.
type blockSet map[uint64]*[setWords]uint64

const (
	setWords = 64
	setPage  = 64 * setWords // blocks
)

// fresh adds the blocks [start, end) and calls yield for each run of them that was
// not in the set before.
func (s blockSet) fresh(start, end uint64, yield func(start, end uint64)) {
	run := uint64(math.MaxUint64)
	flush := func(at uint64) {
		if run != math.MaxUint64 {
			yield(run, at)
			run = math.MaxUint64
		}
	}
	for b := start; b < end; {
		page := s[b/setPage]
		if page == nil {
			page = new([setWords]uint64)
			s[b/setPage] = page
		}
		for stop := min(end, (b/setPage+1)*setPage); b < stop; {
			word, bit := &page[b%setPage/64], b%64
			n := min(64-bit, stop-b)
			mask := (^uint64(0) >> (64 - n)) << bit
			switch *word & mask {
			case 0: // none of them: the usual case
				if run == math.MaxUint64 {
					run = b
				}
			case mask: // all of them
				flush(b)
			default:
				for i := range n {
					if *word>>(bit+i)&1 == 0 {
						if run == math.MaxUint64 {
							run = b + i
						}
					} else {
						flush(b + i)
					}
				}
			}
			*word |= mask
			b += n
		}
	}
	flush(end)
}

// weight is what a segment of a window costs and what of it is alive.
type weight struct {
	stored, live int64  // bytes
	blocks       uint64 // alive
}

// weigh finds what of the segments of a window is still seen at its end.
func weigh(segments []*segment) []weight {
	all := make([]weight, len(segments))
	seen := blockSet{}
	for i, s := range slices.Backward(segments) {
		w := &all[i]
		w.stored = s.size
		w.live = tailBytes
		for k := range s.frames {
			f := &s.frames[k]
			live := uint64(0)
			for _, e := range f.Extents {
				seen.fresh(e.Start, e.End(), func(start, end uint64) { live += end - start })
			}
			if f.Codec == format.CodecZeros {
				continue
			}
			w.blocks += live
			w.live += int64(uint64(f.Length)*live/uint64(f.Blocks)) + int64(live)*int64(sumSize)
		}
		w.live = min(w.live, w.stored)
	}
	return all
}

// groups divides a window into runs of segments that are worth being folded into one
// each. A run stays within an epoch and within the size of a folded segment. Segments
// that do not change what is stored by more than maxDead of it are left alone, unless
// there are many or they are of a size: so each byte is rewritten a few times only,
// however long the window grows.
func groups(segments []*segment, weights []weight, maxDead float64) (runs [][2]int) {
	for from := 0; from < len(segments); {
		to, sum := from, weight{}
		biggest := int64(0)
		for to < len(segments) && segments[to].Epoch == segments[from].Epoch {
			w := weights[to]
			if to > from && (sum.live+w.live > foldTarget || (sum.blocks+w.blocks)*BlockSize > foldRaw) {
				break
			}
			sum.stored, sum.live, sum.blocks = sum.stored+w.stored, sum.live+w.live, sum.blocks+w.blocks
			biggest = max(biggest, w.live)
			to++
		}
		dead := sum.stored - sum.live
		wasteful := float64(dead) > maxDead*float64(sum.stored)
		switch n := to - from; {
		case n == 1 && wasteful && dead >= worthwhile,
			n > 1 && (wasteful || n > foldRun || 2*biggest <= sum.live):
			runs = append(runs, [2]int{from, to})
		}
		from = to
	}
	return runs
}

// lump is a run of blocks of a frame that is alive.
type lump struct {
	segment, frame int
	format.Extent  // Off within the frame
	sums           []byte
}

// survivors returns what of a run of segments is seen at the end of the window, given
// what the segments after it map; it adds what the run maps.
func (s blockSet) survivors(segments []*segment) (data []lump, zeros []span) {
	for i, g := range slices.Backward(segments) {
		sums := g.sums
		for k := range g.frames {
			f := &g.frames[k]
			for _, e := range f.Extents {
				own := sums
				if f.Codec != format.CodecZeros {
					sums = sums[int(e.Count)*sumSize:]
				}
				s.fresh(e.Start, e.End(), func(start, end uint64) {
					if f.Codec == format.CodecZeros {
						zeros = append(zeros, span{start, end})
						return
					}
					skip := uint32(start - e.Start)
					data = append(data, lump{
						segment: i, frame: k,
						Extent: format.Extent{Start: start, Count: uint32(end - start), Off: e.Off + skip},
						sums:   own[int(skip)*sumSize:][:int(end-start)*sumSize],
					})
				})
			}
		}
	}
	return data, zeros
}

// cover adds what a segment maps.
func (s blockSet) cover(g *segment) {
	for k := range g.frames {
		for _, e := range g.frames[k].Extents {
			s.fresh(e.Start, e.End(), func(uint64, uint64) {})
		}
	}
}

// fold writes one segment that stands for a run of segments of a window, of which
// seen holds what comes after the run. It returns how many bytes it wrote, 0 if the
// segment was there already.
func (d *disk) fold(ctx context.Context, until Position, run []*segment, seen blockSet) (int64, error) {
	for i, s := range run {
		full, err := d.read(ctx, s.segmentRef, partIndex|partSums)
		if err != nil {
			return 0, err
		}
		run[i].sums = full.sums
	}
	data, zeros := seen.survivors(run)
	first, last := run[0], run[len(run)-1]
	if first.First == 1 && first.BaseEpoch == 0 {
		zeros = nil // there is nothing before that they could hide
	}
	f := folder{d: d, segments: run}
	if err := f.pack(ctx, data); err != nil {
		return 0, err
	}
	for _, s := range run {
		s.sums = nil
	}
	f.plan.zeroSpans(zeros)
	t := *last.Trailer
	t.First, t.Prev, t.Open = first.First, first.Prev, first.Open
	t.Blocks, t.Zeros = f.plan.blocks, f.plan.zeros
	r := segmentRef{epoch: first.Epoch, first: first.First, level: levelFolded, last: last.Last, until: until}
	return d.putFolded(ctx, r, &f.plan, &t)
}

// putFolded creates a folded segment and makes sure that it can be read.
func (d *disk) putFolded(ctx context.Context, r segmentRef, p *plan, t *format.Trailer) (int64, error) {
	buf, err := d.write(nil, r, p, t)
	if err != nil {
		return 0, err
	}
	err = d.v.st.Put(ctx, d.keyOf(r), buf)
	if existed := isExists(err); err != nil && !existed {
		return 0, err
	} else if existed {
		buf = nil // whoever made it folded the same links for the same positions
	}
	// What it replaces will be deleted.
	s, err := d.read(ctx, r, partIndex|partSums)
	if err != nil {
		return 0, err
	}
	if s.Hash != t.Hash || s.Digest != t.Digest || s.Prev != t.Prev {
		return 0, damaged(s.key, contradiction("it does not stand for links %d to %d", r.first, r.last))
	}
	return int64(len(buf)), nil
}
