package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Faulty is a store in front of another that fails when it is told to.
type Faulty struct {
	s store.Store

	mu     sync.Mutex
	faults func(Op) Fault // mu guards
	n      int            // mu guards
}

var (
	_ store.Store  = (*Faulty)(nil)
	_ store.Syncer = (*Faulty)(nil)
)

// NewFaulty returns s with faults, which decides about every operation as
// Mem.Faults does. Torn cannot be had here and counts as Done.
func NewFaulty(s store.Store, faults func(Op) Fault) *Faulty { return &Faulty{s: s, faults: faults} }

// Faults sets what decides from now on, nil for no faults.
func (f *Faulty) Faults(faults func(Op) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// URL implements store.Store.
func (f *Faulty) URL() string { return f.s.URL() }

func (f *Faulty) begin(ctx context.Context, verb, key string) (after Fault, err error) {
	f.mu.Lock()
	f.n++
	var x Fault
	if f.faults != nil {
		x = f.faults(Op{N: f.n, Verb: verb, Key: key})
	}
	f.mu.Unlock()
	if x.Delay > 0 {
		t := time.NewTimer(x.Delay)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return x, ctx.Err()
		case <-t.C:
		}
	}
	if x.Err != nil {
		x.Err = fmt.Errorf("%s %s in %s: %w", verb, key, f.URL(), x.Err)
		if !x.Done && x.Torn == 0 {
			return x, x.Err
		}
	}
	return x, nil
}

// Put implements store.Store.
func (f *Faulty) Put(ctx context.Context, key string, data []byte) error {
	x, err := f.begin(ctx, "put", key)
	if err != nil {
		return err
	}
	if err := f.s.Put(ctx, key, data); err != nil {
		return err
	}
	return x.Err
}

// Get implements store.Store.
func (f *Faulty) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	x, err := f.begin(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	b, err := f.s.Get(ctx, key, off, n)
	if err != nil || x.Err != nil {
		return nil, first(err, x.Err)
	}
	if x.Flip && len(b) > 0 {
		b[len(b)/2] ^= 1
	}
	return b[:max(0, len(b)-x.Short)], nil
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Stat implements store.Store.
func (f *Faulty) Stat(ctx context.Context, key string) (store.Info, error) {
	x, err := f.begin(ctx, "stat", key)
	if err != nil {
		return store.Info{}, err
	}
	i, err := f.s.Stat(ctx, key)
	return i, first(err, x.Err)
}

// List implements store.Store. With Done it fails after one half of what there is.
func (f *Faulty) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	x, err := f.begin(ctx, "list", prefix)
	if err != nil {
		return err
	}
	var all []store.Info
	if err := f.s.List(ctx, prefix, func(i store.Info) error { all = append(all, i); return nil }); err != nil {
		return err
	}
	if x.Err != nil {
		all = all[:len(all)/2]
	}
	for _, i := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := yield(i); err != nil {
			return err
		}
	}
	return x.Err
}

// Delete implements store.Store.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	x, err := f.begin(ctx, "delete", key)
	if err != nil {
		return err
	}
	return first(f.s.Delete(ctx, key), x.Err)
}

// Sync implements store.Syncer.
func (f *Faulty) Sync(ctx context.Context, prefix string) error {
	x, err := f.begin(ctx, "sync", prefix)
	if err != nil {
		return err
	}
	return first(store.Sync(ctx, f.s, prefix), x.Err)
}

// Weather returns faults as a bad day has them: of a hundred operations, percent fail;
// half of them although they took effect, and some because the store throttles.
func Weather(seed uint64, percent int) func(Op) Fault {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(Op) Fault {
		if r.IntN(100) >= percent {
			return Fault{}
		}
		switch r.IntN(4) {
		case 0:
			return Fault{Err: &store.BusyError{After: time.Duration(r.IntN(3)) * time.Millisecond, Err: fmt.Errorf("%w: slow down (503)", store.ErrBusy)}}
		case 1:
			return Fault{Err: fmt.Errorf("no answer (injected)"), Delay: time.Duration(r.IntN(2)) * time.Millisecond}
		default:
			return Fault{Err: fmt.Errorf("the answer was lost (injected)"), Done: true}
		}
	}
}
