package store

import (
	"context"
	"fmt"
)

// appendOnly is a store without the right to delete.
type appendOnly struct{ Store }

var (
	_ Syncer = appendOnly{}
	_ Stager = appendOnly{}
)

// AppendOnly returns s without the right to delete: Delete returns ErrDenied. It is
// the rights of a process server; pruning is a right of its own. It guards against
// mistakes of ours; against a stolen machine guard credentials that cannot delete, or
// a period of immutability.
func AppendOnly(s Store) Store { return appendOnly{s} }

// Delete returns ErrDenied.
func (a appendOnly) Delete(_ context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return fmt.Errorf("%s: %w", a.URL(), err)
	}
	return fmt.Errorf("delete %s in %s: %w: it was opened to append only; prune with the rights to do so", key, a.URL(), ErrDenied)
}

// Sync implements Syncer.
func (a appendOnly) Sync(ctx context.Context, prefix string) error { return Sync(ctx, a.Store, prefix) }

// Stage implements Stager.
func (a appendOnly) Stage(ctx context.Context, key string, data []byte) (Staged, error) {
	return Stage(ctx, a.Store, key, data)
}

// Sync calls s.Sync if s is a Syncer.
func Sync(ctx context.Context, s Store, prefix string) error {
	if y, ok := s.(Syncer); ok {
		return y.Sync(ctx, prefix)
	}
	return nil
}
