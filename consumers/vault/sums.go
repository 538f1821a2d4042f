package vault

import (
	"context"
	"fmt"
	"slices"
)

// Sums has the sum of every block of a disk at a position: what a disk somewhere else
// must be compared with to be brought there. It takes 16 bytes of memory for each block
// that is not zero, beyond 4 GiB of such disk in a file. It may be used from many
// goroutines.
type Sums struct{ st *state }

// SumsAt returns the sums of a disk at a position, which must end a segment, as every
// cut does. It reads the sums of the segments that the disk is made of, no contents. At
// the zero Position every disk is empty. It returns ErrNotFound if the position is not
// kept.
func (v *Vault) SumsAt(ctx context.Context, id DiskID, at Position) (*Sums, error) {
	if at == (Position{}) {
		return &Sums{newState()}, nil
	}
	st, err := v.sumsAt(ctx, id, at)
	if err != nil {
		return nil, fmt.Errorf("sums of disk %s at %s: %w", id, at, err)
	}
	return &Sums{st}, nil
}

func (v *Vault) sumsAt(ctx context.Context, id DiskID, at Position) (st *state, err error) {
	d, err := v.disk(ctx, id)
	if err != nil {
		return nil, err
	}
	err = steady(func() error {
		line, err := d.plain(ctx, at)
		if err == nil {
			st, err = d.stateAt(ctx, line)
		}
		return err
	})
	if err != nil {
		return nil, d.explain(ctx, at, err)
	}
	if st.head.Position != at {
		return nil, fmt.Errorf("%w: no segment ends there, the last before it ends at %s", ErrNotFound, st.head.Position)
	}
	return st, nil
}

// stateAt reads what a lineage adds up to.
func (d *disk) stateAt(ctx context.Context, line lineage) (*state, error) {
	st := newState()
	refs := line.refs()
	err := d.walk(ctx, nil, refs, partIndex|partSums, func(s *segment) error { return damaged(s.key, st.step(s)) })
	if err != nil {
		return nil, err
	}
	if st.table.digest() != st.head.Digest {
		return nil, damaged(d.keyOf(refs[len(refs)-1]), contradiction("the sums of the disk do not add up to its digest"))
	}
	return st, nil
}

// Position returns where in its history the disk has these sums.
func (s *Sums) Position() Position { return s.st.head.Position }

// Size returns the size of the disk in bytes.
func (s *Sums) Size() uint64 { return s.st.head.Size }

// Digest returns the digest of the disk.
func (s *Sums) Digest() Digest { return s.st.head.Digest }

// Read returns the sums of count blocks from start on.
func (s *Sums) Read(start uint64, count int) []Sum { return s.st.table.read(start, count) }

// Differ calls yield for every run of blocks whose sums are not those of o, ascending,
// until it returns false.
func (s *Sums) Differ(o *Sums, yield func(start, count uint64) bool) {
	a, b := s.st.table, o.st.table
	numbers := make([]uint64, 0, len(a.pages)+len(b.pages))
	for n := range a.pages {
		numbers = append(numbers, n)
	}
	for n := range b.pages {
		if _, ok := a.pages[n]; !ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	var start, end uint64 // the run so far
	for _, n := range numbers {
		x, y := a.read(n*pageBlocks, pageBlocks), b.read(n*pageBlocks, pageBlocks)
		for i := range x {
			if x[i] == y[i] {
				continue
			}
			at := n*pageBlocks + uint64(i)
			if at != end || start == end {
				if start < end && !yield(start, end-start) {
					return
				}
				start = at
			}
			end = at + 1
		}
	}
	if start < end {
		yield(start, end-start)
	}
}
