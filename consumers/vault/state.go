package vault

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// state is a disk after some segment: what the next batch is judged and planned by.
type state struct {
	head     Head
	baseHash [32]byte   // chain hash at head.Base
	line     []Position // the bases that head builds on, oldest first
	table    *table
}

func newState() *state { return &state{table: newTable()} }

// step brings the state to after segment s, which continues it.
func (st *state) step(s *segment) error {
	if err := st.table.applyFrames(s.frames, s.sums); err != nil {
		return err
	}
	if s.Open != nil {
		if s.BaseEpoch != 0 {
			st.line = append(slices.Clip(st.line), Position{s.BaseEpoch, s.BaseNumber})
		}
		st.baseHash = s.BaseHash
		st.head.Open = openRecord(s.Trailer)
	}
	st.head.Position, st.head.Hash = s.end(), s.Hash
	st.head.Base = Position{s.BaseEpoch, s.BaseNumber}
	st.head.Digest, st.head.Size = s.Digest, s.Size
	return nil
}

// last lets the state stand for the segment it ends with.
func (st *state) last(d *disk) *segment {
	h := &st.head
	return &segment{key: d.id.String() + " at " + h.Position.String(), Trailer: &format.Trailer{
		Epoch: h.Epoch, Last: h.Number, Hash: h.Hash,
		BaseEpoch: h.Base.Epoch, BaseNumber: h.Base.Number, BaseHash: st.baseHash,
	}}
}

// contains tells whether the disk's history up to head goes through p. Comparing
// positions would not do: p may lie on a branch that head does not build on.
func (st *state) contains(p Position) bool {
	if p == (Position{}) || p.Epoch == st.head.Epoch && p.Number <= st.head.Number {
		return true
	}
	for _, base := range st.line {
		if base.Epoch == p.Epoch {
			return p.Number <= base.Number
		}
	}
	return false
}

// admit says why a batch cannot be the next.
func (st *state) admit(b *Batch) error {
	h := &st.head
	switch {
	case b.Epoch < h.Epoch:
		return fmt.Errorf("%w: the vault is at %s", ErrFenced, h.Position)
	case b.Epoch == h.Epoch && b.First <= h.Number:
		return fmt.Errorf("%w: the vault is at %s", ErrConflict, h.Position)
	case b.Epoch == h.Epoch && b.First != h.Number+1, b.Epoch > h.Epoch && b.Open == nil:
		return fmt.Errorf("%w: there is a gap, the vault is at %s", ErrChain, h.Position)
	case b.Epoch == h.Epoch && b.Prev != h.Hash:
		return fmt.Errorf("%w: it forks, link %d of the vault has hash %x, not %x", ErrChain, h.Number, h.Hash[:8], b.Prev[:8])
	case b.Open != nil && !st.contains(b.MinBase):
		return fmt.Errorf("%w: it is at %s, which does not contain %s", ErrBehind, h.Position, b.MinBase)
	}
	return nil
}

// check says which rule of Batch b breaks, beside those of its frames.
func (b *Batch) check() error {
	switch {
	case b.Epoch == 0 || b.First == 0 || b.Last < b.First || b.Last == math.MaxUint64:
		return invalid("links %d to %d of epoch %d", b.First, b.Last, b.Epoch)
	case (b.First == 1) != (b.Open != nil):
		return invalid("an epoch starts with one open, and only there")
	case b.First == 1 && b.Prev != [32]byte{}:
		return invalid("link 1 has a predecessor")
	case b.Open != nil && b.Open.Size > math.MaxInt64, b.Cut != nil && b.Cut.Size > math.MaxInt64:
		return invalid("the disk is too large")
	}
	return nil
}

// trailer returns the trailer of b's segment, without its layout.
func (st *state) trailer(b *Batch, p *plan) *format.Trailer {
	t := &format.Trailer{
		Epoch: b.Epoch, First: b.First, Last: b.Last, Prev: b.Prev, Hash: b.Hash,
		BaseEpoch: st.head.Base.Epoch, BaseNumber: st.head.Base.Number, BaseHash: st.baseHash,
		Size: p.size, Digest: p.digest, Blocks: p.blocks, Zeros: p.zeros,
	}
	if o := b.Open; o != nil {
		t.BaseEpoch, t.BaseNumber, t.BaseHash = st.head.Epoch, st.head.Number, st.head.Hash
		t.Open = &format.Open{
			Size: o.Size, Capture: o.Capture, Guarantee: o.Guarantee, Host: o.Host, Instance: o.Instance,
			Path: o.Path, Identity: o.Identity, Reason: o.Reason, Time: unixNano(o.Time),
		}
	}
	if c := b.Cut; c != nil {
		t.Cut = &format.Cut{Point: c.Point, Group: c.Group, Time: unixNano(c.Time), Consistency: c.Consistency, Size: c.Size}
	}
	return t
}

func openRecord(t *format.Trailer) *Open {
	o := t.Open
	return &Open{
		Size: o.Size, Capture: o.Capture, Guarantee: o.Guarantee, Host: o.Host, Instance: o.Instance,
		Path: o.Path, Identity: o.Identity, Reason: o.Reason, Time: fromNano(o.Time),
		Base: Position{t.BaseEpoch, t.BaseNumber}, BaseHash: t.BaseHash,
	}
}

// unixNano keeps the zero time: it is none, and has no Unix nanoseconds.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNano(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
