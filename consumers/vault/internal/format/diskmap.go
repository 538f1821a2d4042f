package format

import (
	"encoding/binary"
	"fmt"
	"math"
)

const mapMagic = "LWMAP\r\n\x00"

// Limits of maps.
const (
	// MapPageBlocks is how many blocks of the disk a page of a map covers.
	MapPageBlocks = 1 << 14
	// MapGroup is how many sources stand in one group, but for the last.
	MapGroup = 128
	// maxMapPage is the largest page in bytes when unpacked, with room to spare.
	maxMapPage = 2 << 20
)

// NoFrame is the frame of a piece that reads as zeros.
const NoFrame = math.MaxUint32

// MapFrame tells where a frame is that a page refers to.
type MapFrame struct {
	Source  uint32 // number of its source
	Ordinal uint32 // of the frame in its segment
	Offset  uint32 // of its sealed bytes
	Length  uint32 // of its sealed bytes
	Blocks  uint16 // when unpacked
	Codec   Codec
}

// MapPiece maps a run of blocks to blocks of a frame, or to zeros.
type MapPiece struct {
	Start uint32 // first block, from the page's first
	Count uint32
	Frame uint32 // index into the page's frames, or NoFrame
	Off   uint32 // first block within the unpacked frame
}

// MapPage is a page of a map.
type MapPage struct {
	Frames []MapFrame
	Pieces []MapPiece // ascending, without overlaps
}

// MapSource is a segment that frames are in.
type MapSource struct {
	Epoch, First, Last      uint64 // Last and Until are 0 for a raw segment
	Level                   uint8
	UntilEpoch, UntilNumber uint64
	Salt                    [SaltSize]byte
}

// AppendMapHeader appends a map's header to b.
func AppendMapHeader(b []byte, salt [SaltSize]byte) []byte {
	return append(appendMagic(b, mapMagic), salt[:]...)
}

// DecodeMapHeader reads the header at the start of a map.
func DecodeMapHeader(b []byte) (salt [SaltSize]byte, err error) {
	rest, err := checkMagic(b, mapMagic)
	if err == nil && len(rest) < SaltSize {
		err = malformed("header has %d bytes of %d", len(b), HeaderSize)
	}
	if err != nil {
		return salt, err
	}
	copy(salt[:], rest)
	return salt, nil
}

// appendPacked appends body, packed if that makes it smaller.
func appendPacked(b, body []byte, p Packer) []byte {
	packed, how := body, byte(packRaw)
	if len(body) > 64 {
		if z := p.EncodeAll(body, nil); len(z) < len(body) {
			packed, how = z, packZstd
		}
	}
	b = binary.AppendUvarint(append(b, how), uint64(len(body)))
	return append(b, packed...)
}

// unpackBody is the reverse of appendPacked.
func unpackBody(b []byte, limit uint64, p Packer) ([]byte, error) {
	r := reader{b: b}
	how, size := r.byte(), r.uvarint()
	switch {
	case r.bad || size > limit:
		return nil, malformed("part of %d bytes, at most %d", size, limit)
	case how == packZstd:
		body, err := p.DecodeAll(r.b, make([]byte, 0, size))
		if err != nil {
			return nil, malformed("unpack: %v", err)
		}
		r.b = body
	case how != packRaw:
		return nil, malformed("unknown packing %d", how)
	}
	if uint64(len(r.b)) != size {
		return nil, malformed("part has %d bytes, says %d", len(r.b), size)
	}
	return r.b, nil
}

// AppendMapPage appends a page to b.
func AppendMapPage(b []byte, m *MapPage, p Packer) []byte { return appendPacked(b, m.body(), p) }

func (m *MapPage) body() []byte {
	body := binary.AppendUvarint(nil, uint64(len(m.Frames)))
	var was MapFrame
	for _, f := range m.Frames {
		body = binary.AppendVarint(body, int64(f.Source)-int64(was.Source))
		body = binary.AppendVarint(body, int64(f.Ordinal)-int64(was.Ordinal))
		body = binary.AppendVarint(body, int64(f.Offset)-int64(was.Offset)-int64(was.Length))
		body = binary.AppendUvarint(body, uint64(f.Length))
		body = binary.AppendUvarint(body, uint64(f.Blocks))
		body = append(body, byte(f.Codec))
		was = f
	}
	body = binary.AppendUvarint(body, uint64(len(m.Pieces)))
	next := uint32(0)
	for _, x := range m.Pieces {
		body = binary.AppendUvarint(body, uint64(x.Start-next))
		body = binary.AppendUvarint(body, uint64(x.Count))
		body = binary.AppendUvarint(body, uint64(x.Frame+1)) // NoFrame becomes 0
		if x.Frame != NoFrame {
			body = binary.AppendUvarint(body, uint64(x.Off))
		}
		next = x.Start + x.Count
	}
	return body
}

// DecodeMapPage reads an opened page.
func DecodeMapPage(b []byte, p Packer) (*MapPage, error) {
	body, err := unpackBody(b, maxMapPage, p)
	if err != nil {
		return nil, err
	}
	return decodeMapPage(body)
}

func decodeMapPage(body []byte) (*MapPage, error) {
	r := reader{b: body}
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b))/6 {
		return nil, malformed("page of %d frames in %d bytes", n, len(r.b))
	}
	m := &MapPage{Frames: make([]MapFrame, n)}
	var was MapFrame
	for i := range m.Frames {
		f, err := r.mapFrame(was)
		if err != nil {
			return nil, err
		}
		m.Frames[i], was = f, f
	}
	n = r.uvarint()
	if r.bad || n > uint64(len(r.b))/3 {
		return nil, malformed("page of %d pieces in %d bytes", n, len(r.b))
	}
	m.Pieces = make([]MapPiece, n)
	next := uint64(0)
	for i := range m.Pieces {
		gap, count, frame := r.uvarint(), r.uvarint(), r.uvarint()
		x := MapPiece{Start: uint32(next + gap), Count: uint32(count), Frame: uint32(frame) - 1}
		if r.bad || gap > MapPageBlocks || count == 0 || count > MapPageBlocks || next+gap+count > MapPageBlocks || frame > uint64(len(m.Frames)) {
			return nil, malformed("piece %d of a page: %d blocks after %d, %d of frame %d", i, gap, next, count, frame)
		}
		if frame > 0 {
			off := r.uvarint()
			if r.bad || off > MaxRaw || off+count > uint64(m.Frames[frame-1].Blocks) {
				return nil, malformed("piece %d of a page at %d+%d of a frame", i, off, count)
			}
			x.Off = uint32(off)
		}
		m.Pieces[i] = x
		next += gap + count
	}
	if len(r.b) != 0 {
		return nil, malformed("%d bytes behind a page", len(r.b))
	}
	return m, nil
}

func (r *reader) mapFrame(was MapFrame) (MapFrame, error) {
	source, ordinal := int64(was.Source)+r.zigzag(), int64(was.Ordinal)+r.zigzag()
	offset := int64(was.Offset) + int64(was.Length) + r.zigzag()
	length, blocks, codec := r.uvarint(), r.uvarint(), Codec(r.byte())
	fits := func(n int64) bool { return n >= 0 && n < math.MaxUint32 }
	switch {
	case r.bad || !fits(source) || !fits(ordinal):
		return MapFrame{}, malformed("frame %d of source %d", ordinal, source)
	case offset < HeaderSize || offset > MaxSegment || length < Overhead || length > MaxSegment:
		return MapFrame{}, malformed("frame at %d+%d", offset, length)
	case codec > CodecZstd || blocks == 0 || blocks > MaxRaw/BlockSize:
		return MapFrame{}, malformed("frame of codec %d and %d blocks", codec, blocks)
	}
	return MapFrame{Source: uint32(source), Ordinal: uint32(ordinal), Offset: uint32(offset), Length: uint32(length), Blocks: uint16(blocks), Codec: codec}, nil
}

// AppendMapSources appends a group of sources to b.
func AppendMapSources(b []byte, sources []MapSource) []byte {
	b = binary.AppendUvarint(b, uint64(len(sources)))
	for i := range sources {
		s := &sources[i]
		for _, n := range []uint64{s.Epoch, s.First, uint64(s.Level), s.Last, s.UntilEpoch, s.UntilNumber} {
			b = binary.AppendUvarint(b, n)
		}
		b = append(b, s.Salt[:]...)
	}
	return b
}

// DecodeMapSources reads an opened group of sources.
func DecodeMapSources(b []byte) ([]MapSource, error) {
	r := reader{b: b}
	n := r.uvarint()
	if r.bad || n == 0 || n > MapGroup || n > uint64(len(r.b))/(6+SaltSize) {
		return nil, malformed("group of %d sources in %d bytes", n, len(r.b))
	}
	sources := make([]MapSource, n)
	for i := range sources {
		s := &sources[i]
		s.Epoch, s.First = r.uvarint(), r.uvarint()
		level := r.uvarint()
		s.Last, s.UntilEpoch, s.UntilNumber = r.uvarint(), r.uvarint(), r.uvarint()
		if r.bad || len(r.b) < SaltSize || level > 9 || s.Epoch == 0 || s.First == 0 {
			return nil, malformed("source %d of a group", i)
		}
		s.Level = uint8(level)
		r.b = r.b[copy(s.Salt[:], r.b):]
	}
	if len(r.b) != 0 {
		return nil, malformed("%d bytes behind a group of sources", len(r.b))
	}
	return sources, nil
}

// MapDirectory says what pages and groups of sources a map has. They lie one after
// the other behind the header: the pages, then the groups.
type MapDirectory struct {
	Pages   []MapEntry // ascending by number
	Sources []uint32   // bytes of each sealed group
}

// MapEntry is a page in a directory.
type MapEntry struct {
	Number uint64 // the page's first block / MapPageBlocks
	Length uint32 // sealed bytes
}

// AppendMapDirectory appends a directory to b.
func AppendMapDirectory(b []byte, d *MapDirectory, p Packer) []byte {
	return appendPacked(b, d.body(), p)
}

func (d *MapDirectory) body() []byte {
	body := binary.AppendUvarint(nil, uint64(len(d.Pages)))
	next := uint64(0)
	for _, e := range d.Pages {
		body = binary.AppendUvarint(body, e.Number-next)
		body = binary.AppendUvarint(body, uint64(e.Length))
		next = e.Number + 1
	}
	body = binary.AppendUvarint(body, uint64(len(d.Sources)))
	for _, n := range d.Sources {
		body = binary.AppendUvarint(body, uint64(n))
	}
	return body
}

// DecodeMapDirectory reads an opened directory.
func DecodeMapDirectory(b []byte, p Packer) (*MapDirectory, error) {
	body, err := unpackBody(b, MaxIndex, p)
	if err != nil {
		return nil, err
	}
	return decodeMapDirectory(body)
}

func decodeMapDirectory(body []byte) (*MapDirectory, error) {
	r := reader{b: body}
	n := r.uvarint()
	if r.bad || n > uint64(len(r.b))/2 {
		return nil, malformed("directory of %d pages in %d bytes", n, len(r.b))
	}
	d := &MapDirectory{Pages: make([]MapEntry, n)}
	next := uint64(0)
	for i := range d.Pages {
		gap, length := r.uvarint(), r.uvarint()
		if r.bad || gap > MaxBlocks/MapPageBlocks-next || length < Overhead || length > maxMapPage {
			return nil, malformed("page %d of a directory: %d bytes, %d after %d", i, length, gap, next)
		}
		d.Pages[i] = MapEntry{next + gap, uint32(length)}
		next += gap + 1
		if next > MaxBlocks/MapPageBlocks {
			return nil, malformed("page %d of a directory is beyond any disk", i)
		}
	}
	n = r.uvarint()
	if r.bad || n > uint64(len(r.b)) {
		return nil, malformed("directory of %d groups in %d bytes", n, len(r.b))
	}
	d.Sources = make([]uint32, n)
	for i := range d.Sources {
		length := r.uvarint()
		if r.bad || length < Overhead || length > maxMapPage {
			return nil, malformed("group %d of sources has %d bytes", i, length)
		}
		d.Sources[i] = uint32(length)
	}
	if len(r.b) != 0 {
		return nil, malformed("%d bytes behind a directory", len(r.b))
	}
	return d, nil
}

// MapTrailer is the record at the end of a map. The array has the fields in the order
// below.
type MapTrailer struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Epoch      uint64
	First      uint64 // number of the first link
	Last       uint64 // number of the last link
	Prev       [32]byte
	Hash       [32]byte // chain hash of the last link
	BaseEpoch  uint64   // where the epoch forks from
	BaseNumber uint64
	BaseHash   [32]byte
	Size       uint64 // bytes of the disk after the last link
	Digest     [32]byte
	Sources    uint32 // how many
	DirOff     uint64 // offset of the sealed directory
	DirLen     uint64 // its bytes
}

// EncodeMapTrailer returns the bytes of t, or what is wrong with it.
func EncodeMapTrailer(t *MapTrailer) ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	return encode(t)
}

// DecodeMapTrailer reads an opened trailer of a map.
func DecodeMapTrailer(b []byte) (*MapTrailer, error) {
	t := new(MapTrailer)
	if err := decode(b, t); err != nil {
		return nil, fmt.Errorf("trailer: %w", err)
	}
	return t, t.check()
}

func (t *MapTrailer) check() error {
	switch {
	case t.Epoch == 0 || t.First == 0 || t.Last < t.First:
		return malformed("map of links %d to %d of epoch %d", t.First, t.Last, t.Epoch)
	case t.First == 1 && t.Prev != [32]byte{}:
		return malformed("link 1 has a predecessor")
	case t.BaseEpoch >= t.Epoch || (t.BaseEpoch == 0) != (t.BaseNumber == 0):
		return malformed("epoch %d is based on %d/%d", t.Epoch, t.BaseEpoch, t.BaseNumber)
	case t.Size > math.MaxInt64:
		return malformed("disk of %d bytes", t.Size)
	case t.DirOff < HeaderSize || t.DirOff > math.MaxInt64/2 || t.DirLen < Overhead || t.DirLen > MaxSegment:
		return malformed("directory at %d+%d", t.DirOff, t.DirLen)
	}
	return nil
}
