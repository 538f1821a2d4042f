package shard

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const (
	rest      = 3 * time.Second // a member that is away is left alone for so long
	slowest   = 128 << 10       // bytes a second at which a member is still waited for
	straggler = time.Second     // a put that is safe waits so long for the rest of its shards
)

// member is one of the stores.
type member struct {
	store.Store
	downUntil atomic.Int64 // nanoseconds since 1970
}

func (m *member) down() bool { return time.Now().UnixNano() < m.downUntil.Load() }

// note remembers that a member is away, so that not every operation waits for it.
func (m *member) note(err error) {
	if err != nil && !errors.Is(err, errEmptySlot) && (errors.Is(err, store.ErrAway) || errors.Is(err, store.ErrBusy) || errors.Is(err, errSlow)) {
		m.downUntil.Store(time.Now().Add(rest).UnixNano())
	}
}

var errSlow = fmt.Errorf("%w: no answer in time", store.ErrAway)

// errEmptySlot is the error of a slot without a member, or without the shard.
var errEmptySlot = fmt.Errorf("%w: no store of the set has this shard", store.ErrAway)

// answers are what members said, by index. What is not in got has err.
type answers[T any] struct {
	got []T
	err []error
}

func (a answers[T]) ok() (n int) {
	for _, e := range a.err {
		if e == nil {
			n++
		}
	}
	return n
}

// trouble is an error that speaks for all.
func (a answers[T]) trouble(need int) error {
	var all []error
	for i, e := range a.err {
		if e != nil {
			all = append(all, fmt.Errorf("shard %d: %w", i, e))
		}
	}
	return fmt.Errorf("%w: %d of %d stores answer, %d must: %w", store.ErrAway, a.ok(), len(a.err), need, errors.Join(all...))
}

type asking[T any] struct {
	n      int64            // bytes that move at each member
	only   func(i int) bool // asks these only
	do     func(context.Context, int, *member) (T, error)
	enough func(i int, got T, err error) bool // sees every answer; when it returns true no more are needed
	linger bool                               // and the others get a moment to finish nevertheless
}

// ask asks all members at once. It returns when all have answered, the time is over,
// or there are enough answers.
func ask[T any](ctx context.Context, s *Store, a asking[T]) answers[T] {
	type answer struct {
		i   int
		got T
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := s.k + s.m
	out := answers[T]{make([]T, n), make([]error, n)}
	c := make(chan answer, n)
	waiting := 0
	for i := range n {
		m := s.slot(i)
		switch {
		case a.only != nil && !a.only(i):
			out.err[i] = errEmptySlot
			continue
		case m == nil:
			out.err[i] = errEmptySlot
			continue
		case m.down():
			out.err[i] = errSlow
			continue
		}
		waiting++
		out.err[i] = errSlow
		go func() {
			got, err := a.do(ctx, i, m)
			if ctx.Err() == nil {
				m.note(err)
			}
			c <- answer{i, got, err}
		}()
	}
	began := time.Now()
	timer := time.NewTimer(s.patience + time.Duration(a.n/slowest)*time.Second)
	defer timer.Stop()
	enough := false
	for ; waiting > 0; waiting-- {
		select {
		case x := <-c:
			out.got[x.i], out.err[x.i] = x.got, x.err
			if !enough && a.enough != nil && a.enough(x.i, x.got, x.err) {
				if !a.linger {
					return out
				}
				enough = true
				timer.Reset(max(straggler, 2*time.Since(began)))
			}
		case <-timer.C:
			for i, e := range out.err {
				if e == errSlow && s.slot(i) != nil {
					s.slot(i).note(errSlow)
				}
			}
			return out
		case <-ctx.Done():
			for i, e := range out.err {
				if e == errSlow {
					out.err[i] = ctx.Err()
				}
			}
			return out
		}
	}
	return out
}
