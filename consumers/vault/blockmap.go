package vault

import (
	"cmp"
	"slices"
	"sort"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// piece maps a run of the disk's blocks to blocks of a frame. There may be millions,
// so it is packed into 16 bytes: a frame has at most 256 blocks, a disk 2^51.
type piece struct {
	at    uint64 // first block on the disk << 8 | first block within the frame
	count uint32
	frame uint32 // index into frames, or zeroFrame
}

const (
	zeroFrame = 1<<32 - 1
	offBits   = 8
)

func newPiece(start uint64, count uint32, frame uint32, off uint32) piece {
	return piece{at: start<<offBits | uint64(off), count: count, frame: frame}
}

func (p piece) start() uint64 { return p.at >> offBits }
func (p piece) end() uint64   { return p.at>>offBits + uint64(p.count) }
func (p piece) off() uint32   { return uint32(p.at & (1<<offBits - 1)) }

// cut returns the part of p in [start, end), which must lie within p.
func (p piece) cut(start, end uint64) piece {
	off := uint32(0)
	if p.frame != zeroFrame {
		off = p.off() + uint32(start-p.start())
	}
	return newPiece(start, uint32(end-start), p.frame, off)
}

// push appends p, joined to the last piece if it goes on where that ends.
func push(to []piece, p piece) []piece {
	if n := len(to) - 1; n >= 0 && to[n].end() == p.start() && to[n].frame == p.frame && uint64(to[n].count)+uint64(p.count) <= maxZeroRun {
		if p.frame == zeroFrame || to[n].off()+to[n].count == p.off() {
			to[n].count += p.count
			return to
		}
	}
	return append(to, p)
}

// overlay returns newer and what of older it leaves visible. Both are ascending and
// without overlaps, and so is the result.
func overlay(newer, older []piece) []piece {
	out := make([]piece, 0, len(newer)+len(older))
	i := 0
	for _, o := range older {
		at := o.start()
		for {
			for i < len(newer) && newer[i].end() <= at {
				out = push(out, newer[i])
				i++
			}
			if i == len(newer) || newer[i].start() >= o.end() {
				out = push(out, o.cut(at, o.end()))
				break
			}
			if newer[i].start() > at {
				out = push(out, o.cut(at, newer[i].start()))
			}
			if newer[i].end() >= o.end() {
				break
			}
			at = newer[i].end()
		}
	}
	for _, n := range newer[i:] {
		out = push(out, n)
	}
	return out
}

// frameRef tells where a frame is.
type frameRef struct {
	source  uint32 // index into sources
	ordinal uint32 // of the frame in its segment
	offset  uint32 // of its sealed bytes: MaxSegment fits
	length  uint32 // of its sealed bytes
	blocks  uint16 // when unpacked
	layer   uint16 // index into the stack that source belongs to
	codec   format.Codec
}

// frameID identifies a frame of a stack.
type frameID struct {
	layer           uint16
	source, ordinal uint32
}

func (f *frameRef) id() frameID { return frameID{f.layer, f.source, f.ordinal} }

func (f *frameRef) raw() int { return int(f.blocks) * BlockSize }

// source is a segment that frames are in: what is needed to name and open it.
type source struct {
	segmentRef
	salt [format.SaltSize]byte
}

// blockMap says for every block of a disk which frame holds it.
type blockMap struct {
	pieces  []piece // ascending; what lies between reads as zeros
	frames  []frameRef
	sources []source
}

// mapBuilder makes a blockMap from segments, oldest first. Layers are merged like
// the digits of a binary counter, so that each piece takes part in few merges
// however many segments there are.
type mapBuilder struct {
	blockMap
	layers [][]piece // oldest first, each at least twice as long as the next
}

func (b *mapBuilder) add(s *segment) error {
	layer, err := b.layer(s)
	if err != nil {
		return damaged(s.key, err)
	}
	for n := len(b.layers) - 1; n >= 0 && len(b.layers[n]) <= 2*len(layer); n-- {
		layer = overlay(layer, b.layers[n])
		b.layers = b.layers[:n]
	}
	b.layers = append(b.layers, layer)
	return nil
}

func (b *mapBuilder) layer(s *segment) ([]piece, error) {
	var layer []piece
	from := uint32(len(b.sources))
	b.sources = append(b.sources, source{segmentRef: s.segmentRef, salt: s.salt})
	for i := range s.frames {
		f := &s.frames[i]
		id := uint32(zeroFrame)
		if f.Codec != format.CodecZeros {
			id = uint32(len(b.frames))
			b.frames = append(b.frames, frameRef{
				source: from, ordinal: uint32(i), offset: uint32(f.Offset), length: f.Length,
				blocks: uint16(f.Blocks), codec: f.Codec,
			})
		}
		for _, e := range f.Extents {
			layer = append(layer, newPiece(e.Start, e.Count, id, e.Off))
		}
	}
	byStart := func(a, b piece) int { return cmp.Compare(a.at, b.at) }
	if !slices.IsSortedFunc(layer, byStart) {
		slices.SortFunc(layer, byStart)
	}
	for i := 1; i < len(layer); i++ {
		if layer[i].start() < layer[i-1].end() {
			return nil, contradiction("block %d is mapped twice", layer[i].start())
		}
	}
	return layer, nil
}

// done returns the map. What is covered for good is dropped, and with bottom, which
// says that nothing older lies below, what is zeros.
func (b *mapBuilder) done(bottom bool) *blockMap {
	var all []piece
	for n := len(b.layers) - 1; n >= 0; n-- {
		all = overlay(all, b.layers[n])
	}
	if bottom {
		all = slices.DeleteFunc(all, func(p piece) bool { return p.frame == zeroFrame })
	}
	all = slices.Clip(all)
	used := make([]bool, len(b.frames))
	for _, p := range all {
		if p.frame != zeroFrame {
			used[p.frame] = true
		}
	}
	renamed := make([]uint32, len(b.frames))
	kept := 0
	for i := range b.frames {
		if used[i] {
			renamed[i] = uint32(kept)
			b.frames[kept] = b.frames[i]
			kept++
		}
	}
	for i := range all {
		if all[i].frame != zeroFrame {
			all[i].frame = renamed[all[i].frame]
		}
	}
	return &blockMap{pieces: all, frames: slices.Clip(b.frames[:kept]), sources: b.sources}
}

// from returns the index of the first piece that ends after block.
func (m *blockMap) from(block uint64) int {
	return sort.Search(len(m.pieces), func(i int) bool { return m.pieces[i].end() > block })
}

// runs groups frames, which are in the order they are wanted, into stretches of one
// segment that one request can fetch: at most maxBytes stored or unpacked, unless it
// is a single frame.
func (m *blockMap) runs(ids []uint32, maxBytes int) [][]uint32 {
	var out [][]uint32
	start, raw := 0, 0
	for i := range ids {
		f := &m.frames[ids[i]]
		if i > start {
			first, last := &m.frames[ids[start]], &m.frames[ids[i-1]]
			end := last.offset + last.length
			near := f.source == first.source && f.layer == first.layer && f.offset >= end && f.offset-end <= maxGap
			if !near || int(f.offset+f.length-first.offset) > maxBytes || raw+f.raw() > 4*maxBytes {
				out = append(out, ids[start:i])
				start, raw = i, 0
			}
		}
		raw += f.raw()
	}
	if start < len(ids) {
		out = append(out, ids[start:])
	}
	return out
}

// maxGap is how many bytes between two frames are read in vain rather than asking
// twice.
const maxGap = 64 << 10
