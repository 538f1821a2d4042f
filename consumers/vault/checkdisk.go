package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// checkers is how many whole segments are in memory at once with ReadData.
const checkers = 3

// disk checks a disk's key and every segment of every epoch.
func (c *checker) disk(ctx context.Context, dc *diskCheck) error {
	c.report.Disks++
	if !dc.hasKey {
		c.problem(diskKeyKey(dc.id), "the disk's key is missing: its segments cannot be read", tryRepair)
		dc.breakAll()
		return nil
	}
	key, err := c.v.readDiskKey(ctx, dc.id) // not from memory: the object is what is checked
	if err != nil {
		dc.breakAll()
		return c.failed(diskKeyKey(dc.id), err)
	}
	d := &disk{v: c.v, id: dc.id, key: key}
	if c.o.ReadData {
		dc.replay = &replay{d: d, history: dc.history, state: newState()}
	}
	var epochs []uint64
	for e := range dc.history {
		epochs = append(epochs, e)
	}
	slices.Sort(epochs) // a base is older than what is based on it
	for _, e := range epochs {
		if err := c.epoch(ctx, d, dc, e); err != nil {
			return err
		}
	}
	dc.replay = nil // free its memory
	return nil
}

func (dc *diskCheck) breakAll() {
	for e, refs := range dc.history {
		dc.broken[e] = append(dc.broken[e], refs[0].first)
	}
}

// checked is a segment and what is wrong with it.
type checked struct {
	ref segmentRef
	s   *segment
	err error
}

func (c *checker) epoch(ctx context.Context, d *disk, dc *diskCheck, epoch uint64) error {
	refs := dc.history[epoch]
	if refs[0].first != 1 {
		c.missing(d, dc, Position{epoch, 1})
	}
	read := func(ctx context.Context, r segmentRef) (checked, error) {
		s, err := c.read(ctx, d, r)
		return checked{r, s, err}, nil
	}
	n := readers
	if c.o.ReadData {
		n = checkers
	}
	var prev *segment // nil after one that could not be read
	return inOrder(ctx, n, refs, read, func(x checked) error {
		c.report.Segments++
		c.advance(x.ref.size)
		err := x.err
		if err == nil {
			err = c.continues(d, dc, prev, x.s)
		}
		if err == nil {
			err = dc.replay.step(ctx, x.s)
		}
		prev = x.s
		if err != nil {
			dc.broken[epoch] = append(dc.broken[epoch], x.ref.first)
			return c.failed(d.keyOf(x.ref), err)
		}
		if x.s.Open != nil {
			dc.bases[epoch] = Position{x.s.BaseEpoch, x.s.BaseNumber}
		}
		dc.ends[x.s.end()] = endCheck{hash: x.s.Hash, cut: x.s.Cut != nil, size: x.s.Size, digest: x.s.Digest}
		return nil
	})
}

func (c *checker) missing(d *disk, dc *diskCheck, at Position) {
	dc.broken[at.Epoch] = append(dc.broken[at.Epoch], at.Number)
	var e *DamageError
	errors.As(d.missing(at), &e)
	c.problem(e.Key, e.What, tryRepair)
}

// continues checks a segment's place in the chain.
func (c *checker) continues(d *disk, dc *diskCheck, prev, s *segment) error {
	if prev != nil {
		if s.First > prev.Last+1 {
			c.missing(d, dc, Position{s.Epoch, prev.Last + 1})
			return nil
		}
		return d.follows(prev, s)
	}
	base := Position{s.BaseEpoch, s.BaseNumber}
	if s.Open == nil || base == (Position{}) {
		return nil
	}
	end, ok := dc.ends[base]
	switch {
	case !ok && dc.needs(base) != "":
		return nil // that is reported where it is
	case !ok:
		return damaged(s.key, contradiction("its epoch is based on %s, where no segment ends", base))
	case end.hash != s.BaseHash:
		return damaged(s.key, contradiction("its epoch is based on another chain than that up to %s", base))
	}
	return nil
}

// read reads a segment as deep as the options say.
func (c *checker) read(ctx context.Context, d *disk, r segmentRef) (*segment, error) {
	if !c.o.ReadData {
		return d.read(ctx, r, partIndex)
	}
	key := d.keyOf(r)
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
	for _, e := range f.Extents {
		for i := range e.Count {
			block := raw[int(e.Off+i)*BlockSize:][:BlockSize]
			if SumOf(block) != Sum(sums) {
				return nil, nil, contradiction("block %d does not have its sum: it was damaged before it was sealed", e.Start+uint64(i))
			}
			sums = sums[sumSize:]
		}
	}
	return sums, room, nil
}

// replay follows a disk's sums through all its epochs, and compares them with the
// digest that each segment records.
type replay struct {
	d       *disk
	history history
	state   *state
	lost    bool // a segment could not be read: nothing to compare until the next fork
}

// step goes on to s. A nil replay does nothing.
func (r *replay) step(ctx context.Context, s *segment) error {
	if r == nil {
		return nil
	}
	at := Position{s.Epoch, s.First - 1}
	if s.Open != nil {
		at = Position{s.BaseEpoch, s.BaseNumber}
	}
	if r.state.head.Position != at {
		if s.Open == nil {
			r.lost = true // the segment before is damaged, and reported
		} else if err := r.fork(ctx, at); err != nil {
			return err
		}
	}
	if r.lost {
		return nil
	}
	digest, err := r.next(s)
	if err == nil && digest != s.Digest {
		err = contradiction("the disk after it has digest %x, it says %x", digest[:8], s.Digest[:8])
	}
	return damaged(s.key, err)
}

// next applies s and returns the digest that comes out.
func (r *replay) next(s *segment) (Digest, error) {
	digest, table, sums := r.state.head.Digest, r.state.table, s.sums
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
	return digest, r.state.step(s)
}

// fork goes back to where an epoch branched off, by reading that history again.
func (r *replay) fork(ctx context.Context, at Position) error {
	r.state, r.lost = newState(), false
	line, err := r.d.lineage(ctx, r.history, at)
	if err == nil {
		refs, _ := since(line, Position{})
		err = r.d.walk(ctx, nil, refs, partIndex|partSums, r.state.step)
	}
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
		r.lost = true // reported where it is
		return nil
	}
	return err
}
