package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

var errLine = errors.New("connection reset")

// script lets each operation of a verb fail as told, in order.
func script(m *storetest.Mem, faults map[string][]storetest.Fault) {
	m.Faults(func(op storetest.Op) (f storetest.Fault) {
		if left := faults[op.Verb]; len(left) > 0 {
			f, faults[op.Verb] = left[0], left[1:]
		}
		return f
	})
}

// A put that took effect although it failed is one's own; the same name taken by
// another is not, whatever failed before.
func TestRetryTellsItsOwnPut(t *testing.T) {
	lost, done := storetest.Fault{Err: errLine}, storetest.Fault{Err: errLine, Done: true}
	for name, c := range map[string]struct {
		there  string // before
		faults map[string][]storetest.Fault
		want   error
	}{
		"it failed":                  {"", map[string][]storetest.Fault{"put": {lost, lost}}, nil},
		"it took effect":             {"", map[string][]storetest.Fault{"put": {done}}, nil},
		"it took effect later":       {"", map[string][]storetest.Fault{"put": {lost, done}}, nil},
		"and looking fails":          {"", map[string][]storetest.Fault{"put": {done}, "stat": {lost}, "get": {lost}}, nil},
		"another was first":          {"bbb", nil, store.ErrExists},
		"another and a lost answer":  {"bbb", map[string][]storetest.Fault{"put": {lost}}, store.ErrExists},
		"another of other length":    {"bb", map[string][]storetest.Fault{"put": {lost}}, store.ErrExists},
		"the same bytes, first try":  {"aaa", nil, store.ErrExists},
		"the same bytes, second try": {"aaa", map[string][]storetest.Fault{"put": {lost}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := storetest.NewMem()
				if c.there != "" {
					m.Set("k", []byte(c.there))
				}
				script(m, c.faults)
				err := store.Retry(m, store.DefaultPolicy()).Put(t.Context(), "k", []byte("aaa"))
				if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
					t.Errorf("%v, want %v", err, c.want)
				}
				if want := max(c.there, "aaa"); string(m.Bytes("k")) != want && c.there != "bb" {
					t.Errorf("the object holds %q", m.Bytes("k"))
				}
			})
		})
	}
}

// A store that throttles is obeyed, one that never answers is given up, and what is
// final is not tried again.
func TestRetryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storetest.NewMem()
		s := store.Retry(m, store.Policy{Tries: 4, Base: 100 * time.Millisecond, Max: 10 * time.Second})
		busy := storetest.Fault{Err: &store.BusyError{After: 7 * time.Second, Err: fmt.Errorf("%w: 429", store.ErrBusy)}}
		script(m, map[string][]storetest.Fault{"put": {busy}})
		began := time.Now()
		if err := s.Put(t.Context(), "k", nil); err != nil || time.Since(began) < 7*time.Second {
			t.Errorf("after %v: %v, want to wait for 7s", time.Since(began), err)
		}
		busy.Err = &store.BusyError{After: time.Hour, Err: store.ErrBusy}
		script(m, map[string][]storetest.Fault{"stat": {busy, busy, busy, busy}})
		began = time.Now()
		_, err := s.Stat(t.Context(), "k")
		if !errors.Is(err, store.ErrBusy) || !strings.Contains(err.Error(), "tried 4 times") || time.Since(began) > 31*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		script(m, map[string][]storetest.Fault{"delete": {{Err: store.ErrKept}}})
		before := m.Ops()
		if err := s.Delete(t.Context(), "k"); !errors.Is(err, store.ErrKept) || m.Ops() != before+1 {
			t.Errorf("%d operations: %v", m.Ops()-before, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		script(m, map[string][]storetest.Fault{"get": {busy, busy, busy, busy}})
		if _, err := s.Get(ctx, "k", 0, -1); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, store.ErrBusy) {
			t.Errorf("given up: %v", err)
		}
	})
}

// A list that breaks off goes on where it was, and shows nothing twice.
func TestRetryListGoesOn(t *testing.T) {
	m := storetest.NewMem()
	for i := range 9 {
		m.Set(fmt.Sprintf("k/%d", i), nil)
	}
	n := 0
	f := storetest.NewFaulty(m, func(storetest.Op) storetest.Fault {
		if n++; n < 3 {
			return storetest.Fault{Err: errLine, Done: true}
		}
		return storetest.Fault{}
	})
	var got []string
	err := store.Retry(f, store.Policy{Tries: 3, Base: 1}).List(t.Context(), "k/", func(i store.Info) error {
		got = append(got, i.Key)
		return nil
	})
	if err != nil || strings.Join(got, " ") != "k/0 k/1 k/2 k/3 k/4 k/5 k/6 k/7 k/8" || n != 3 {
		t.Errorf("%v, %v after %d lists", got, err, n)
	}
	stop := errors.New("stop")
	if err := store.Retry(m, store.DefaultPolicy()).List(t.Context(), "", func(store.Info) error { return stop }); err != stop {
		t.Errorf("stopped: %v", err)
	}
}
