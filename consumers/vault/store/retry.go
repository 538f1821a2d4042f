package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Policy says how Retry retries.
type Policy struct {
	Tries int           // of an operation, the first included
	Base  time.Duration // wait before the second try; it doubles from try to try
	Max   time.Duration // longest wait, also when the store asks for more
}

// DefaultPolicy gives a store a good half minute to come to its senses.
func DefaultPolicy() Policy {
	return Policy{Tries: 6, Base: 200 * time.Millisecond, Max: 20 * time.Second}
}

// retry repeats what failed.
type retry struct {
	s Store
	p Policy
}

var (
	_ Syncer = (*retry)(nil)
	_ Stager = (*retry)(nil)
)

// Retry returns a store that repeats operations of s that failed and may succeed: all
// but those whose error says that trying again is useless.
//
// A put that failed may have happened. Retry looks before it believes that somebody
// else was there: if the object holds exactly the bytes of the put, it is its own.
// (Two writers who put the same bytes both win, and that is no harm.)
func Retry(s Store, p Policy) Store { return &retry{s, p} }

// Final reports whether trying the same again is useless.
func Final(err error) bool {
	for _, e := range []error{
		ErrExists, ErrNotFound, ErrRange, ErrKey, ErrFull, ErrKept, ErrDenied, ErrLost,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// URL implements Store.
func (r *retry) URL() string { return r.s.URL() }

// do calls op until it succeeds, fails for good, or the tries are used up. op learns
// the number of the try, from 0.
func (r *retry) do(ctx context.Context, op func(try int) error) error {
	wait := r.p.Base
	for try := 0; ; try++ {
		err := op(try)
		if err == nil || Final(err) || ctx.Err() != nil {
			return err
		}
		if try+1 >= r.p.Tries {
			if r.p.Tries > 1 {
				err = fmt.Errorf("%w (tried %d times)", err, r.p.Tries)
			}
			return err
		}
		pause := wait/2 + rand.N(wait/2+1) // writers who were refused together do not come back together
		var busy *BusyError
		if errors.As(err, &busy) {
			pause = max(pause, busy.After)
		}
		t := time.NewTimer(min(pause, r.p.Max))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w (gave up waiting: %w)", err, context.Cause(ctx))
		}
		wait = min(2*wait, r.p.Max)
	}
}

// Put implements Store.
func (r *retry) Put(ctx context.Context, key string, data []byte) error {
	return r.create(ctx, key, data, func() error { return r.s.Put(ctx, key, data) })
}

// Stage implements Stager.
func (r *retry) Stage(ctx context.Context, key string, data []byte) (Staged, error) {
	var g Staged
	err := r.do(ctx, func(int) (err error) {
		g, err = Stage(ctx, r.s, key, data)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &retried{g, r, key, data}, nil
}

// retried is a staged object whose Commit is repeated.
type retried struct {
	Staged
	r    *retry
	key  string
	data []byte
}

// Commit implements Staged.
func (g *retried) Commit(ctx context.Context) error {
	return g.r.create(ctx, g.key, g.data, func() error { return g.Staged.Commit(ctx) })
}

// create repeats what makes the object at key.
func (r *retry) create(ctx context.Context, key string, data []byte, put func() error) error {
	return r.do(ctx, func(try int) error {
		err := put()
		if try == 0 || !errors.Is(err, ErrExists) {
			return err
		}
		// A try before this one failed; perhaps only its answer did.
		mine, look := r.holds(ctx, key, data)
		if look != nil {
			return look
		}
		if mine {
			return nil
		}
		return err
	})
}

// holds reports whether the object at key is data.
func (r *retry) holds(ctx context.Context, key string, data []byte) (bool, error) {
	i, err := r.s.Stat(ctx, key)
	if errors.Is(err, ErrNotFound) { // deleted meanwhile: it was there, and is not ours now
		return false, nil
	}
	if err != nil || i.Size != int64(len(data)) {
		return false, err
	}
	b, err := r.s.Get(ctx, key, 0, -1)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return bytes.Equal(b, data), err
}

// Get implements Store.
func (r *retry) Get(ctx context.Context, key string, off, n int64) (b []byte, err error) {
	err = r.do(ctx, func(int) error {
		b, err = r.s.Get(ctx, key, off, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Stat implements Store.
func (r *retry) Stat(ctx context.Context, key string) (i Info, err error) {
	err = r.do(ctx, func(int) error {
		i, err = r.s.Stat(ctx, key)
		return err
	})
	return i, err
}

// List implements Store. A list that breaks off is begun again behind the last key.
func (r *retry) List(ctx context.Context, prefix string, yield func(Info) error) error {
	last := ""
	var stopped error // by yield
	err := r.do(ctx, func(int) error {
		err := r.s.List(ctx, prefix, func(i Info) error {
			if i.Key <= last {
				return nil
			}
			if stopped = yield(i); stopped == nil {
				last = i.Key
			}
			return stopped
		})
		if stopped != nil {
			return nil
		}
		return err
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// Delete implements Store.
func (r *retry) Delete(ctx context.Context, key string) error {
	return r.do(ctx, func(int) error { return r.s.Delete(ctx, key) })
}

// Sync implements Syncer.
func (r *retry) Sync(ctx context.Context, prefix string) error {
	return r.do(ctx, func(int) error { return Sync(ctx, r.s, prefix) })
}
