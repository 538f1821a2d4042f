package format

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Codec tells how the data of a frame is packed.
type Codec uint8

// The codecs.
const (
	CodecRaw   Codec = 0
	CodecZstd  Codec = 1
	CodecZeros Codec = 255 // no data: the extents read as zeros
)

// Extent maps a run of blocks of the disk to blocks of a frame.
type Extent struct {
	Start uint64 // first block on the disk
	Count uint32 // blocks, at least 1
	Off   uint32 // first block within the unpacked frame; 0 with CodecZeros
}

// End is the block after the extent.
func (e Extent) End() uint64 { return e.Start + uint64(e.Count) }

// Frame describes one frame of a segment.
type Frame struct {
	Codec   Codec
	Blocks  uint32 // blocks when unpacked
	Extents []Extent
	// Of the frame's sealed bytes within the segment; not part of the frame itself.
	Offset uint64
	Length uint32
}

// cursor is what extents are encoded relative to.
type cursor struct {
	next uint64 // block after the extent before
	off  uint32 // block of the frame after the extent before
}

func (f *Frame) appendMeta(b []byte, next *uint64) []byte {
	b = append(b, byte(f.Codec))
	b = binary.AppendUvarint(b, uint64(f.Blocks))
	b = binary.AppendUvarint(b, uint64(len(f.Extents)))
	c := cursor{next: *next}
	for _, e := range f.Extents {
		b = binary.AppendVarint(b, int64(e.Start)-int64(c.next))
		b = binary.AppendUvarint(b, uint64(e.Count))
		if f.Codec != CodecZeros {
			b = binary.AppendVarint(b, int64(e.Off)-int64(c.off))
		}
		c = cursor{next: e.End(), off: e.Off + e.Count}
	}
	*next = c.next
	return b
}

// reader takes numbers off bytes and remembers the first error.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 { // the longer form of a number is not ours
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) zigzag() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// meta reads a frame's meta. Extents are appended to pool, of which f keeps a part.
func (r *reader) meta(f *Frame, next *uint64, pool []Extent) ([]Extent, error) {
	f.Codec = Codec(r.byte())
	blocks, count := r.uvarint(), r.uvarint()
	if r.bad {
		return pool, malformed("frame is cut short")
	}
	if f.Codec > CodecZstd && f.Codec != CodecZeros {
		return pool, malformed("frame of unknown codec %d", f.Codec)
	}
	if blocks > MaxRaw/BlockSize || (blocks == 0) != (f.Codec == CodecZeros) {
		return pool, malformed("frame of codec %d has %d blocks", f.Codec, blocks)
	}
	if count == 0 || count > uint64(len(r.b)) {
		return pool, malformed("frame of %d extents in %d bytes", count, len(r.b))
	}
	f.Blocks = uint32(blocks)
	first := len(pool)
	c := cursor{next: *next}
	for i := range count {
		e, err := r.extent(f, c)
		if err == nil && i > 0 && e.Start < c.next {
			err = malformed("extents do not ascend")
		}
		if err != nil {
			return pool, err
		}
		pool = append(pool, e)
		c = cursor{next: e.End(), off: e.Off + e.Count}
	}
	*next = c.next
	f.Extents = pool[first:len(pool):len(pool)]
	return pool, nil
}

func (r *reader) extent(f *Frame, c cursor) (Extent, error) {
	start, count := int64(c.next)+r.zigzag(), r.uvarint()
	off := int64(0)
	if f.Codec != CodecZeros {
		off = int64(c.off) + r.zigzag()
	}
	switch {
	case r.bad:
		return Extent{}, malformed("extent is cut short")
	case start < 0 || count == 0 || count > math.MaxUint32 || uint64(start) > MaxBlocks || count > MaxBlocks-uint64(start):
		return Extent{}, malformed("extent %d+%d is empty or beyond any disk", start, count)
	case f.Codec != CodecZeros && (off < 0 || off > int64(f.Blocks) || count > uint64(int64(f.Blocks)-off)):
		return Extent{}, malformed("extent at %d+%d of a frame of %d blocks", off, count, f.Blocks)
	}
	return Extent{Start: uint64(start), Count: uint32(count), Off: uint32(off)}, nil
}

// AppendFrameMeta appends what stands before a frame's data inside its seal.
func AppendFrameMeta(b []byte, f *Frame) []byte {
	var next uint64
	var buf [64]byte
	meta := f.appendMeta(buf[:0], &next)
	b = binary.AppendUvarint(b, uint64(len(meta)))
	return append(b, meta...)
}

// SplitFrame returns the data of an opened frame.
func SplitFrame(b []byte) (data []byte, err error) {
	_, data, err = splitFrame(b)
	return data, err
}

func splitFrame(b []byte) (meta, data []byte, err error) {
	r := reader{b: b}
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b)) {
		return nil, nil, malformed("frame is shorter than its meta")
	}
	return r.b[:n], r.b[n:], nil
}

// DecodeFrame reads an opened frame: its meta, and the data that follows.
func DecodeFrame(b []byte) (*Frame, []byte, error) {
	meta, data, err := splitFrame(b)
	if err != nil {
		return nil, nil, err
	}
	r := reader{b: meta}
	f := new(Frame)
	var next uint64
	if _, err := r.meta(f, &next, nil); err != nil {
		return nil, nil, err
	}
	if len(r.b) != 0 {
		return nil, nil, malformed("%d bytes behind a frame's extents", len(r.b))
	}
	if (f.Codec == CodecZeros) != (len(data) == 0) || f.Codec == CodecRaw && len(data) != int(f.Blocks)*BlockSize {
		return nil, nil, malformed("frame of codec %d and %d blocks has %d bytes", f.Codec, f.Blocks, len(data))
	}
	return f, data, nil
}

// Packings of an index.
const (
	packRaw  = 0
	packZstd = 1
)

// Packer packs and unpacks zstd frames. DecodeAll must not write more than fits
// into dst.
type Packer interface {
	EncodeAll(src, dst []byte) []byte
	DecodeAll(src, dst []byte) ([]byte, error)
}

// AppendIndex appends the index of a segment's frames to b.
func AppendIndex(b []byte, frames []Frame, p Packer) ([]byte, error) {
	body := binary.AppendUvarint(nil, uint64(len(frames)))
	var next uint64
	for i := range frames {
		body = binary.AppendUvarint(body, uint64(frames[i].Length))
		body = frames[i].appendMeta(body, &next)
	}
	if len(body) > MaxIndex {
		return nil, fmt.Errorf("index has %d bytes, at most %d: make smaller segments", len(body), MaxIndex)
	}
	return appendPacked(b, body, p), nil
}

// DecodeIndex reads the index of a segment.
func DecodeIndex(b []byte, p Packer) ([]Frame, error) {
	body, err := unpackBody(b, MaxIndex, p)
	if err != nil {
		return nil, err
	}
	r := reader{b: body}
	return r.frames()
}

// frames reads the unpacked index. An entry has at least 6 bytes and an extent 2,
// which bounds what is allocated.
func (r *reader) frames() ([]Frame, error) {
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b))/6 {
		return nil, malformed("index of %d frames in %d bytes", n, len(r.b))
	}
	frames := make([]Frame, n)
	pool := make([]Extent, 0, min(uint64(len(r.b))/3, 4*n+16))
	var next uint64
	offset := uint64(HeaderSize)
	for i := range frames {
		length := r.uvarint()
		if r.bad || length < Overhead || length > MaxSegment {
			return nil, malformed("frame %d of %d bytes", i, length)
		}
		f := &frames[i]
		var err error
		if pool, err = r.meta(f, &next, pool); err != nil {
			return nil, fmt.Errorf("frame %d: %w", i, err)
		}
		f.Offset, f.Length = offset+FrameHeaderSize, uint32(length)
		offset += FrameHeaderSize + length
	}
	if len(r.b) != 0 {
		return nil, malformed("%d bytes behind the index", len(r.b))
	}
	return frames, nil
}

// FramesEnd is the offset after the last of frames.
func FramesEnd(frames []Frame) uint64 {
	if len(frames) == 0 {
		return HeaderSize
	}
	f := &frames[len(frames)-1]
	return f.Offset + uint64(f.Length)
}
