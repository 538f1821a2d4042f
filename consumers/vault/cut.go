package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// maxSteps is how many segments Cut follows from the one it found last before it
// lists the epoch instead.
const maxSteps = 64

// Cut returns the cut that ends at a position, or ErrNotFound. Asked for a disk's
// cuts one after the other, it reads only the segments in between.
func (v *Vault) Cut(ctx context.Context, id DiskID, at Position) (CutInfo, error) {
	d, err := v.disk(ctx, id)
	if err != nil {
		return CutInfo{}, fmt.Errorf("cut %s of %s: %w", at, id, err)
	}
	s, err := d.ending(ctx, at)
	if err == nil && s.Cut == nil {
		err = ErrNotFound
	}
	if err != nil {
		return CutInfo{}, fmt.Errorf("cut %s of %s: %w", at, id, err)
	}
	c := cutInfo(id, s)
	if s.level == levelRaw {
		// A folded one is too old to be listed, whenever it was folded.
		i, err := v.st.Stat(ctx, s.key)
		if err != nil {
			return CutInfo{}, fmt.Errorf("cut %s of %s: %w", at, id, err)
		}
		c.stored = i.Modified
	}
	return c, nil
}

func cutInfo(id DiskID, s *segment) CutInfo {
	c := s.Cut
	return CutInfo{
		Cut:  Cut{Point: c.Point, Group: c.Group, Time: fromNano(c.Time), Consistency: c.Consistency, Size: c.Size},
		Disk: id, At: s.end(), Digest: s.Digest,
	}
}

// ending returns the segment whose last link is at, without its index.
func (d *disk) ending(ctx context.Context, at Position) (*segment, error) {
	s, err := d.stepTo(ctx, at)
	if s == nil && err == nil {
		s, err = d.search(ctx, at)
	}
	if err != nil {
		return nil, err
	}
	if s.level == levelRaw {
		d.v.mu.Lock()
		d.v.near[d.id] = segmentRef{epoch: s.Epoch, first: s.First}
		d.v.mu.Unlock()
	}
	if s.Last != at.Number {
		return nil, fmt.Errorf("%w: no segment ends there", ErrNotFound)
	}
	return s, nil
}

// stepTo walks from the segment found last to the one with link at. It returns nil
// if that does not lead there.
func (d *disk) stepTo(ctx context.Context, at Position) (*segment, error) {
	d.v.mu.Lock()
	r, ok := d.v.near[d.id]
	d.v.mu.Unlock()
	if !ok || r.epoch != at.Epoch || r.first > at.Number {
		return nil, nil
	}
	for range maxSteps {
		s, err := d.read(ctx, r, partTrailer)
		if errors.Is(err, ErrNotFound) {
			return nil, nil // the vault ends before at, or has folded what was there
		}
		if err != nil || s.Last >= at.Number {
			return s, err
		}
		r.first = s.Last + 1
	}
	return nil, nil
}

// search lists the epoch for the segment with link at.
func (d *disk) search(ctx context.Context, at Position) (found *segment, err error) {
	err = steady(func() error {
		var r segmentRef
		if at.Epoch != 0 {
			err := d.list(ctx, at.Epoch, func(s segmentRef) error {
				switch {
				case s.level == levelRaw && s.first <= at.Number, s.level != levelRaw && s.first <= at.Number && at.Number <= s.last && r.last != at.Number:
					r = s
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		if r.epoch == 0 {
			return ErrNotFound
		}
		found, err = d.read(ctx, r, partTrailer)
		return err
	})
	return found, err
}

// Cuts calls yield for every cut of a disk that the vault keeps, ascending by
// position, until yield returns an error, which Cuts returns. It reads every
// segment's trailer.
func (v *Vault) Cuts(ctx context.Context, id DiskID, yield func(CutInfo) error) error {
	d, err := v.disk(ctx, id)
	if err != nil {
		return fmt.Errorf("cuts of %s: %w", id, err)
	}
	h, err := d.history(ctx)
	if err != nil {
		return err
	}
	last := Position{}
	read := func(ctx context.Context, r segmentRef) (*segment, error) {
		s, err := d.read(ctx, r, partTrailer)
		if errors.Is(err, errGone) {
			return nil, nil // folded meanwhile: nobody asked to keep a cut there
		}
		return s, err
	}
	return inOrder(ctx, readers, h.visible(), read, func(s *segment) error {
		if s == nil || s.Cut == nil || s.end().Compare(last) <= 0 {
			return nil
		}
		last = s.end()
		return yield(cutInfo(id, s))
	})
}

// visible returns the segments of all epochs, ascending, without those inside others.
func (h history) visible() []segmentRef {
	var refs []segmentRef
	for _, e := range h.epochs() {
		refs = append(refs, h[e].chain(math.MaxUint64, func(segmentRef) bool { return true })...)
	}
	return refs
}
