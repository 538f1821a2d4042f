package vault

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// Two writers of one disk race for every link: exactly one wins each, and what comes
// out is what the winners wrote.
func TestTwoWritersRace(t *testing.T) {
	open := map[string]func() (store.Store, error){
		"mem": func() (store.Store, error) { return storetest.NewMem(), nil },
		"dir": func() (store.Store, error) { return dir.Create(t.TempDir()) },
	}
	for name, open := range open {
		t.Run(name, func(t *testing.T) {
			st, err := open()
			if err != nil {
				t.Fatal(err)
			}
			race(t, st)
		})
	}
}

type win struct {
	writer int
	links  uint64
}

func race(t *testing.T, st store.Store) {
	const rounds, blocks = 30, 8
	v := newTestVault(t, st)
	commit(t, openDisk(t, v), opening(1, 64*BlockSize))
	var mu sync.Mutex
	wins := map[Position]win{} // by end
	lost := 0
	var wg sync.WaitGroup
	for writer := range 2 {
		w := openDisk(t, unlockTest(t, st))
		wg.Go(func() {
			for w.Head().Number < rounds {
				h := w.Head()
				links := 1 + rand.Uint64N(3)
				start := h.Number * 7 % 56
				b := batch(h, links, frame(CodecRaw, write{start, blocks, text(blocks, h.Number*10+uint64(writer))}))
				b.Hash = hashAt(1, b.Last, uint64(writer))
				got, err := w.Commit(context.Background(), b)
				mu.Lock()
				switch {
				case err == nil:
					wins[got.Position] = win{writer, links}
				case errors.Is(err, ErrConflict):
					lost++
					err = w.Reload(context.Background())
				}
				mu.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	want := make([]byte, 64*BlockSize)
	at := Position{1, 1}
	w := openDisk(t, v)
	for end := at; end.Number < w.Head().Number; {
		end.Number++
		won, ok := wins[end]
		if !ok {
			continue
		}
		if end.Number-won.links != at.Number {
			t.Fatalf("links %d to %d were won, but the chain was at %d", end.Number-won.links+1, end.Number, at.Number)
		}
		copy(want[at.Number*7%56*BlockSize:], text(blocks, at.Number*10+uint64(won.writer)))
		at = end
	}
	if at != w.Head().Position {
		t.Fatalf("wins lead to %s, the head is at %s", at, w.Head().Position)
	}
	t.Logf("%d wins, %d lost", len(wins), lost)
	wantDisk(t, v, at, want)
	wantClean(t, v)
}

// Creating one vault, or one disk, twice at once leaves one.
func TestCreateRace(t *testing.T) {
	st := storetest.NewMem()
	var wg sync.WaitGroup
	made := make([]*Vault, 4)
	for i := range made {
		wg.Go(func() {
			v, err := Create(context.Background(), st, testKey)
			if err != nil && !errors.Is(err, ErrExists) {
				t.Error(err)
			}
			made[i] = v
		})
	}
	wg.Wait()
	n := 0
	for _, v := range made {
		if v != nil {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d vaults were made", n)
	}
	heads := make([]Head, 4)
	for i := range heads {
		w := openDisk(t, unlockTest(t, st))
		wg.Go(func() {
			h, err := w.Commit(context.Background(), opening(1, 8*BlockSize, frame(CodecRaw, write{0, 1, text(1, uint64(i))})))
			if err != nil && !errors.Is(err, ErrConflict) {
				t.Error(err)
			}
			heads[i] = h
		})
	}
	wg.Wait()
	wantClean(t, unlockTest(t, st))
}

// Many readers at once, with a cache that is far too small, and a close among them.
func TestConcurrentReads(t *testing.T) {
	_, v := memVault(t)
	w := openDisk(t, v)
	const blocks = 1500
	want := make([]byte, blocks*BlockSize)
	b := opening(1, blocks*BlockSize)
	for at := 0; at < blocks; at += 60 {
		data := text(30, uint64(at))
		copy(want[at*BlockSize:], data)
		b.Frames = append(b.Frames, frame(Codec(at/60%2), write{uint64(at), 30, data}))
	}
	h := commit(t, w, b)
	for range 20 {
		at := rand.IntN(blocks - 20)
		data := text(20, rand.Uint64())
		copy(want[at*BlockSize:], data)
		h = commit(t, w, batch(h, 1, frame(CodecZstd, write{uint64(at), 20, data})))
	}
	r, err := v.OpenAt(t.Context(), testDisk, h.Position, ReaderOptions{CacheBytes: 512 << 10})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			at, p := 0, make([]byte, 70000)
			for range 200 {
				if i%2 == 0 {
					at = rand.IntN(len(want)) // random reads
				}
				n := 1 + rand.IntN(min(len(p), len(want)-at))
				if _, err := r.ReadAt(p[:n], int64(at)); err != nil || !bytes.Equal(p[:n], want[at:at+n]) {
					t.Errorf("read %d+%d: %v", at, n, err)
					return
				}
				at = (at + n) % len(want) // sequential ones
			}
		})
	}
	wg.Wait()
	r.now.Load().cache.mu.Lock()
	if r.now.Load().cache.used > 512<<10 {
		t.Errorf("the cache holds %d bytes", r.now.Load().cache.used)
	}
	r.now.Load().cache.mu.Unlock()
	for range 4 {
		wg.Go(func() {
			p := make([]byte, 4096)
			for {
				if _, err := r.ReadAt(p, rand.Int64N(int64(len(want))-4096)); err != nil {
					return
				}
			}
		})
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// Sequential reads are read ahead in few requests; random ones are not.
func TestReadAhead(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	const blocks = 4096
	b := opening(1, blocks*BlockSize)
	for at := 0; at < blocks; at += 32 {
		b.Frames = append(b.Frames, frame(CodecZstd, write{uint64(at), 32, text(32, uint64(at))}))
	}
	h := commit(t, w, b)
	read := func(o ReaderOptions, random bool) (requests int, fetched int64) {
		r, err := v.OpenAt(t.Context(), testDisk, h.Position, o)
		if err != nil {
			t.Fatal(err)
		}
		before := st.Ops()
		p := make([]byte, 64<<10)
		for i := range 128 {
			off := int64(i * len(p))
			if random {
				off = int64(i*37%64) * 4 * int64(len(p))
			}
			if _, err := r.ReadAt(p, off); err != nil && off < r.Size() {
				t.Fatal(err)
			}
		}
		r.Close()
		return st.Ops() - before, r.BytesFetched()
	}
	if again, _ := read(ReaderOptions{ReadAhead: -1, CacheBytes: 1}, false); again != 128 {
		t.Errorf("%d requests for 128 reads without a cache", again)
	}
	plain, _ := read(ReaderOptions{ReadAhead: -1}, false)
	ahead, _ := read(ReaderOptions{}, false)
	_, random := read(ReaderOptions{}, true)
	_, exact := read(ReaderOptions{ReadAhead: -1}, true)
	if plain != 64 || ahead > plain/2 {
		t.Errorf("%d requests without read-ahead, %d with", plain, ahead)
	}
	if random > exact*5/4 {
		t.Errorf("random reads fetch %d bytes with read-ahead, %d without", random, exact)
	}
}
