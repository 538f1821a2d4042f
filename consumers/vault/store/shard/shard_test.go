package shard

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// rig is a set of stores in memory, each behind its own faults.
type rig struct {
	t    *testing.T
	k, m int
	mems []*storetest.Mem
	bad  []*storetest.Faulty
	s    *Store
}

func newRig(t *testing.T, k, m int) *rig {
	r := &rig{t: t, k: k, m: m}
	for range k + m {
		r.mems = append(r.mems, storetest.NewMem())
	}
	r.s = r.open(true)
	return r
}

// open is a new process that opens the set.
func (r *rig) open(create bool) *Store {
	r.t.Helper()
	r.bad = nil
	var members []store.Store
	for _, m := range r.mems {
		f := storetest.NewFaulty(m, nil)
		r.bad = append(r.bad, f)
		members = append(members, f)
	}
	s, err := Open(r.t.Context(), Config{URL: "shard:test", K: r.k, M: r.m, Members: members, Create: create, Patience: 5 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

var errGone = fmt.Errorf("%w: unplugged", store.ErrAway)

func gone(storetest.Op) storetest.Fault { return storetest.Fault{Err: errGone} }

// away unplugs stores.
func (r *rig) away(which ...int) {
	for i, f := range r.bad {
		if slices.Contains(which, i) {
			f.Faults(gone)
		} else {
			f.Faults(nil)
		}
		r.s.all[i].downUntil.Store(0)
	}
}

func (r *rig) put(key string, data []byte) {
	r.t.Helper()
	if err := r.s.Put(r.t.Context(), key, data); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) want(key string, data []byte) {
	r.t.Helper()
	if b, err := r.s.Get(r.t.Context(), key, 0, -1); err != nil || !bytes.Equal(b, data) {
		r.t.Fatalf("get %s: %d bytes, want %d: %v", key, len(b), len(data), err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestConforms(t *testing.T) {
	for _, c := range [][2]int{{4, 2}, {2, 1}} {
		t.Run(fmt.Sprintf("%d+%d", c[0], c[1]), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store { return newRig(t, c[0], c[1]).s })
		})
	}
}

// With m stores away everything goes on, races included.
func TestConformsWithStoresAway(t *testing.T) {
	for _, away := range [][]int{{0}, {4, 5}, {0, 3}, {1, 2}} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				r := newRig(t, 4, 2)
				r.away(away...)
				return r.s
			})
		})
	}
}

func TestConformsInBadWeather(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		r := newRig(t, 4, 2)
		var members []store.Store
		for i, m := range r.mems {
			f := storetest.NewFaulty(m, storetest.Weather(uint64(i+len(t.Name())), 10))
			members = append(members, store.Retry(f, store.Policy{Tries: 12, Base: time.Millisecond, Max: 5 * time.Millisecond}))
		}
		s, err := Open(t.Context(), Config{URL: "shard:test", K: 4, M: 2, Members: members})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

var sizes = []int{0, 1, 3, 4, 5, 1000, 4 * blockSize, 4*blockSize + 1, 3*blockSize - 1, 1<<20 + 77}

// Every pair of stores, lost or damaged: reads go on, whole and in ranges, and Repair
// makes all six whole again.
func TestAnyTwoOfSix(t *testing.T) {
	for a := range 6 {
		for b := a + 1; b < 6; b++ {
			t.Run(fmt.Sprintf("%d,%d", a, b), func(t *testing.T) {
				r := newRig(t, 4, 2)
				for _, n := range sizes {
					r.put(fmt.Sprintf("o/%d", n), noise(n))
				}
				was := make([]map[string]string, 6)
				for i, m := range r.mems {
					was[i] = dump(m)
				}
				damage(r.mems[a], uint64(a*6+b))
				r.mems[b] = storetest.NewMem() // a new disk
				r.s = r.open(false)
				r.readAll()
				found := r.repair(true)
				if len(found) == 0 {
					t.Error("nothing found")
				}
				for _, f := range found {
					if !f.Fixed || f.Lost {
						t.Errorf("not repaired: %+v", f)
					}
				}
				for i, m := range r.mems {
					if now := dump(m); fmt.Sprint(now) != fmt.Sprint(was[i]) {
						t.Errorf("store %d is not as it was", i)
					}
				}
				if again := r.repair(true); len(again) != 0 {
					t.Errorf("after repair: %+v", again)
				}
				r.readAll()
			})
		}
	}
}

func dump(m *storetest.Mem) map[string]string {
	d := map[string]string{}
	for _, k := range m.Keys() {
		d[k] = string(m.Bytes(k))
	}
	return d
}

// damage flips a bit, cuts or removes each object.
func damage(m *storetest.Mem, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	for _, k := range m.Keys() {
		b := m.Bytes(k)
		switch {
		case k == identityKey:
		case rnd.IntN(3) == 0:
			m.Remove(k)
		case rnd.IntN(2) == 0:
			m.Set(k, b[:rnd.IntN(len(b))])
		default:
			b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8)
			m.Set(k, b)
		}
	}
}

func (r *rig) readAll() {
	r.t.Helper()
	rnd := rand.New(rand.NewPCG(1, 1))
	listed := map[string]int64{}
	if err := r.s.List(r.t.Context(), "", func(i store.Info) error { listed[i.Key] = i.Size; return nil }); err != nil {
		r.t.Fatal(err)
	}
	for _, n := range sizes {
		key := fmt.Sprintf("o/%d", n)
		want := noise(n)
		r.want(key, want)
		if size, ok := listed[key]; !ok || size != int64(n) {
			r.t.Errorf("%s is listed with %d bytes: %v", key, size, ok)
		}
		for range 5 {
			off := rnd.IntN(n + 1)
			size := rnd.IntN(n - off + 1)
			b, err := r.s.Get(r.t.Context(), key, int64(off), int64(size))
			if err != nil || !bytes.Equal(b, want[off:off+size]) {
				r.t.Fatalf("%s %d+%d: %v", key, off, size, err)
			}
		}
	}
}

func (r *rig) repair(write bool) (all []store.Finding) {
	r.t.Helper()
	if err := r.s.Repair(r.t.Context(), write, func(f store.Finding) { all = append(all, f) }); err != nil {
		r.t.Fatal(err)
	}
	return all
}

// Three of six: an error that says so, never that there is nothing.
func TestTooMany(t *testing.T) {
	r := newRig(t, 4, 2)
	r.put("a/x", noise(1000))
	r.away(0, 1, 2)
	_, err := r.s.Get(t.Context(), "a/x", 0, -1)
	_, serr := r.s.Stat(t.Context(), "a/none")
	for what, err := range map[string]error{
		"get": err, "stat": serr, "put": r.s.Put(t.Context(), "a/y", nil), "delete": r.s.Delete(t.Context(), "a/z"),
		"list": r.s.List(t.Context(), "", func(store.Info) error { return nil }), "sync": r.s.Sync(t.Context(), ""),
	} {
		if !errors.Is(err, store.ErrAway) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v, want ErrAway", what, err)
		}
	}
	r.away()
	r.want("a/x", noise(1000))
	for i := range 3 {
		b := r.mems[i].Bytes("a/x")
		b[len(b)-1] ^= 1
		r.mems[i].Set("a/x", b)
	}
	if _, err := r.s.Get(t.Context(), "a/x", 0, -1); !errors.Is(err, store.ErrLost) {
		t.Errorf("three damaged: %v, want ErrLost", err)
	}
	if found := r.repair(true); len(found) != 1 || !found[0].Lost {
		t.Errorf("repair: %+v", found)
	}
}

// A whole object is read from the shards that have the range, and from no others.
func TestRangeReadsLittle(t *testing.T) {
	r := newRig(t, 4, 2)
	r.put("x", noise(4<<20))
	r.want("x", noise(4<<20))
	var bytes, gets int64
	for _, f := range r.bad {
		f.Faults(func(op storetest.Op) storetest.Fault {
			if op.Verb == "get" {
				gets++
			}
			return storetest.Fault{}
		})
	}
	if b, err := r.s.Get(t.Context(), "x", 1<<20+5000, 4096); err != nil || len(b) != 4096 {
		t.Fatal(err)
	}
	if gets != 1 {
		t.Errorf("%d reads (%d bytes) for a range in one shard", gets, bytes)
	}
}

// A writer that dies at any of its operations leaves nothing that hinders the next
// one, and what it leaves is one object or none.
func TestWriterDies(t *testing.T) {
	for _, away := range [][]int{nil, {2}, {0, 4}} {
		for at := 1; ; at++ {
			r := newRig(t, 4, 2)
			r.away(away...)
			if !r.dieAt(at, away) {
				break
			}
		}
	}
}

// dieAt lets a writer die at its operation number at, and reports whether it had so
// many.
func (r *rig) dieAt(at int, away []int) bool {
	t := r.t
	t.Helper()
	var mu sync.Mutex
	n := 0
	dead := func(i int) func(storetest.Op) storetest.Fault {
		return func(op storetest.Op) storetest.Fault {
			mu.Lock()
			defer mu.Unlock()
			if n++; slices.Contains(away, i) || n > at {
				return storetest.Fault{Err: errGone}
			}
			return storetest.Fault{Err: nil}
		}
	}
	for i, f := range r.bad {
		f.Faults(dead(i))
	}
	first := r.s.Put(t.Context(), "k", []byte("first writer"))
	if first == nil && n <= at {
		return false
	}
	// The next process, with one and the same set of stores there.
	r.s = r.open(false)
	r.away(away...)
	if err := r.s.Sync(t.Context(), ""); err != nil && !(len(away) == 2 && errors.Is(err, store.ErrAway)) {
		t.Fatalf("away %v, died at %d: sync: %v", away, at, err)
	}
	var listed []string
	_ = r.s.List(t.Context(), "", func(i store.Info) error { listed = append(listed, i.Key); return nil })
	seen, getErr := r.s.Get(t.Context(), "k", 0, -1)
	err := r.s.Put(t.Context(), "k", []byte("second writer"))
	if errors.Is(err, store.ErrAway) && len(away) == 2 {
		// Nobody can tell with so few; with one more back it is clear.
		r.away(away[:1]...)
		err = r.s.Put(t.Context(), "k", []byte("second writer"))
	}
	want := "second writer"
	switch {
	case errors.Is(err, store.ErrExists):
		want = "first writer"
	case err != nil:
		t.Fatalf("away %v, died at %d: second put: %v", away, at, err)
	}
	if first == nil && want != "first writer" {
		t.Fatalf("away %v, died at %d: both have won", away, at)
	}
	if getErr == nil && string(seen) != want {
		t.Fatalf("away %v, died at %d: %q was seen, and then it was %q", away, at, seen, want)
	}
	if getErr == nil && len(listed) != 1 {
		t.Fatalf("away %v, died at %d: listed %v", away, at, listed)
	}
	r.want("k", []byte(want))
	// All come back, and one is repaired.
	r.away()
	for _, f := range r.repair(true) {
		if !f.Fixed {
			t.Fatalf("away %v, died at %d: %+v", away, at, f)
		}
	}
	r.want("k", []byte(want))
	if again := r.repair(true); len(again) != 0 {
		t.Fatalf("away %v, died at %d: after repair %+v", away, at, again)
	}
	for i, m := range r.mems {
		if keys := m.Keys(); len(keys) != 2 {
			t.Fatalf("away %v, died at %d: store %d is left with %v", away, at, i, keys)
		}
	}
	return true
}

// Writers in processes of their own race for one key while stores come and go: never
// two winners, one as soon as all are there, and its bytes.
func TestRace(t *testing.T) {
	rounds := 60
	if os.Getenv("LEEWARD_FULL") != "" {
		rounds = 5000
	}
	for round := range rounds {
		seed := rand.New(rand.NewPCG(uint64(round), 9))
		r := newRig(t, 4, 2)
		const writers = 4
		procs := make([]*Store, writers)
		lines := make([][]*storetest.Faulty, writers)
		for w := range procs {
			procs[w] = r.open(false)
			lines[w] = r.bad
			percent := []int{0, 0, 10, 30}[seed.IntN(4)]
			for i, f := range lines[w] {
				f.Faults(weather(seed.Uint64(), percent, i))
			}
		}
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for w, s := range procs {
			wg.Go(func() { errs[w] = s.Put(t.Context(), "k", fmt.Appendf(nil, "writer %d", w)) })
		}
		wg.Wait()
		var won []int
		for w, err := range errs {
			if err == nil {
				won = append(won, w)
			}
		}
		if len(won) > 1 {
			t.Fatalf("round %d: winners %v", round, won)
		}
		r.s = r.open(false)
		if err := r.s.Sync(t.Context(), ""); err != nil {
			t.Fatalf("round %d: sync: %v", round, err)
		}
		b, err := r.s.Get(t.Context(), "k", 0, -1)
		switch {
		case len(won) == 1 && (err != nil || string(b) != fmt.Sprintf("writer %d", won[0])):
			t.Fatalf("round %d: writer %d won, and there is %q: %v", round, won[0], b, err)
		case err != nil && !errors.Is(err, store.ErrNotFound):
			t.Fatalf("round %d: %v", round, err)
		case err == nil && !strings.HasPrefix(string(b), "writer "):
			t.Fatalf("round %d: %q", round, b)
		}
		for w, e := range errs {
			if errors.Is(e, store.ErrExists) && err != nil {
				t.Fatalf("round %d: writer %d was told that there is one: %v", round, w, err)
			}
		}
	}
}

// weather is bad, but for a fault the member is not left alone.
func weather(seed uint64, percent, _ int) func(storetest.Op) storetest.Fault {
	rnd := rand.New(rand.NewPCG(seed, 3))
	return func(storetest.Op) storetest.Fault {
		f := storetest.Fault{Delay: time.Duration(rnd.IntN(300)) * time.Microsecond}
		if rnd.IntN(100) < percent {
			f.Err, f.Done = errors.New("line cut"), rnd.IntN(2) == 0
		}
		return f
	}
}
