package vault

import (
	"cmp"
	"math"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// plan is what of a batch has to be stored, and the disk after it.
type plan struct {
	frames []format.Frame
	data   [][]byte // of frames, nil for zeros
	sums   []byte   // for each block of the data frames' extents
	blocks uint64   // mapped to data
	zeros  uint64   // mapped to zeros
	size   uint64   // bytes of the disk
	digest Digest
}

// bridge is how many unchanged blocks between changed ones stay mapped: a few sums
// cost less than one extent more in every index that is ever opened.
const bridge = 16

// span is a range of blocks.
type span struct{ start, end uint64 }

// maxZeroRun is the longest zero extent in blocks.
const maxZeroRun = math.MaxUint32

// room is how many bytes the segment will have at most, or nearly so.
func (p *plan) room() int {
	n := 64<<10 + len(p.sums)
	for i := range p.frames {
		n += 64 + len(p.data[i]) + 16*len(p.frames[i].Extents)
	}
	return n
}

// planBatch compares a batch with the disk before it. What holds the same content
// already is not stored again; zeros are recorded, not stored. It changes nothing.
//
// The size follows the batch: Open says it at the beginning, extents beyond it make
// the disk grow, Cut says it at the end. What a smaller size cuts off reads as zeros
// if the disk grows again.
func planBatch(b *Batch, before *table, size uint64, digest Digest) (*plan, error) {
	mapped, err := checkFrames(b.Frames)
	if err != nil {
		return nil, err
	}
	p := &plan{size: size, digest: digest}
	if b.Open != nil {
		p.size = b.Open.Size
	}
	cutOff := blocksOf(p.size)
	if n := len(mapped); n > 0 && mapped[n-1].end > cutOff {
		p.size = mapped[n-1].end * BlockSize
	}
	if b.Cut != nil {
		p.size = b.Cut.Size
	}
	limit := blocksOf(p.size)
	zeros := p.truncate(before, min(cutOff, limit), limit, mapped)
	for i := range b.Frames {
		f := &b.Frames[i]
		p.addFrame(f, before, limit)
		for _, e := range f.Extents {
			if e.Zero {
				zeros = p.addZeros(zeros, before, span{e.Start, min(limit, e.Start+uint64(e.Count))})
			}
		}
	}
	p.addZeroFrame(zeros)
	return p, nil
}

func blocksOf(size uint64) uint64 { return size/BlockSize + min(1, size%BlockSize) }

// checkFrames returns the spans of all extents, ascending.
func checkFrames(frames []Frame) ([]span, error) {
	var all []span
	for i := range frames {
		f := &frames[i]
		if f.Codec > CodecZstd || f.Raw > MaxRaw || f.Raw%BlockSize != 0 || len(f.Data) > format.MaxData ||
			(f.Raw == 0) != (len(f.Data) == 0) || f.Codec == CodecRaw && len(f.Data) != int(f.Raw) {
			return nil, invalid("frame %d of codec %d has %d bytes for %d raw", i, f.Codec, len(f.Data), f.Raw)
		}
		blocks, sums := uint64(f.Raw/BlockSize), uint64(0)
		for _, e := range f.Extents {
			if e.Count == 0 || e.Start > format.MaxBlocks || uint64(e.Count) > format.MaxBlocks-e.Start {
				return nil, invalid("frame %d has the extent %d+%d", i, e.Start, e.Count)
			}
			if !e.Zero {
				if uint64(e.Off)+uint64(e.Count) > blocks {
					return nil, invalid("frame %d of %d blocks has an extent at %d+%d of them", i, blocks, e.Off, e.Count)
				}
				sums += uint64(e.Count)
			}
			all = append(all, span{e.Start, e.Start + uint64(e.Count)})
		}
		if sums != uint64(len(f.Sums)) {
			return nil, invalid("frame %d has %d sums for %d blocks", i, len(f.Sums), sums)
		}
	}
	byStart := func(a, b span) int { return cmp.Compare(a.start, b.start) }
	if !slices.IsSortedFunc(all, byStart) {
		slices.SortFunc(all, byStart)
	}
	for i := 1; i < len(all); i++ {
		if all[i].start < all[i-1].end {
			return nil, invalid("block %d is mapped by two extents", all[i].start)
		}
	}
	return all, nil
}

// truncate records as zeros what the table holds from block start on, except for what
// the batch maps itself below limit.
func (p *plan) truncate(before *table, start, limit uint64, mapped []span) []span {
	first, last, ok := before.bounds(start, math.MaxUint64)
	if !ok {
		return nil
	}
	var zeros []span
	for _, m := range mapped {
		m.end = min(m.end, limit)
		if m.end <= max(first, m.start) {
			continue
		}
		if m.start >= last {
			break
		}
		zeros = p.addZeros(zeros, before, span{first, m.start})
		first = m.end
	}
	return p.addZeros(zeros, before, span{first, last})
}

// addZeros adds the part of s that is not zero yet.
func (p *plan) addZeros(zeros []span, before *table, s span) []span {
	first, last, ok := before.bounds(s.start, s.end)
	if !ok {
		return zeros
	}
	before.each(first, last, func(b uint64, old Sum) { p.digest.Replace(b, old, Sum{}) })
	p.zeros += last - first
	return append(zeros, span{first, last})
}

// addFrame adds what f's data changes.
func (p *plan) addFrame(f *Frame, before *table, limit uint64) {
	live := format.Frame{Codec: format.Codec(f.Codec), Blocks: f.Raw / BlockSize}
	sums := f.Sums
	for _, e := range f.Extents {
		if e.Zero {
			continue
		}
		own := sums[:e.Count]
		sums = sums[e.Count:]
		if e.Start >= limit {
			continue
		}
		own = own[:min(uint64(len(own)), limit-e.Start)]
		p.addExtent(&live, e, own, before)
	}
	if len(live.Extents) > 0 {
		if !slices.IsSortedFunc(live.Extents, byStart) {
			p.sortFrame(&live)
		}
		p.frames = append(p.frames, live)
		p.data = append(p.data, f.Data)
	}
}

func byStart(a, b format.Extent) int { return cmp.Compare(a.Start, b.Start) }

// addExtent adds the runs of e that differ from before. sums are e's.
func (p *plan) addExtent(live *format.Frame, e Extent, sums []Sum, before *table) {
	start, end := -1, 0 // the run so far, in blocks of e
	flush := func() {
		if start < 0 {
			return
		}
		live.Extents = append(live.Extents, format.Extent{Start: e.Start + uint64(start), Count: uint32(end - start), Off: e.Off + uint32(start)})
		for _, s := range sums[start:end] {
			p.sums = append(p.sums, s[:]...)
		}
		p.blocks += uint64(end - start)
		start = -1
	}
	for i, s := range sums {
		block := e.Start + uint64(i)
		old := before.get(block)
		if old == s {
			continue
		}
		p.digest.Replace(block, old, s)
		if start >= 0 && i-end > bridge {
			flush()
		}
		if start < 0 {
			start = i
		}
		end = i + 1
	}
	flush()
}

// sortFrame puts the extents of a frame whose maker did not into order, with the
// sums at the end of p that belong to them.
func (p *plan) sortFrame(f *format.Frame) {
	total := 0
	for _, e := range f.Extents {
		total += int(e.Count) * sumSize
	}
	own := p.sums[len(p.sums)-total:]
	type piece struct {
		format.Extent
		sums []byte
	}
	pieces := make([]piece, len(f.Extents))
	rest := slices.Clone(own)
	for i, e := range f.Extents {
		n := int(e.Count) * sumSize
		pieces[i], rest = piece{e, rest[:n]}, rest[n:]
	}
	slices.SortFunc(pieces, func(a, b piece) int { return byStart(a.Extent, b.Extent) })
	own = own[:0]
	for i, x := range pieces {
		f.Extents[i] = x.Extent
		own = append(own, x.sums...)
	}
}

// addZeroFrame adds the one frame that records all zeros.
func (p *plan) addZeroFrame(zeros []span) {
	if len(zeros) == 0 {
		return
	}
	slices.SortFunc(zeros, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	f := format.Frame{Codec: format.CodecZeros}
	for _, z := range zeros {
		for z.start < z.end {
			n := min(z.end-z.start, maxZeroRun)
			f.Extents = append(f.Extents, format.Extent{Start: z.start, Count: uint32(n)})
			z.start += n
		}
	}
	p.frames = append(p.frames, f)
	p.data = append(p.data, nil)
}

// applyFrames brings the table from before a segment to after it.
func (t *table) applyFrames(frames []format.Frame, sums []byte) error {
	for i := range frames {
		for _, e := range frames[i].Extents {
			if frames[i].Codec == format.CodecZeros {
				t.clear(e.Start, e.End())
				continue
			}
			if len(sums) < int(e.Count)*sumSize {
				return contradiction("there are fewer sums than blocks")
			}
			for b := e.Start; b < e.End(); b++ {
				t.set(b, Sum(sums))
				sums = sums[sumSize:]
			}
		}
	}
	if len(sums) != 0 {
		return contradiction("there are %d bytes of sums too many", len(sums))
	}
	return nil
}
