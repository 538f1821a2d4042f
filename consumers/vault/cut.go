package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	return cutInfo(id, s), nil
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
	d.v.mu.Lock()
	d.v.near[d.id] = segmentRef{epoch: s.Epoch, first: s.First}
	d.v.mu.Unlock()
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
	var last *segment
	for range maxSteps {
		s, err := d.read(ctx, r, partTrailer)
		if errors.Is(err, ErrNotFound) && last != nil {
			return last, nil // the vault ends before at
		}
		if err != nil || s.Last >= at.Number {
			return s, err
		}
		last, r.first = s, s.Last+1
	}
	return nil, nil
}

// search lists the epoch for the segment with link at.
func (d *disk) search(ctx context.Context, at Position) (*segment, error) {
	var r segmentRef
	if at.Epoch != 0 {
		err := d.list(ctx, at.Epoch, func(s segmentRef) error {
			if s.first <= at.Number {
				r = s
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if r == (segmentRef{}) {
		return nil, ErrNotFound
	}
	return d.read(ctx, r, partTrailer)
}

// Cuts calls yield for every cut of a disk, ascending by position, until yield
// returns an error, which Cuts returns. It reads every segment's trailer.
func (v *Vault) Cuts(ctx context.Context, id DiskID, yield func(CutInfo) error) error {
	d, err := v.disk(ctx, id)
	if err != nil {
		return fmt.Errorf("cuts of %s: %w", id, err)
	}
	h, err := d.history(ctx)
	if err != nil {
		return err
	}
	read := func(ctx context.Context, r segmentRef) (*segment, error) { return d.read(ctx, r, partTrailer) }
	return inOrder(ctx, readers, h.all(), read, func(s *segment) error {
		if s.Cut == nil {
			return nil
		}
		return yield(cutInfo(id, s))
	})
}

// all returns the segments of all epochs, ascending.
func (h history) all() []segmentRef {
	var epochs []uint64
	for e := range h {
		epochs = append(epochs, e)
	}
	slices.Sort(epochs)
	var refs []segmentRef
	for _, e := range epochs {
		refs = append(refs, h[e]...)
	}
	return refs
}
