package vault

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// disk is a disk's objects and the key to them.
type disk struct {
	v   *Vault
	id  DiskID
	key seal.Key
}

func (v *Vault) disk(ctx context.Context, id DiskID) (*disk, error) {
	key, err := v.diskKey(ctx, id)
	if err != nil {
		return nil, err
	}
	return &disk{v: v, id: id, key: key}, nil
}

// Levels of segments.
const (
	levelRaw    = 0 // as committed
	levelFolded = 1 // made of the raw ones by Maintain
	// levelMap and more are no segments, but maps of many of them.
	levelMap = 16
)

// segmentRef is a segment as the store lists it. The name says what a reader needs
// to choose among segments without opening them.
type segmentRef struct {
	epoch, first uint64
	level        uint8
	size         int64     // bytes; 0 if not known
	modified     time.Time // zero if not known
	// Of folded segments and maps only:
	last  uint64   // its last link
	until Position // it lacks what is overwritten before; positions that contain until don't miss it
	sum   uint64   // of a map: which segments it stands for
}

// foldEnd is where a folded segment ends.
func (r segmentRef) foldEnd() Position { return Position{r.epoch, r.last} }

func (r segmentRef) isMap() bool { return r.level >= levelMap }

// same reports whether both are the same object.
func (r segmentRef) same(o segmentRef) bool {
	return r.epoch == o.epoch && r.first == o.first && r.level == o.level && r.last == o.last && r.until == o.until && r.sum == o.sum
}

func (d *disk) keyOf(r segmentRef) string { return r.key(d.id) }

// list calls yield for the segments of one epoch, or of all if epoch is 0, ascending
// by epoch, level and first link.
func (d *disk) list(ctx context.Context, epoch uint64, yield func(segmentRef) error) error {
	prefix := segmentsPrefix(d.id)
	if epoch != 0 {
		prefix = epochPrefix(d.id, epoch)
	}
	err := d.v.st.List(ctx, prefix, func(i store.Info) error {
		if _, r, ok := parseSegmentKey(i.Key); ok {
			r.size, r.modified = i.Size, i.Modified
			return yield(r)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list segments of %s: %w", d.id, err)
	}
	return nil
}

func (d *disk) box(r segmentRef, salt [format.SaltSize]byte) *seal.Box {
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	fields := [][]byte{d.v.id[:], []byte(d.id.Machine), []byte(d.id.Disk), number(r.epoch), number(r.first), {r.level}}
	if r.level != levelRaw {
		fields = append(fields, number(r.last), number(r.until.Epoch), number(r.until.Number))
	}
	return d.key.NewBox(salt[:], seal.NewPlace("leeward segment 1", fields...))
}

// segment is what was read of a segment.
type segment struct {
	segmentRef
	*format.Trailer
	key    string
	salt   [format.SaltSize]byte
	box    *seal.Box
	frames []format.Frame // with partIndex
	sums   []byte         // with partSums: 16 bytes a block, in the order of frames
	chart  *chart         // of a map: instead of all else but Trailer, which has what links say
}

func (s *segment) end() Position { return Position{s.Epoch, s.Last} }

// parts says what of a segment to read beside its trailer.
type parts uint8

const (
	partTrailer parts = 0
	partIndex   parts = 1
	partSums    parts = 2 // implies partIndex: both lie side by side
)

// guess is how many bytes from the end very likely hold the parts: one request
// instead of two. Sums are 1/256 of the data before it was packed, the index less.
func (p parts) guess(size int64) int64 {
	switch {
	case p&partSums != 0:
		return size/64 + 16<<10
	case p&partIndex != 0:
		return min(size/256, 256<<10) + 16<<10
	}
	return 8 << 10
}

// read reads a segment from its end.
func (d *disk) read(ctx context.Context, r segmentRef, want parts) (*segment, error) {
	t := tail{st: d.v.st, key: d.keyOf(r)}
	err := t.load(ctx, want.guess(r.size))
	if err != nil {
		return nil, gone(damaged(t.key, err))
	}
	s, err := d.parse(ctx, r, &t, want)
	return s, gone(err)
}

// parse takes apart what was read of a segment, and reads more if that was too
// little. It overwrites t's bytes, except for frames.
func (d *disk) parse(ctx context.Context, r segmentRef, t *tail, want parts) (*segment, error) {
	s := &segment{segmentRef: r, key: t.key}
	err := d.open(ctx, s, t)
	if err == nil && want != partTrailer {
		err = d.openIndex(ctx, s, t)
	}
	if err == nil && want&partSums != 0 {
		s.sums, err = t.section(ctx, s.SumsOff, s.SumsLen)
		if err == nil {
			s.sums, err = s.box.Open(s.sums, seal.Sums, 0, nil)
		}
	}
	if err != nil {
		return nil, damaged(s.key, err)
	}
	return s, nil
}

// open reads footer and trailer.
func (d *disk) open(ctx context.Context, s *segment, t *tail) error {
	f, err := format.DecodeFooter(t.b)
	if err != nil {
		return err
	}
	if n := int64(f.Trailer) + format.FooterSize; n > int64(len(t.b)) {
		if err := t.load(ctx, n); err != nil {
			return err
		}
		if n > int64(len(t.b)) {
			return contradiction("its trailer is longer than itself")
		}
	}
	end := len(t.b) - format.FooterSize
	s.salt, s.box = f.Salt, d.box(s.segmentRef, f.Salt)
	plain, err := s.box.Open(slices.Clone(t.b[end-int(f.Trailer):end]), seal.Trailer, 0, t.b[end:])
	if err != nil {
		return err
	}
	if s.Trailer, err = format.DecodeTrailer(plain); err != nil {
		return err
	}
	if s.Epoch != s.epoch || s.First != s.first || s.level != levelRaw && s.Last != s.last {
		return contradiction("it says that it is %d/%d to %d", s.Epoch, s.First, s.Last)
	}
	t.size = int64(s.SumsOff+s.SumsLen+s.IndexLen) + int64(f.Trailer) + format.FooterSize
	if s.size != 0 && s.size != t.size || t.whole && t.size != int64(len(t.b)) || t.size < int64(len(t.b)) {
		return contradiction("it should have %d bytes", t.size)
	}
	s.size = t.size
	return nil
}

func (d *disk) openIndex(ctx context.Context, s *segment, t *tail) error {
	b, err := t.section(ctx, s.SumsOff+s.SumsLen, s.IndexLen)
	if err != nil {
		return err
	}
	if b, err = s.box.Open(b, seal.Index, 0, nil); err != nil {
		return err
	}
	if s.frames, err = format.DecodeIndex(b, d.v.codec); err != nil {
		return err
	}
	var blocks, zeros uint64
	for i := range s.frames {
		for _, e := range s.frames[i].Extents {
			if s.frames[i].Codec == format.CodecZeros {
				zeros += uint64(e.Count)
			} else {
				blocks += uint64(e.Count)
			}
		}
	}
	if len(s.frames) != int(s.Frames) || format.FramesEnd(s.frames) != s.SumsOff || blocks != s.Blocks || zeros != s.Zeros {
		return contradiction("index and trailer differ")
	}
	return nil
}

// tail is the end of an object.
type tail struct {
	st    store.Store
	key   string
	b     []byte
	whole bool  // b is the object
	size  int64 // bytes of the object, once known
}

func (t *tail) load(ctx context.Context, n int64) (err error) {
	t.b, err = t.st.Get(ctx, t.key, -n, -1)
	t.whole = int64(len(t.b)) < n
	return err
}

// section returns bytes of the object that the caller may overwrite.
func (t *tail) section(ctx context.Context, off, n uint64) ([]byte, error) {
	at := int64(off) - (t.size - int64(len(t.b)))
	if at < 0 {
		return t.st.Get(ctx, t.key, int64(off), int64(n))
	}
	return t.b[at : at+int64(n) : at+int64(n)], nil
}

// write appends the segment r of plan p and trailer t to buf. It sets what the
// trailer says about the layout.
func (d *disk) write(buf []byte, r segmentRef, p *plan, t *format.Trailer) ([]byte, error) {
	var salt [format.SaltSize]byte
	rand.Read(salt[:]) // never fails
	box := d.box(r, salt)
	buf = slices.Grow(buf, p.room())
	buf = format.AppendHeader(buf, salt)
	for i := range p.frames {
		f := &p.frames[i]
		head := len(buf)
		buf = append(buf, 0, 0, 0, 0)
		f.Offset = uint64(len(buf))
		buf = format.AppendFrameMeta(buf, f)
		buf = append(buf, p.data[i]...)
		buf = box.SealTail(buf, int(f.Offset), seal.Frame, uint64(i), nil)
		f.Length = uint32(len(buf) - int(f.Offset))
		binary.BigEndian.PutUint32(buf[head:], f.Length)
	}
	t.Frames = uint32(len(p.frames))
	t.SumsOff = uint64(len(buf))
	buf = append(buf, p.sums...)
	buf = box.SealTail(buf, int(t.SumsOff), seal.Sums, 0, nil)
	t.SumsLen = uint64(len(buf)) - t.SumsOff
	index := len(buf)
	buf, err := format.AppendIndex(buf, p.frames, d.v.codec)
	if err != nil {
		return nil, err
	}
	buf = box.SealTail(buf, index, seal.Index, 0, nil)
	t.IndexLen = uint64(len(buf) - index)
	record, err := format.EncodeTrailer(t)
	if err != nil {
		return nil, err
	}
	footer := format.AppendFooter(nil, format.Footer{Salt: salt, Trailer: uint32(len(record) + seal.Overhead)})
	start := len(buf)
	buf = box.SealTail(append(buf, record...), start, seal.Trailer, 0, footer)
	buf = append(buf, footer...)
	if len(buf) > format.MaxSegment {
		return nil, invalid("segment has %d bytes, at most %d: make smaller batches", len(buf), format.MaxSegment)
	}
	return buf, nil
}
