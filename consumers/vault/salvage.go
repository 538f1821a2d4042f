package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// errBeyond means that a segment cannot be made anew.
var errBeyond = errors.New("beyond repair")

// salvaged is what a segment was, found out from its frames and its neighbours.
type salvaged struct {
	plan    plan
	t       *format.Trailer
	what    string // is damaged
	without string // what could not be found out
}

// wreck is a damaged segment on the way to be made anew.
type wreck struct {
	d   *disk
	ref segmentRef
	b   []byte
	box *seal.Box
	salvaged
	trailer *format.Trailer // if it opens
	end     uint64          // of the frames
}

// salvage reads what is left of a raw segment. Every frame must be whole, and that
// there are no more must be certain. Then index and sums follow; what the end said
// follows from it, or from the neighbours in the chain and the points.
func (d *disk) salvage(ctx context.Context, c *checker, dc *diskCheck, ref segmentRef) (*salvaged, error) {
	if ref.size > format.MaxSegment {
		return nil, errBeyond
	}
	b, err := d.v.st.Get(ctx, d.keyOf(ref), 0, -1)
	if err != nil {
		return nil, err
	}
	w := &wreck{d: d, ref: ref, b: b}
	if !w.open() {
		return nil, errBeyond
	}
	if err := w.frames(); err != nil {
		return nil, err
	}
	if !w.complete() {
		return nil, errBeyond
	}
	w.t = w.trailer
	if w.t == nil {
		w.what = "end is damaged"
		if !w.guess(c, dc) {
			return nil, errBeyond
		}
	}
	if err := w.follow(ctx, dc); err != nil {
		return nil, err
	}
	w.t.Blocks, w.t.Zeros = w.plan.blocks, w.plan.zeros
	return &w.salvaged, nil
}

// open finds the salt, of which there are two copies: the one with which the first
// part opens is right.
func (w *wreck) open() bool {
	if len(w.b) < format.HeaderSize+format.FooterSize {
		return false
	}
	head := [format.SaltSize]byte(w.b[format.HeaderSize-format.SaltSize:])
	foot := [format.SaltSize]byte(w.b[len(w.b)-format.FooterSize:])
	for _, salt := range [][format.SaltSize]byte{head, foot} {
		w.box = w.d.box(w.ref, salt)
		if f, err := format.DecodeFooter(w.b); err == nil && int(f.Trailer)+format.FooterSize <= len(w.b) {
			end := len(w.b) - format.FooterSize
			plain, err := w.box.Open(bytes.Clone(w.b[end-int(f.Trailer):end]), seal.Trailer, 0, w.b[end:])
			if err == nil {
				if t, err := format.DecodeTrailer(plain); err == nil && t.Epoch == w.ref.epoch && t.First == w.ref.first {
					w.trailer, w.what = t, "index, sums or header is damaged"
					return true
				}
			}
		}
		if _, ok := w.frame(format.HeaderSize, 0); ok {
			return true
		}
	}
	return false
}

// frame opens the frame at an offset.
func (w *wreck) frame(at, ordinal uint64) (plain []byte, ok bool) {
	if at+format.FrameHeaderSize > uint64(len(w.b)) {
		return nil, false
	}
	n := uint64(binary.BigEndian.Uint32(w.b[at:]))
	from := at + format.FrameHeaderSize
	if n < format.Overhead || n > uint64(len(w.b))-from {
		return nil, false
	}
	plain, err := w.box.Open(bytes.Clone(w.b[from:from+n]), seal.Frame, ordinal, nil)
	return plain, err == nil
}

// frames takes over all frames that open, from the first on.
func (w *wreck) frames() error {
	w.end = format.HeaderSize
	var room []byte
	for n := uint64(0); ; n++ {
		plain, ok := w.frame(w.end, n)
		if !ok {
			return nil
		}
		w.end += format.FrameHeaderSize + uint64(len(plain)) + format.Overhead
		f, data, err := format.DecodeFrame(plain)
		if err != nil {
			return damaged(w.d.keyOf(w.ref), err)
		}
		w.plan.frames, w.plan.data = append(w.plan.frames, *f), append(w.plan.data, data)
		if f.Codec == format.CodecZeros {
			for _, e := range f.Extents {
				w.plan.zeros += uint64(e.Count)
			}
			continue
		}
		if room == nil {
			room = make([]byte, 0, format.MaxRaw)
		}
		raw, err := unpack(w.d.v.codec, room, f.Codec, int(f.Blocks)*BlockSize, data)
		if err != nil {
			return damaged(w.d.keyOf(w.ref), err)
		}
		for _, e := range f.Extents {
			for i := range e.Count {
				s := SumOf(raw[int(e.Off+i)*BlockSize:][:BlockSize])
				w.plan.sums = append(w.plan.sums, s[:]...)
			}
			w.plan.blocks += uint64(e.Count)
		}
	}
}

// complete tells whether these are all frames: the end says how many, or the sums open,
// which lie right behind the last and are as many as blocks.
func (w *wreck) complete() bool {
	if w.trailer != nil {
		return int(w.trailer.Frames) == len(w.plan.frames) && w.trailer.SumsOff == w.end
	}
	n := 16*w.plan.blocks + format.Overhead
	if w.end+n > uint64(len(w.b)) {
		return false
	}
	sums, err := w.box.Open(bytes.Clone(w.b[w.end:w.end+n]), seal.Sums, 0, nil)
	return err == nil && bytes.Equal(sums, w.plan.sums)
}

// guess finds what the end said from the segments before and behind and from points.
func (w *wreck) guess(c *checker, dc *diskCheck) bool {
	prev, next := dc.neighbours(w.d, w.ref)
	t := &format.Trailer{Epoch: w.ref.epoch, First: w.ref.first}
	switch {
	case next == nil || next.Epoch == t.Epoch && next.First == 1:
		return false // nobody says how it ended
	case next.Epoch == t.Epoch:
		t.Last, t.Hash, t.Size = next.First-1, next.Prev, next.Size
		t.BaseEpoch, t.BaseNumber, t.BaseHash = next.BaseEpoch, next.BaseNumber, next.BaseHash
	default:
		if t.First == 1 {
			return false // its base is not known
		}
		t.Last, t.Hash, t.Size = next.BaseNumber, next.BaseHash, next.Size
	}
	switch {
	case t.First == 1:
		t.Open = &format.Open{Size: t.Size, Reason: "made anew by repair"}
		w.without = ", without the record of who protected the disk"
	case prev == nil || prev.Last+1 != t.First:
		return false
	default:
		t.Prev = prev.Hash
		t.BaseEpoch, t.BaseNumber, t.BaseHash = prev.BaseEpoch, prev.BaseNumber, prev.BaseHash
	}
	if p, d := c.pointAt(dc.id, Position{t.Epoch, t.Last}); d != nil {
		t.Size, t.Digest = d.Size, d.Digest
		t.Cut = &format.Cut{Point: p.ID, Group: p.Group, Time: p.Time, Consistency: p.Consistency, Size: d.Size}
	} else {
		w.without += ", without a cut, if it had one"
	}
	w.t = t
	return true
}

// neighbours returns the sound segments before and behind a raw one. Behind it may be
// the first of an epoch that is based on its end.
func (dc *diskCheck) neighbours(d *disk, ref segmentRef) (prev, next *segment) {
	for _, s := range dc.sound {
		if s.level != levelRaw && s.level != levelFolded || s.Epoch != ref.epoch {
			continue
		}
		if s.Last < ref.first && (prev == nil || s.Last > prev.Last) {
			prev = s
		}
		if s.First > ref.first && (next == nil || s.First < next.First) {
			next = s
		}
	}
	if next != nil {
		// The one behind must be the next that was there, damaged or not.
		raw := dc.history[ref.epoch].raw
		if i := at(raw, ref.first+1); i < len(raw) && raw[i].first < next.First {
			return prev, nil
		}
		return prev, next
	}
	raw := dc.history[ref.epoch].raw
	if at(raw, ref.first+1) < len(raw) {
		return prev, nil
	}
	for _, s := range dc.sound {
		if s.First == 1 && s.BaseEpoch == ref.epoch && s.BaseNumber >= ref.first {
			return prev, s
		}
	}
	return prev, nil
}

// pointAt returns a point that has the disk at a position.
func (c *checker) pointAt(id DiskID, at Position) (*format.Point, *format.PointDisk) {
	for _, p := range c.opened {
		for i := range p.Machines {
			for k := range p.Machines[i].Disks {
				d := &p.Machines[i].Disks[k]
				if p.Machines[i].Machine == id.Machine && d.Disk == id.Disk && (Position{d.Epoch, d.Number}) == at {
					return p, d
				}
			}
		}
	}
	return nil, nil
}

// follow computes the digest of the disk after the segment, and compares it with what
// the end or a point says.
func (w *wreck) follow(ctx context.Context, dc *diskCheck) error {
	before := Position{w.t.BaseEpoch, w.t.BaseNumber}
	if w.t.First > 1 {
		before = Position{w.t.Epoch, w.t.First - 1}
	}
	st := newState()
	if before != (Position{}) {
		line, what := dc.lineage(before)
		if what != "" {
			return errBeyond
		}
		err := w.d.walk(ctx, nil, line.refs(), partIndex|partSums, func(s *segment) error { return st.step(s) })
		if err != nil {
			if errors.Is(err, ErrDamaged) {
				return errBeyond
			}
			return err
		}
		if st.head.Position != before {
			return errBeyond
		}
	}
	digest, err := st.next(&segment{Trailer: w.t, frames: w.plan.frames, sums: w.plan.sums})
	if err != nil {
		return errBeyond
	}
	if w.t.Digest != (Digest{}) && w.t.Digest != digest {
		return errBeyond // these are not the blocks that were there
	}
	w.t.Digest = digest
	if w.t.Size > math.MaxInt64 {
		return errBeyond
	}
	return nil
}
