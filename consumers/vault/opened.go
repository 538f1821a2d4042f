package vault

import (
	"context"
	"errors"
	"fmt"
)

// Opened returns the record of an epoch's first link: who protects the disk, and
// how. It reads one segment's trailer; ErrNotFound means that the vault does not
// hold the epoch's beginning.
func (v *Vault) Opened(ctx context.Context, id DiskID, epoch uint64) (*Open, error) {
	d, err := v.disk(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("epoch %d of %s: %w", epoch, id, err)
	}
	s, err := d.read(ctx, segmentRef{epoch: epoch, first: 1}, partTrailer)
	if errors.Is(err, ErrNotFound) {
		s, err = d.search(ctx, Position{epoch, 1}) // it may be folded
	}
	if err != nil {
		return nil, fmt.Errorf("epoch %d of %s: %w", epoch, id, err)
	}
	if s.Open == nil {
		return nil, fmt.Errorf("epoch %d of %s: %w", epoch, id, ErrNotFound)
	}
	return openRecord(s.Trailer), nil
}

// Epochs returns the epochs of a disk that the vault holds anything of, ascending.
func (v *Vault) Epochs(ctx context.Context, id DiskID) ([]uint64, error) {
	d, err := v.disk(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("epochs of %s: %w", id, err)
	}
	h, err := d.history(ctx)
	if err != nil {
		return nil, fmt.Errorf("epochs of %s: %w", id, err)
	}
	return h.epochs(), nil
}
