package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Run tests that a store keeps the contract of package store. open returns a new,
// empty store, or a new handle on one that nobody else uses.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"put":      testPut,
		"get":      testGet,
		"own":      testOwnership,
		"list":     testList,
		"stop":     testListStops,
		"delete":   testDelete,
		"keys":     testKeys,
		"context":  testContext,
		"race":     testRace,
		"large":    testLarge,
		"visible":  testVisible,
		"url":      testURL,
		"prefixes": testPrefixIsDirectory,
		"one name": testOneName,
		"many":     testMany,
		"sync":     testSync,
		"append":   testAppendOnly,
		"stage":    testStage,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// RunFaulty runs the kit while a tenth of all operations fail, with and without having
// taken effect, and store.Retry is all that stands between.
func RunFaulty(t *testing.T, open func(t *testing.T) store.Store) {
	Run(t, func(t *testing.T) store.Store {
		seed := uint64(len(t.Name())) // of its own for every test, and the same every time
		return store.Retry(NewFaulty(open(t), Weather(seed, 10)), store.Policy{Tries: 12, Base: time.Millisecond, Max: 20 * time.Millisecond})
	})
}

// testOneName lets all writers put one key at the same moment.
func testOneName(t *testing.T, s store.Store) {
	const writers = 6
	for round := range 5 {
		key := fmt.Sprintf("one/%d", round)
		start := make(chan struct{})
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				<-start
				errs[w] = s.Put(t.Context(), key, bytes.Repeat([]byte{byte(w)}, 5000+w))
			})
		}
		close(start)
		wg.Wait()
		var won []int
		for w, err := range errs {
			if err == nil {
				won = append(won, w)
			} else if !errors.Is(err, store.ErrExists) {
				t.Errorf("writer %d: %v", w, err)
			}
		}
		if len(won) != 1 {
			t.Fatalf("round %d: winners %v, want one", round, won)
		}
		b, err := s.Get(t.Context(), key, 0, -1)
		if err != nil || !bytes.Equal(b, bytes.Repeat([]byte{byte(won[0])}, 5000+won[0])) {
			t.Errorf("round %d: %d bytes, not the winner's: %v", round, len(b), err)
		}
	}
}

// testMany makes lists longer than a page.
func testMany(t *testing.T, s store.Store) {
	const n = 60
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := w; i < n; i += 6 {
				key := fmt.Sprintf("m/%d/%03d", i%3, i)
				if err := s.Put(t.Context(), key, []byte(key)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := keys(t, s, "m/"); len(got) != n || !slices.IsSorted(got) {
		t.Errorf("%d keys, sorted: %v", len(got), slices.IsSorted(got))
	}
	if got := keys(t, s, "m/1/"); len(got) != n/3 {
		t.Errorf("%d keys below m/1/", len(got))
	}
}

func testSync(t *testing.T, s store.Store) {
	put(t, s, "s/x", "1")
	for _, prefix := range []string{"", "s/", "none/"} {
		if err := store.Sync(t.Context(), s, prefix); err != nil {
			t.Errorf("sync %q: %v", prefix, err)
		}
	}
}

func testAppendOnly(t *testing.T, s store.Store) {
	a := store.AppendOnly(s)
	put(t, a, "a/x", "1")
	if err := a.Delete(t.Context(), "a/x"); !errors.Is(err, store.ErrDenied) {
		t.Errorf("delete: %v, want ErrDenied", err)
	}
	if err := a.Delete(t.Context(), "../x"); !errors.Is(err, store.ErrKey) {
		t.Errorf("delete: %v, want ErrKey", err)
	}
	if b, err := a.Get(t.Context(), "a/x", 0, -1); err != nil || string(b) != "1" {
		t.Errorf("%q, %v", b, err)
	}
}

func put(t *testing.T, s store.Store, key, data string) {
	t.Helper()
	if err := s.Put(t.Context(), key, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func testPut(t *testing.T, s store.Store) {
	ctx := t.Context()
	before := time.Now().Add(-time.Minute)
	put(t, s, "a/b/c.seg", "hello")
	put(t, s, "empty", "")
	if err := s.Put(ctx, "a/b/c.seg", []byte("other")); !errors.Is(err, store.ErrExists) {
		t.Errorf("second put: %v, want ErrExists", err)
	}
	if b, err := s.Get(ctx, "a/b/c.seg", 0, -1); err != nil || string(b) != "hello" {
		t.Errorf("after the second put: %q, %v", b, err)
	}
	if b, err := s.Get(ctx, "empty", 0, -1); err != nil || len(b) != 0 {
		t.Errorf("empty: %q, %v", b, err)
	}
	i, err := s.Stat(ctx, "a/b/c.seg")
	if err != nil || i.Key != "a/b/c.seg" || i.Size != 5 || i.Modified.Before(before) || i.Modified.After(time.Now().Add(time.Minute)) {
		t.Errorf("stat: %+v, %v", i, err)
	}
	if _, err := s.Stat(ctx, "a/b"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat of a directory: %v, want ErrNotFound", err)
	}
	if _, err := s.Stat(ctx, "a/b/c"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("stat of nothing: %v, want ErrNotFound", err)
	}
}

func testGet(t *testing.T, s store.Store) {
	put(t, s, "k/x", "0123456789")
	for _, c := range []struct {
		off, n int64
		want   string
		err    error
	}{
		{0, -1, "0123456789", nil}, {0, 10, "0123456789", nil}, {3, 4, "3456", nil}, {7, -1, "789", nil},
		{10, -1, "", nil}, {10, 0, "", nil}, {4, 0, "", nil},
		{-3, -1, "789", nil}, {-10, 0, "0123456789", nil}, {-50, -1, "0123456789", nil},
		{0, 11, "", store.ErrRange}, {9, 2, "", store.ErrRange}, {11, -1, "", store.ErrRange}, {11, 0, "", store.ErrRange},
	} {
		b, err := s.Get(t.Context(), "k/x", c.off, c.n)
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || string(b) != c.want {
			t.Errorf("get %d+%d: %q, %v, want %q, %v", c.off, c.n, b, err, c.want, c.err)
		}
	}
	for _, key := range []string{"k/y", "k", "k/x/y", "none/at/all"} {
		if _, err := s.Get(t.Context(), key, 0, -1); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("get %s: %v, want ErrNotFound", key, err)
		}
	}
}

func testOwnership(t *testing.T, s store.Store) {
	data := []byte("mine")
	if err := s.Put(t.Context(), "x", data); err != nil {
		t.Fatal(err)
	}
	copy(data, "gone")
	first, err := s.Get(t.Context(), "x", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	copy(first, "gone")
	if b, err := s.Get(t.Context(), "x", 0, -1); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v: the store shares its bytes", b, err)
	}
}

func keys(t *testing.T, s store.Store, prefix string) []string {
	t.Helper()
	got := []string{}
	err := s.List(t.Context(), prefix, func(i store.Info) error {
		if i.Size != int64(len(i.Key)) {
			t.Errorf("%s has size %d", i.Key, i.Size)
		}
		got = append(got, i.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func testList(t *testing.T, s store.Store) {
	all := []string{"a-b/c", "a.b", "a/b", "a/b-c", "a/b.d/x", "a/bb/x", "a/c", "a0", "b/1/2/3", "b/1/2/4", "b/10"}
	for _, k := range all {
		put(t, s, k, k)
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b-", "a/b.d/", "a/b.d/x", "b/1", "b/1/", "c", "c/d/", "a/b/c/", "b/1/2/3/"} {
		want := []string{}
		for _, k := range all {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k)
			}
		}
		if got := keys(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("list %q:\n got %v\nwant %v", prefix, got, want)
		}
	}
}

func testListStops(t *testing.T, s store.Store) {
	for i := range 5 {
		put(t, s, fmt.Sprintf("d/%d", i), "")
	}
	enough, n := errors.New("enough"), 0
	err := s.List(t.Context(), "d/", func(store.Info) error {
		if n++; n == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != 2 {
		t.Errorf("list went on to %d, %v", n, err)
	}
}

func testDelete(t *testing.T, s store.Store) {
	put(t, s, "d/x", "1")
	for range 2 {
		if err := s.Delete(t.Context(), "d/x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "d/x/y"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get(t.Context(), "d/x", 0, -1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after delete: %v", err)
	}
	if got := keys(t, s, ""); len(got) != 0 {
		t.Errorf("after delete there is %v", got)
	}
	put(t, s, "d/x", "2")
}

func testKeys(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, key := range []string{"", "/", "/a", "a/", "a//b", "../a", "a/../b", ".", "a/.b", ".tmp/x", "a b", "a\x00b", "a\\b", "ä", strings.Repeat("x", 201), strings.Repeat("x/", 300) + "x"} {
		if err := s.Put(ctx, key, nil); !errors.Is(err, store.ErrKey) {
			t.Errorf("put %q: %v, want ErrKey", key, err)
		}
		if _, err := s.Get(ctx, key, 0, -1); !errors.Is(err, store.ErrKey) {
			t.Errorf("get %q: %v, want ErrKey", key, err)
		}
		if _, err := s.Stat(ctx, key); !errors.Is(err, store.ErrKey) {
			t.Errorf("stat %q: %v, want ErrKey", key, err)
		}
		if err := s.Delete(ctx, key); !errors.Is(err, store.ErrKey) {
			t.Errorf("delete %q: %v, want ErrKey", key, err)
		}
	}
	for _, prefix := range []string{"../", "/", ".tmp/", "a//"} {
		if err := s.List(ctx, prefix, func(store.Info) error { return nil }); !errors.Is(err, store.ErrKey) {
			t.Errorf("list %q: %v, want ErrKey", prefix, err)
		}
	}
	put(t, s, "A-z_0.9/"+strings.Repeat("x", 200), "")
}

func testContext(t *testing.T, s store.Store) {
	put(t, s, "x", "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, get := s.Get(ctx, "x", 0, -1)
	_, stat := s.Stat(ctx, "x")
	for verb, err := range map[string]error{
		"put": s.Put(ctx, "y", nil), "get": get, "stat": stat, "delete": s.Delete(ctx, "x"),
		"list": s.List(ctx, "", func(store.Info) error { return nil }),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after cancel: %v", verb, err)
		}
	}
	put(t, s, "y", "2")
}

// testRace lets writers race for keys: each key has one winner, and its bytes.
func testRace(t *testing.T, s store.Store) {
	const writers, rounds = 8, 20
	var wg sync.WaitGroup
	won := make([][]int, rounds)
	var mu sync.Mutex
	for w := range writers {
		wg.Go(func() {
			for r := range rounds {
				err := s.Put(t.Context(), fmt.Sprintf("r/%02d", r), bytes.Repeat([]byte{byte(w)}, 10000))
				if err != nil && !errors.Is(err, store.ErrExists) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					won[r] = append(won[r], w)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for r, ws := range won {
		b, err := s.Get(t.Context(), fmt.Sprintf("r/%02d", r), 0, -1)
		if len(ws) != 1 || err != nil || !bytes.Equal(b, bytes.Repeat([]byte{byte(ws[0])}, 10000)) {
			t.Errorf("round %d: winners %v, %v", r, ws, err)
		}
	}
}

func testLarge(t *testing.T, s store.Store) {
	data := make([]byte, 8<<20+3)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	if err := s.Put(t.Context(), "large", data); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Get(t.Context(), "large", 0, -1); err != nil || !bytes.Equal(b, data) {
		t.Errorf("large object differs: %d bytes, %v", len(b), err)
	}
	if b, err := s.Get(t.Context(), "large", 5<<20, 1000); err != nil || !bytes.Equal(b, data[5<<20:5<<20+1000]) {
		t.Errorf("range differs: %v", err)
	}
}

// testVisible: what Put has returned to one is there for all, and whole objects only.
func testVisible(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			_ = s.List(ctx, "v/", func(i store.Info) error {
				if i.Size != 100000 {
					t.Errorf("%s is seen with %d bytes", i.Key, i.Size)
				}
				return nil
			})
		}
	})
	for i := range 20 {
		key := fmt.Sprintf("v/%d/x", i)
		if err := s.Put(ctx, key, make([]byte, 100000)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Stat(ctx, key); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
}

func testURL(t *testing.T, s store.Store) {
	if !strings.Contains(s.URL(), ":") {
		t.Errorf("URL is %q", s.URL())
	}
}

// testPrefixIsDirectory: a key may not be below another object, in a store of files;
// whatever the store does, it must not lose the first object.
func testPrefixIsDirectory(t *testing.T, s store.Store) {
	put(t, s, "p", "p")
	_ = s.Put(t.Context(), "p/q", []byte("p/q"))
	if b, err := s.Get(t.Context(), "p", 0, -1); err != nil || string(b) != "p" {
		t.Errorf("%q, %v", b, err)
	}
}
