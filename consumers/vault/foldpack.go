package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// foldFrame is how many blocks the frames that folding makes have: as those of agents.
const foldFrame = 64

func isExists(err error) bool { return errors.Is(err, ErrExists) }

// folder packs what survives of a run of segments into a plan. Frames of which
// nearly all is alive go over as they are; what is left of the others is packed anew.
type folder struct {
	d        *disk
	segments []*segment
	plan     plan
	loose    []looseBlocks
}

// looseBlocks are blocks that need a new frame.
type looseBlocks struct {
	start uint64
	data  []byte
	sums  []byte
}

func (f *folder) pack(ctx context.Context, data []lump) error {
	byFrame := func(a, b lump) int {
		return cmp.Or(cmp.Compare(a.segment, b.segment), cmp.Compare(a.frame, b.frame), cmp.Compare(a.Start, b.Start))
	}
	slices.SortFunc(data, byFrame)
	for len(data) > 0 {
		s := f.segments[data[0].segment]
		n := 1
		for n < len(data) && data[n].segment == data[0].segment {
			n++
		}
		if err := f.segment(ctx, s, data[:n]); err != nil {
			return damaged(s.key, err)
		}
		data = data[n:]
	}
	return f.repack()
}

// segment takes over what survives of one segment, reading its frames in few requests.
func (f *folder) segment(ctx context.Context, s *segment, data []lump) error {
	for len(data) > 0 {
		begin := &s.frames[data[0].frame]
		n, end := 0, begin
		for n < len(data) {
			next := &s.frames[data[n].frame]
			if n > 0 && (next.Offset-end.Offset-uint64(end.Length) > maxGap || next.Offset+uint64(next.Length)-begin.Offset > maxRequest) {
				break
			}
			end = next
			n++
		}
		b, err := f.d.v.st.Get(ctx, s.key, int64(begin.Offset), int64(end.Offset+uint64(end.Length)-begin.Offset))
		if err != nil {
			return gone(err)
		}
		for n > 0 {
			m := 1
			for m < n && data[m].frame == data[0].frame {
				m++
			}
			frame := &s.frames[data[0].frame]
			at := frame.Offset - begin.Offset
			if err := f.frame(s, data[:m], b[at:at+uint64(frame.Length):at+uint64(frame.Length)]); err != nil {
				return fmt.Errorf("frame %d: %w", data[0].frame, err)
			}
			data, n = data[m:], n-m
		}
	}
	return nil
}

// frame takes over what survives of one frame.
func (f *folder) frame(s *segment, live []lump, sealed []byte) error {
	own := &s.frames[live[0].frame]
	plain, err := s.box.Open(sealed, seal.Frame, uint64(live[0].frame), nil)
	if err != nil {
		return err
	}
	data, err := format.SplitFrame(plain)
	if err != nil {
		return err
	}
	alive := uint32(0)
	for i := range live {
		alive += live[i].Count
	}
	if 20*alive >= 19*own.Blocks {
		f.keep(own, live, data)
		return nil
	}
	raw, err := unpack(f.d.v.codec, make([]byte, 0, int(own.Blocks)*BlockSize), own.Codec, int(own.Blocks)*BlockSize, data)
	if err != nil {
		return err
	}
	for i := range live {
		l := &live[i]
		b := looseBlocks{start: l.Start, sums: l.sums, data: slices.Clone(raw[int(l.Off)*BlockSize:][:int(l.Count)*BlockSize])}
		got := make([]Sum, l.Count)
		sumsOf(b.data, got)
		for k := range got {
			if got[k] != Sum(b.sums[k*sumSize:]) {
				return contradiction("block %d does not have its sum: it was damaged before it was sealed", l.Start+uint64(k))
			}
		}
		f.loose = append(f.loose, b)
	}
	return nil
}

// keep takes a frame over as it is; extents that no longer count are left out.
func (f *folder) keep(own *format.Frame, live []lump, data []byte) {
	n := format.Frame{Codec: own.Codec, Blocks: own.Blocks}
	for i := range live {
		l := &live[i]
		n.Extents = append(n.Extents, l.Extent)
		f.plan.sums = append(f.plan.sums, l.sums...)
		f.plan.blocks += uint64(l.Count)
	}
	f.plan.frames = append(f.plan.frames, n)
	f.plan.data = append(f.plan.data, data)
}

// repack makes new frames of the loose blocks, in the order of the disk.
func (f *folder) repack() error {
	slices.SortFunc(f.loose, func(a, b looseBlocks) int { return cmp.Compare(a.start, b.start) })
	n, raw := format.Frame{}, make([]byte, 0, foldFrame*BlockSize)
	flush := func() {
		if len(raw) == 0 {
			return
		}
		n.Codec, n.Blocks = format.CodecZstd, uint32(len(raw)/BlockSize)
		packed := f.d.v.codec.EncodeAll(raw, nil)
		if len(packed) >= len(raw) {
			n.Codec, packed = format.CodecRaw, slices.Clone(raw)
		}
		f.plan.frames = append(f.plan.frames, n)
		f.plan.data = append(f.plan.data, packed)
		n, raw = format.Frame{}, raw[:0]
	}
	for i := range f.loose {
		b := &f.loose[i]
		f.plan.sums = append(f.plan.sums, b.sums...)
		f.plan.blocks += uint64(len(b.sums) / sumSize)
		for start, data := b.start, b.data; len(data) > 0; {
			take := min(len(data), cap(raw)-len(raw))
			if take == 0 {
				flush()
				continue
			}
			off, count := uint32(len(raw)/BlockSize), uint32(take/BlockSize)
			if k := len(n.Extents) - 1; k >= 0 && n.Extents[k].End() == start {
				n.Extents[k].Count += count // blocks that lie side by side in the frame too
			} else {
				n.Extents = append(n.Extents, format.Extent{Start: start, Count: count, Off: off})
			}
			raw = append(raw, data[:take]...)
			data, start = data[take:], start+uint64(count)
		}
	}
	flush()
	return nil
}

// zeroSpans records what reads as zeros.
func (p *plan) zeroSpans(zeros []span) {
	for _, z := range zeros {
		p.zeros += z.end - z.start
	}
	p.addZeroFrame(zeros)
}
