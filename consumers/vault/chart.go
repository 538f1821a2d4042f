package vault

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// mapPage is how many blocks a page of a map covers.
const mapPage = format.MapPageBlocks

// chart is a map that the store has: a layer of which parts are read when they are
// wanted.
type chart struct {
	segmentRef
	d       *disk
	box     *seal.Box
	salt    [format.SaltSize]byte
	trailer *format.MapTrailer
	numbers []uint64 // of pages, ascending
	offsets []uint64 // of pages, and the end of the last
	groups  []uint64 // offsets of groups of sources, and the end of the last
	parts   *cache[partID, part]
	slot    int    // of the chart in parts
	memory  []byte // instead of an object in the store
}

// partID names a part of one of several charts that share a cache.
type partID struct {
	slot  int
	group bool
	n     int
}

// part is a page or a group of sources.
type part struct {
	blockMap
}

func (p part) bytes() int64 {
	return int64(len(p.pieces))*int64(unsafe.Sizeof(piece{})) + int64(len(p.frames))*int64(unsafe.Sizeof(frameRef{})) + int64(len(p.sources))*int64(unsafe.Sizeof(source{}))
}

// partsBudget is how many bytes of parts of maps a Reader keeps.
const partsBudget = 48 << 20

func newParts(budget int64) *cache[partID, part] { return newCache[partID](budget, part.bytes) }

// errMap means that a map cannot be used: what it stands for can be read without.
var errMap = errors.New("the map cannot be used")

func unusable(err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion) || errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", errMap, err)
	}
	return err
}

func (d *disk) mapBox(r segmentRef, salt [format.SaltSize]byte) *seal.Box {
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	return d.key.NewBox(salt[:], seal.NewPlace("leeward map 1", d.v.id[:], []byte(d.id.Machine), []byte(d.id.Disk), number(r.epoch),
		number(r.first), number(r.last), number(r.until.Epoch), number(r.until.Number), number(r.sum)))
}

// openMap reads the end of a map, and returns it as a segment without contents.
func (d *disk) openMap(ctx context.Context, r segmentRef) (*segment, error) {
	s, err := d.parseMap(ctx, r)
	if err != nil {
		return nil, unusable(damaged(d.keyOf(r), err))
	}
	return s, nil
}

func (d *disk) parseMap(ctx context.Context, r segmentRef) (*segment, error) {
	t := tail{st: d.v.st, key: d.keyOf(r)}
	if err := t.load(ctx, partIndex.guess(r.size)); err != nil {
		return nil, err
	}
	f, err := format.DecodeFooter(t.b)
	if err != nil {
		return nil, err
	}
	if n := int(f.Trailer) + format.FooterSize; n > len(t.b) {
		return nil, contradiction("its trailer is longer than itself")
	}
	c := &chart{segmentRef: r, d: d, salt: f.Salt, box: d.mapBox(r, f.Salt)}
	end := len(t.b) - format.FooterSize
	plain, err := c.box.Open(slices.Clone(t.b[end-int(f.Trailer):end]), seal.Trailer, 0, t.b[end:])
	if err != nil {
		return nil, err
	}
	if c.trailer, err = format.DecodeMapTrailer(plain); err != nil {
		return nil, err
	}
	x := c.trailer
	if x.Epoch != r.epoch || x.First != r.first || x.Last != r.last {
		return nil, contradiction("it says that it is %d/%d to %d", x.Epoch, x.First, x.Last)
	}
	t.size = int64(x.DirOff+x.DirLen) + int64(f.Trailer) + format.FooterSize
	if r.size != 0 && r.size != t.size || t.whole && t.size != int64(len(t.b)) || t.size < int64(len(t.b)) {
		return nil, contradiction("it should have %d bytes", t.size)
	}
	c.size = t.size
	b, err := t.section(ctx, x.DirOff, x.DirLen)
	if err != nil {
		return nil, err
	}
	if b, err = c.box.Open(b, seal.MapDirectory, 0, nil); err != nil {
		return nil, err
	}
	dir, err := format.DecodeMapDirectory(b, d.v.codec)
	if err != nil {
		return nil, err
	}
	if err := c.layout(dir); err != nil {
		return nil, err
	}
	return c.segment(t.key), nil
}

// layout computes where the parts are.
func (c *chart) layout(dir *format.MapDirectory) error {
	at := uint64(format.HeaderSize)
	c.numbers = make([]uint64, len(dir.Pages))
	c.offsets = make([]uint64, 0, len(dir.Pages)+1)
	for i, e := range dir.Pages {
		c.numbers[i] = e.Number
		c.offsets = append(c.offsets, at)
		at += uint64(e.Length)
	}
	c.offsets = append(c.offsets, at)
	for _, n := range dir.Sources {
		c.groups = append(c.groups, at)
		at += uint64(n)
	}
	c.groups = append(c.groups, at)
	if at != c.trailer.DirOff || len(dir.Sources) != int(c.trailer.Sources+format.MapGroup-1)/format.MapGroup {
		return contradiction("directory and trailer differ")
	}
	return nil
}

// segment lets the chart stand in a row of segments.
func (c *chart) segment(key string) *segment {
	x := c.trailer
	return &segment{segmentRef: c.segmentRef, key: key, box: c.box, chart: c, Trailer: &format.Trailer{
		Epoch: x.Epoch, First: x.First, Last: x.Last, Prev: x.Prev, Hash: x.Hash,
		BaseEpoch: x.BaseEpoch, BaseNumber: x.BaseNumber, BaseHash: x.BaseHash, Size: x.Size, Digest: x.Digest,
	}}
}

// part returns a page or a group, from the cache or the store.
func (c *chart) part(ctx context.Context, group bool, n int) (part, error) {
	return c.parts.get(partID{c.slot, group, n}, func() (part, error) {
		p, err := c.load(ctx, group, n)
		if err != nil {
			return part{}, unusable(damaged(c.d.keyOf(c.segmentRef), err))
		}
		return p, nil
	})
}

func (c *chart) load(ctx context.Context, group bool, n int) (part, error) {
	offsets := c.offsets
	if group {
		offsets = c.groups
	}
	if c.memory != nil {
		return c.parse(slices.Clone(c.memory[offsets[n]:offsets[n+1]]), group, n)
	}
	b, err := c.d.v.st.Get(ctx, c.d.keyOf(c.segmentRef), int64(offsets[n]), int64(offsets[n+1]-offsets[n]))
	if err != nil {
		return part{}, err
	}
	return c.parse(b, group, n)
}

// parse opens the sealed bytes of a part.
func (c *chart) parse(b []byte, group bool, n int) (p part, err error) {
	if group {
		if b, err = c.box.Open(b, seal.MapSources, uint64(n), nil); err != nil {
			return p, err
		}
		sources, err := format.DecodeMapSources(b)
		if err != nil {
			return p, err
		}
		if want := min(format.MapGroup, int(c.trailer.Sources)-n*format.MapGroup); len(sources) != want {
			return p, contradiction("group %d has %d sources, want %d", n, len(sources), want)
		}
		for i := range sources {
			s := &sources[i]
			p.sources = append(p.sources, source{salt: s.Salt, segmentRef: segmentRef{
				epoch: s.Epoch, first: s.First, level: s.Level, last: s.Last, until: Position{s.UntilEpoch, s.UntilNumber},
			}})
		}
		return p, nil
	}
	if b, err = c.box.Open(b, seal.MapPage, c.numbers[n], nil); err != nil {
		return p, err
	}
	m, err := format.DecodeMapPage(b, c.d.v.codec)
	if err != nil {
		return p, err
	}
	p.frames, p.pieces = make([]frameRef, len(m.Frames)), make([]piece, len(m.Pieces))
	for i, f := range m.Frames {
		if f.Source >= c.trailer.Sources {
			return p, contradiction("a frame is in source %d of %d", f.Source, c.trailer.Sources)
		}
		p.frames[i] = frameRef{source: f.Source, ordinal: f.Ordinal, offset: f.Offset, length: f.Length, blocks: f.Blocks, codec: f.Codec}
	}
	base := c.numbers[n] * mapPage
	for i, x := range m.Pieces {
		p.pieces[i] = newPiece(base+uint64(x.Start), x.Count, x.Frame, x.Off)
	}
	return p, nil
}

// window implements layer.
func (c *chart) window(ctx context.Context, start, end uint64) ([]piece, []frameRef, error) {
	first, _ := slices.BinarySearch(c.numbers, start/mapPage)
	var todo []int
	for i := first; i < len(c.numbers) && c.numbers[i]*mapPage < end; i++ {
		todo = append(todo, i)
	}
	var pieces []piece
	var frames []frameRef
	read := func(ctx context.Context, i int) (part, error) { return c.part(ctx, false, i) }
	err := inOrder(ctx, readers, todo, read, func(p part) error {
		inside, _, _ := p.window(ctx, start, end)
		if len(todo) == 1 {
			pieces, frames = inside, p.frames
			return nil
		}
		base := uint32(len(frames))
		for _, x := range inside {
			if x.frame != zeroFrame {
				x.frame += base
			}
			pieces = append(pieces, x)
		}
		frames = append(frames, p.frames...)
		return nil
	})
	return pieces, frames, err
}

// source implements layer.
func (c *chart) source(ctx context.Context, n uint32) (source, error) {
	p, err := c.part(ctx, true, int(n)/format.MapGroup)
	if err != nil {
		return source{}, err
	}
	return p.sources[n%format.MapGroup], nil
}

// pages implements layer.
func (c *chart) pages(yield func(n uint64)) {
	for _, n := range c.numbers {
		yield(n)
	}
}

// sumOfKeys tells which segments a map stands for.
func (d *disk) sumOfKeys(refs []segmentRef) uint64 {
	h := sha256.New()
	for _, r := range refs {
		fmt.Fprintln(h, d.keyOf(r))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}
