package vault

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// meter counts what is read from a store.
type meter struct {
	store.Store
	gets, bytes, lists, names atomic.Int64
}

func (m *meter) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := m.Store.Get(ctx, key, off, n)
	m.gets.Add(1)
	m.bytes.Add(int64(len(b)))
	return b, err
}

func (m *meter) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	m.lists.Add(1)
	return m.Store.List(ctx, prefix, func(i store.Info) error {
		m.names.Add(1)
		return yield(i)
	})
}

func (m *meter) reset() {
	m.gets.Store(0)
	m.bytes.Store(0)
	m.lists.Store(0)
	m.names.Store(0)
}

func (m *meter) String() string {
	return fmt.Sprintf("%d reads of %d KiB in all, %d lists of %d names", m.gets.Load(), m.bytes.Load()>>10, m.lists.Load(), m.names.Load())
}

// heap is how many bytes are alive.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// TestInstantOpen opens a disk of 1 TiB with a long history (100 000 segments with
// LEEWARD_FULL=1) at points all over it: what that reads grows with the levels of maps
// and not with the history.
func TestInstantOpen(t *testing.T) {
	segments := 1200
	if full() {
		segments = 100000
	}
	if slower > 1 {
		segments = 500
	}
	st := storetest.NewMem()
	m := &meter{Store: st}
	v := newTestVault(t, m)
	w := openDisk(t, v)
	const size, blocks = 1 << 40, 1 << 28
	rnd := rand.New(rand.NewPCG(1, 2))
	last := map[uint64]uint64{} // what a block was written with last, at the end
	write1 := func(n int) Frame {
		var ws []write
		at := uint64(0)
		for range 4 { // ascending, anywhere
			at += 1 + rnd.Uint64N(blocks/4-8)
			b := make([]byte, BlockSize)
			binary.BigEndian.PutUint64(b, uint64(n))
			last[at] = uint64(n)
			ws = append(ws, write{at, 1, b})
			at++
		}
		return frame(CodecZstd, ws...)
	}
	h := commit(t, w, opening(1, size, write1(0)))
	var at []Position
	for n := 1; n < segments; n++ {
		b := batch(h, 1+rnd.Uint64N(3), write1(n))
		if n%(segments/20) == 0 || n == segments-20 {
			cutAt(b, size)
		}
		h = commit(t, w, b)
		if b.Cut != nil {
			p := &Point{ID: fmt.Sprint("p", n), Group: "g", Time: b.Cut.Time, Consistency: "crash",
				Machines: []PointMachine{{Machine: testDisk.Machine, Disks: []PointDisk{{Disk: testDisk.Disk, At: h.Position, Size: size, Digest: h.Digest}}}}}
			if err := v.PutPoint(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			at = append(at, h.Position)
		}
	}
	began := time.Now()
	done, err := v.Maintain(t.Context(), MaintainOptions{}) // all of it is young: nothing is folded
	if err != nil || done.Mapped == 0 || done.Folded != 0 {
		t.Fatalf("%+v %v", done, err)
	}
	t.Logf("%d maps of %d KiB in %s for %d segments", done.Mapped, done.Written>>10, time.Since(began).Round(time.Millisecond), segments)
	levels := 1
	for n := segments; n >= mapFan; n /= mapFan {
		levels++
	}
	before := heap()
	open := func(p Position, st store.Store) (*Reader, time.Duration) {
		v, err := Unlock(t.Context(), st, testKey)
		if err != nil {
			t.Fatal(err)
		}
		m.reset()
		began := time.Now()
		r, err := v.OpenAt(t.Context(), testDisk, p, ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, BlockSize)
		if _, err := r.ReadAt(b, rnd.Int64N(blocks)*BlockSize); err != nil {
			t.Fatal(err)
		}
		return r, time.Since(began)
	}
	at = append(at, h.Position)
	var held []*Reader
	var took []time.Duration
	for _, p := range at {
		r, d := open(p, m)
		took = append(took, d)
		// The disk's key, the maps with the first of them twice, the segments behind them,
		// then a page of each map, a group of sources and the frame.
		if most := int64(1 + levels + 1 + mapFan + levels + 2); m.gets.Load() > most {
			t.Errorf("opening at %s: %s, want at most %d reads", p, m, most)
		}
		if m.bytes.Load() > 8<<20 || m.lists.Load() > maxLists+1 || m.names.Load() > 2000 {
			t.Errorf("opening at %s: %s", p, m)
		}
		if p == h.Position {
			t.Logf("at the end: %s", m)
			checkBlocks(t, r, last)
		}
		held = append(held, r)
	}
	t.Logf("opening and first read: median %s, slowest %s; %d readers hold %d KiB", middle(took), slices.Max(took), len(held), (heap()-before)>>10)
	for _, r := range held {
		r.Close()
	}
	if full() { // the same objects as files, with all of an epoch's segments in one directory
		files := inFiles(t, st)
		took = nil
		for _, p := range at {
			r, d := open(p, files)
			took = append(took, d)
			r.Close()
		}
		t.Logf("from a directory: median %s, slowest %s", middle(took), slices.Max(took))
	}
}

func middle(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// inFiles returns a store in a directory with the objects of another.
func inFiles(t *testing.T, m *storetest.Mem) store.Store {
	root := t.TempDir()
	st, err := dir.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range m.Keys() { // not with Put: a test need not wait for 100 000 fsyncs
		name := filepath.Join(root, filepath.FromSlash(k))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, m.Bytes(k), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

func checkBlocks(t *testing.T, r *Reader, last map[uint64]uint64) {
	t.Helper()
	n := 0
	b := make([]byte, BlockSize)
	for block, want := range last {
		if n++; n > 500 {
			break
		}
		if _, err := r.ReadAt(b, int64(block)*BlockSize); err != nil || binary.BigEndian.Uint64(b) != want {
			t.Fatalf("block %d: %d, want %d, %v", block, binary.BigEndian.Uint64(b), want, err)
		}
	}
}

// hollow is a store for a vault too large for a test: it forgets the sums of segments,
// which readers do not need, and keeps the rest in one file.
type hollow struct {
	*storetest.Mem
	file *os.File
	mu   sync.Mutex
	end  int64             // mu guards
	at   map[string]extent // mu guards
}

// extent is an object with a hole.
type extent struct {
	off, hole, holeLen, size int64
}

func newHollow(t *testing.T) *hollow {
	f, err := os.Create(filepath.Join(t.TempDir(), "objects"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &hollow{Mem: storetest.NewMem(), file: f, at: map[string]extent{}}
}

// put stores an object without the bytes of its hole.
func (h *hollow) put(key string, b []byte, hole, holeLen int64) error {
	h.mu.Lock()
	e := extent{h.end, hole, holeLen, int64(len(b))}
	h.at[key] = e
	h.end += e.size - holeLen
	h.mu.Unlock()
	if _, err := h.file.WriteAt(b[:hole], e.off); err != nil {
		return err
	}
	_, err := h.file.WriteAt(b[hole+holeLen:], e.off+hole)
	return err
}

func (h *hollow) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	h.mu.Lock()
	e, ok := h.at[key]
	h.mu.Unlock()
	if !ok {
		return h.Mem.Get(ctx, key, off, n)
	}
	start, count, err := store.Range(e.size, off, n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, count)
	for i := int64(0); i < count; {
		p := start + i
		switch {
		case p < e.hole:
			k := min(count-i, e.hole-p)
			if _, err := h.file.ReadAt(b[i:i+k], e.off+p); err != nil {
				return nil, err
			}
			i += k
		case p < e.hole+e.holeLen:
			i += min(count-i, e.hole+e.holeLen-p)
		default:
			if _, err := h.file.ReadAt(b[i:], e.off+p-e.holeLen); err != nil {
				return nil, err
			}
			i = count
		}
	}
	return b, nil
}

func (h *hollow) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	all := map[string]store.Info{}
	err := h.Mem.List(ctx, prefix, func(i store.Info) error {
		all[i.Key] = i
		return nil
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	for k, e := range h.at {
		if len(k) >= len(prefix) && k[:len(prefix)] == prefix {
			all[k] = store.Info{Key: k, Size: e.size, Modified: time.Now()}
		}
	}
	h.mu.Unlock()
	return yieldSorted(all, yield)
}

// TestFullDisk opens a disk that is full (16 GiB, 1 TiB with LEEWARD_FULL=1), before
// there is a map and after: memory stays far below what its map would take.
func TestFullDisk(t *testing.T) {
	segments := 128
	if full() {
		segments = 8192
	}
	const perSegment, perFrame = 32768, 64 // blocks: 128 MiB in frames of 256 KiB
	st := newHollow(t)
	v := newTestVault(t, st)
	if _, err := v.makeDiskKey(t.Context(), testDisk); err != nil {
		t.Fatal(err)
	}
	d, err := v.disk(t.Context(), testDisk)
	if err != nil {
		t.Fatal(err)
	}
	data := make([][]byte, 2)
	for i := range data {
		raw := make([]byte, perFrame*BlockSize)
		for k := range raw {
			raw[k] = byte('a' + i)
		}
		data[i] = testEncoder.EncodeAll(raw, nil)
	}
	size := uint64(segments) * perSegment * BlockSize
	p := plan{sums: make([]byte, perSegment*sumSize), blocks: perSegment, size: size}
	var buf []byte
	for n := range segments {
		p.frames, p.data = nil, nil
		for k := range perSegment / perFrame {
			start := uint64(n*perSegment + k*perFrame)
			p.frames = append(p.frames, format.Frame{Codec: format.CodecZstd, Blocks: perFrame, Extents: []format.Extent{{Start: start, Count: perFrame}}})
			p.data = append(p.data, data[(n+k)%2])
		}
		x := &format.Trailer{Epoch: 1, First: uint64(n + 1), Last: uint64(n + 1), Hash: hashAt(1, uint64(n+1), 0), Size: size, Blocks: p.blocks}
		if n == 0 {
			x.Open = &format.Open{Size: size}
		} else {
			x.Prev = hashAt(1, uint64(n), 0)
		}
		if buf, err = d.write(buf[:0], segmentRef{epoch: 1, first: x.First}, &p, x); err != nil {
			t.Fatal(err)
		}
		if err := st.put(segmentKey(testDisk, 1, x.First), buf, int64(x.SumsOff), int64(x.SumsLen)); err != nil {
			t.Fatal(err)
		}
	}
	buf, p = nil, plan{}
	end := Position{1, uint64(segments)}
	before := heap()
	read := func(what string) {
		began := time.Now()
		r, err := unlockTest(t, st).OpenAt(t.Context(), testDisk, end, ReaderOptions{})
		if err != nil {
			t.Fatal(err)
		}
		opened := time.Since(began)
		held := heap() - before
		b := make([]byte, BlockSize)
		for range 2000 {
			block := rand.Int64N(int64(size) / BlockSize)
			want := byte('a' + (block/perSegment+block%perSegment/perFrame)%2)
			if _, err := r.ReadAt(b, block*BlockSize); err != nil || b[0] != want || b[BlockSize-1] != want {
				t.Fatalf("block %d: %c, want %c, %v", block, b[0], want, err)
			}
		}
		extents, bytes := 0, int64(0)
		r.Extents(func(_, n int64) bool { extents++; bytes += n; return true })
		if extents != 1 || bytes != int64(size) {
			t.Errorf("%d extents of %d bytes", extents, bytes)
		}
		full := heap() - before
		t.Logf("%s: opened in %s with %d KiB, %d KiB after 2000 reads and a look at all of it", what, opened.Round(time.Microsecond), held>>10, full>>10)
		if full > 256<<20 {
			t.Errorf("%s: %d MiB are in use", what, full>>20)
		}
		r.Close()
	}
	read("without a map")
	began := time.Now()
	done, err := v.Maintain(t.Context(), MaintainOptions{})
	if err != nil || done.Mapped == 0 {
		t.Fatalf("%+v %v", done, err)
	}
	t.Logf("%d maps of %d KiB in %s", done.Mapped, done.Written>>10, time.Since(began).Round(time.Millisecond))
	read("with maps")
}

func yieldSorted(all map[string]store.Info, yield func(store.Info) error) error {
	keys := make([]string, 0, len(all))
	for k := range all {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if err := yield(all[k]); err != nil {
			return err
		}
	}
	return nil
}
