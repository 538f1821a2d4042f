package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// checkers is how many whole segments are in memory at once with ReadData.
const checkers = 3

// disk checks a disk's key and every segment of every epoch.
func (c *checker) disk(ctx context.Context, dc *diskCheck) error {
	c.report.Disks++
	if !dc.hasKey {
		dc.lost = "the disk's key is missing"
		c.problem(diskKeyKey(dc.id), "the disk's key is missing: its segments cannot be read", tryRepair)
		return nil
	}
	key, err := c.v.readDiskKey(ctx, dc.id) // not from memory: the object is what is checked
	if err != nil {
		dc.lost = "the disk's key is damaged"
		return c.failed(diskKeyKey(dc.id), err)
	}
	d := &disk{v: c.v, id: dc.id, key: key}
	for _, e := range dc.history.epochs() {
		for _, refs := range [][]segmentRef{dc.history[e].raw, dc.history[e].folded} {
			if err := c.segments(ctx, d, dc, refs); err != nil {
				return err
			}
		}
	}
	for _, e := range dc.history.epochs() { // a base is older than what is based on it
		c.line(d, dc, e)
	}
	if err := c.maps(ctx, d, dc); err != nil {
		return err
	}
	if !c.o.ReadData {
		return nil
	}
	for _, e := range dc.history.epochs() {
		if err := c.replay(ctx, d, dc, e); err != nil {
			return err
		}
	}
	return nil
}

// checked is a segment and what is wrong with it.
type checked struct {
	ref segmentRef
	s   *segment
	err error
}

// segments checks each segment by itself.
func (c *checker) segments(ctx context.Context, d *disk, dc *diskCheck, refs []segmentRef) error {
	read := func(ctx context.Context, r segmentRef) (checked, error) {
		s, err := c.read(ctx, d, r)
		if s != nil {
			s.frames, s.sums, s.box = nil, nil, nil // there may be many segments
		}
		return checked{r, s, err}, nil
	}
	n := readers
	if c.o.ReadData || c.o.Subset > 0 {
		n = checkers
	}
	return inOrder(ctx, n, refs, read, func(x checked) error {
		c.report.Segments++
		c.advance(x.ref.size)
		if c.o.ReadData || c.whole[d.keyOf(x.ref)] {
			c.report.Read += x.ref.size
		}
		if errors.Is(x.err, errGone) && c.replaced(ctx, d, x.ref) {
			return nil
		}
		if x.err != nil {
			return c.failed(d.keyOf(x.ref), x.err)
		}
		dc.sound[d.keyOf(x.ref)] = x.s
		return nil
	})
}

// replaced tells whether a segment that vanished was folded while the check ran.
func (c *checker) replaced(ctx context.Context, d *disk, r segmentRef) bool {
	h, err := d.history(ctx)
	return err == nil && h[r.epoch] != nil && h[r.epoch].foldedTo() >= r.first
}

// lineCheck is an epoch seen from its end.
type lineCheck struct {
	base Position
	end  Position // of the newest position that can be had
	bad  string   // why the epoch has no beginning
}

// line checks how the segments of an epoch hang together.
func (c *checker) line(d *disk, dc *diskCheck, epoch uint64) {
	l := &lineCheck{}
	dc.lines[epoch] = l
	h := dc.history[epoch]
	if begin, ok := h.begin(); !ok {
		l.bad = fmt.Sprintf("epoch %d has no beginning", epoch)
		c.missing(d, Position{epoch, 1})
	} else if s := dc.sound[d.keyOf(begin)]; s == nil {
		l.bad = "it builds on " + d.keyOf(begin) + ", which is damaged"
	} else {
		l.base = Position{s.BaseEpoch, s.BaseNumber}
		if err := dc.based(s); err != nil {
			l.bad = err.Error()
			_ = c.failed(s.key, damaged(s.key, err)) // a contradiction is always a problem
		}
	}
	var prev *segment
	for _, r := range h.chain(math.MaxUint64, func(segmentRef) bool { return true }) {
		s := dc.sound[d.keyOf(r)]
		if prev != nil && s != nil {
			if s.First > prev.Last+1 {
				c.missing(d, Position{epoch, prev.Last + 1})
			} else if err := d.follows(prev, s); err != nil {
				_ = c.failed(s.key, err)
				delete(dc.sound, s.key)
				s = nil
			}
		}
		if prev = s; s != nil {
			l.end = s.end()
		}
	}
}

func (c *checker) missing(d *disk, at Position) {
	var e *DamageError
	errors.As(d.missing(at), &e)
	c.problem(e.Key, e.What, tryRepair)
}

// based checks the base that the first segment of an epoch names.
func (dc *diskCheck) based(s *segment) error {
	base := Position{s.BaseEpoch, s.BaseNumber}
	if base == (Position{}) {
		return nil
	}
	h, d := dc.history[base.Epoch], disk{id: dc.id}
	if h == nil {
		return contradiction("its epoch is based on %s, which is not there", base)
	}
	damaged := false
	for _, refs := range [][]segmentRef{h.raw, h.folded} {
		for _, r := range refs {
			end := dc.sound[d.keyOf(r)]
			switch {
			case end == nil:
				damaged = true
			case end.end() != base:
			case end.Hash != s.BaseHash:
				return contradiction("its epoch is based on another chain than that up to %s", base)
			default:
				return nil
			}
		}
	}
	if damaged {
		return nil // that is reported where it is
	}
	return contradiction("its epoch is based on %s, where no segment ends", base)
}

// lineage returns what a position is made of, or what is in the way.
func (dc *diskCheck) lineage(at Position) (lineage, string) {
	var all lineage
	for p := at; p != (Position{}); {
		l := dc.lines[p.Epoch]
		if l == nil {
			return nil, fmt.Sprintf("epoch %d has no beginning", p.Epoch)
		}
		if l.bad != "" {
			return nil, l.bad
		}
		all = append(all, branch{epoch: p.Epoch, last: p.Number})
		p = l.base
	}
	slices.Reverse(all)
	for i := range all {
		all[i].refs = dc.history[all[i].epoch].chain(all[i].last, func(r segmentRef) bool { return all.contains(r.until) })
	}
	return all, ""
}

// reach returns the segment that ends at a position if everything it is made of is
// sound, or says what is not.
func (dc *diskCheck) reach(at Position) (*segment, string) {
	if dc.lost != "" {
		return nil, dc.lost
	}
	line, what := dc.lineage(at)
	if what != "" {
		return nil, what
	}
	var prev *segment
	d := disk{id: dc.id}
	for _, r := range line.refs() {
		s := dc.sound[d.keyOf(r)]
		if s == nil {
			return nil, "it builds on " + d.keyOf(r) + ", which is damaged"
		}
		if err := d.follows(prev, s); err != nil {
			return nil, err.Error()
		}
		prev = s
	}
	if prev == nil || prev.end() != at {
		return nil, fmt.Sprintf("no segment ends at %s", at)
	}
	return prev, ""
}

// read reads a segment as deep as the options say.
func (c *checker) read(ctx context.Context, d *disk, r segmentRef) (*segment, error) {
	key := d.keyOf(r)
	if !c.o.ReadData && !c.whole[key] {
		return d.read(ctx, r, partIndex)
	}
	if r.size > format.MaxSegment {
		return nil, damaged(key, contradiction("it has %d bytes, at most %d", r.size, format.MaxSegment))
	}
	b, err := d.v.st.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	t := &tail{st: d.v.st, key: key, b: b, whole: true}
	s, err := d.parse(ctx, r, t, partIndex|partSums)
	if err != nil {
		return nil, err
	}
	return s, damaged(key, d.checkData(s, b))
}

// checkData verifies every byte of a segment that parse has not.
func (d *disk) checkData(s *segment, b []byte) error {
	salt, err := format.DecodeHeader(b)
	if err != nil {
		return err
	}
	if salt != s.salt {
		return contradiction("header and footer differ")
	}
	sums := s.sums
	var room []byte
	for i := range s.frames {
		f := &s.frames[i]
		sealed := b[f.Offset : f.Offset+uint64(f.Length) : f.Offset+uint64(f.Length)]
		if n := binary.BigEndian.Uint32(b[f.Offset-format.FrameHeaderSize:]); n != f.Length {
			return contradiction("frame %d says that it has %d bytes, the index says %d", i, n, f.Length)
		}
		plain, err := s.box.Open(sealed, seal.Frame, uint64(i), nil)
		if err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if sums, room, err = d.checkFrame(f, plain, sums, room); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
	}
	return nil
}

// checkFrame compares an opened frame with its entry in the index and its sums, and
// returns the rest of sums. room is for unpacking.
func (d *disk) checkFrame(f *format.Frame, plain, sums, room []byte) (rest, roomAfter []byte, err error) {
	own, data, err := format.DecodeFrame(plain)
	if err != nil {
		return nil, nil, err
	}
	if own.Codec != f.Codec || own.Blocks != f.Blocks || !slices.Equal(own.Extents, f.Extents) {
		return nil, nil, contradiction("it does not map what the index says")
	}
	if f.Codec == format.CodecZeros {
		return sums, room, nil
	}
	if room == nil {
		room = make([]byte, 0, format.MaxRaw)
	}
	raw, err := unpack(d.v.codec, room, f.Codec, int(f.Blocks)*BlockSize, data)
	if err != nil {
		return nil, nil, err
	}
	found := make([]Sum, f.Blocks)
	for _, e := range f.Extents {
		got := found[:e.Count]
		sumsOf(raw[int(e.Off)*BlockSize:int(e.Off+e.Count)*BlockSize], got)
		for i := range got {
			if got[i] != Sum(sums) {
				return nil, nil, contradiction("block %d does not have its sum: it was damaged before it was sealed", e.Start+uint64(i))
			}
			sums = sums[sumSize:]
		}
	}
	return sums, room, nil
}

// replay follows the sums of a disk along an epoch, from the disk's beginning, and
// compares what they add up to with the digest that each segment records. Epochs
// that others go on from are seen with these.
func (c *checker) replay(ctx context.Context, d *disk, dc *diskCheck, epoch uint64) error {
	end := dc.lines[epoch].end
	for _, l := range dc.lines {
		if l.base.Epoch == epoch && l.base.Number >= end.Number {
			return nil
		}
	}
	line, what := dc.lineage(end)
	if what != "" || end == (Position{}) || dc.history.dropped(line) {
		return nil // reported where it is, or nothing that is kept
	}
	st, whole := newState(), Position{}
	err := d.walk(ctx, nil, line.refs(), partIndex|partSums, func(s *segment) error {
		digest, err := st.next(s)
		if s.level != levelRaw && s.until.Compare(whole) > 0 {
			whole = s.until // until then, the sums lack what is overwritten
		}
		if err == nil && s.end().Compare(whole) >= 0 && digest != s.Digest {
			err = contradiction("the disk after it has digest %x, it says %x", digest[:8], s.Digest[:8])
		}
		st.head.Digest = digest
		if err != nil {
			delete(dc.sound, s.key)
		}
		return damaged(s.key, err)
	})
	switch {
	case errors.Is(err, errGone):
		return nil // folded meanwhile: the next check sees it
	case err != nil && dc.reported(err):
		return nil
	}
	return c.failed(d.keyOf(line.refs()[0]), err)
}

// reported tells whether the damage of a segment is known already.
func (dc *diskCheck) reported(err error) bool {
	var e *DamageError
	if !errors.As(err, &e) {
		return false
	}
	return dc.sound[e.Key] == nil && !strings.Contains(e.What, "digest")
}

// next applies s and returns the digest that comes out.
func (st *state) next(s *segment) (Digest, error) {
	digest, table, sums := st.head.Digest, st.table, s.sums
	for i := range s.frames {
		for _, e := range s.frames[i].Extents {
			if s.frames[i].Codec == format.CodecZeros {
				table.each(e.Start, e.End(), func(b uint64, old Sum) { digest.Replace(b, old, Sum{}) })
				continue
			}
			for b := e.Start; b < e.End(); b++ {
				digest.Replace(b, table.get(b), Sum(sums))
				sums = sums[sumSize:]
			}
		}
	}
	return digest, st.step(s)
}
