package vault

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// now are options under which nothing is too young to be folded.
func now(keep Retention, inUse ...string) MaintainOptions {
	return MaintainOptions{Keep: keep, InUse: func() []string { return inUse }, set: true}
}

// keepers is a retention that keeps only one point of those that tests make.
var keepers = Retention{Yearly: 1}

// tidy lets Maintain keep some of the points that there are and forget the others.
func (m *model) tidy() {
	m.t.Helper()
	var some []string
	for id := range m.listed {
		if m.rnd.IntN(3) > 0 {
			some = append(some, id)
		}
	}
	o := now(keepers, some...)
	o.MaxDead = []float64{0.01, 0.09, 0.5}[m.rnd.IntN(3)]
	o.NoDelete = m.rnd.IntN(5) == 0
	v := unlockTest(m.t, m.st)
	done, err := v.Maintain(m.t.Context(), o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.folded += done.Folded
	m.mapped += done.Mapped
	m.deleted += done.Deleted
	if o.NoDelete {
		return
	}
	for _, p := range done.Removed {
		delete(m.listed, p.ID)
	}
	for _, id := range some {
		if _, ok := m.listed[id]; !ok {
			m.t.Fatalf("point %s was in use and is gone", id)
		}
	}
	for _, w := range m.ws { // in an hour they would have looked
		if err := w.Reload(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
}

// verifyKept compares what must be there with the model, and makes sure that the rest
// is right or refused.
func (m *model) verifyKept() {
	m.t.Helper()
	v := unlockTest(m.t, m.st)
	w := openDisk(m.t, v)
	m.verifySums(w)
	must := map[Position]bool{w.Head().Position: true}
	points, bad, err := v.Points(m.t.Context(), "")
	if err != nil || len(bad) > 0 || len(points) != len(m.listed) {
		m.t.Fatalf("%d points, want %d; %v %v", len(points), len(m.listed), bad, err)
	}
	for _, p := range points {
		at := p.Machines[0].Disks[0].At
		must[at] = true
		if c, err := v.Cut(m.t.Context(), testDisk, at); err != nil || c.Digest != p.Machines[0].Disks[0].Digest {
			m.t.Fatalf("cut of point %s at %s: %v", p.ID, at, err)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(m.states), Position.Compare) {
		if at == (Position{}) {
			continue
		}
		if !must[at] {
			r, err := v.OpenAt(m.t.Context(), testDisk, at, ReaderOptions{})
			if errors.Is(err, ErrNotFound) {
				continue
			}
			if err != nil {
				m.t.Fatalf("at %s, which nobody keeps: %v", at, err)
			}
			r.Close()
		}
		wantDisk(m.t, v, at, m.states[at])
	}
	wantClean(m.t, v)
}

// withoutMaps is the vault after all maps were lost.
func withoutMaps(st *storetest.Mem) (c *storetest.Mem, lost int) {
	c = st.Clone()
	for _, k := range c.Keys() {
		if _, _, ok := parseMapKey(k); ok {
			c.Remove(k)
			lost++
		}
	}
	return c, lost
}

func maintainModel(t *testing.T, seed uint64, steps int) (folded, deleted, mapped int) {
	m := newModel(t, seed, storetest.NewMem())
	for range 1 + m.rnd.IntN(6) {
		m.life(1 + m.rnd.IntN(steps))
		m.tidy()
		if m.rnd.IntN(3) == 0 {
			m.verifyKept()
		}
	}
	m.verifyKept()
	if c, lost := withoutMaps(m.st.(*storetest.Mem)); lost > 0 && m.rnd.IntN(3) == 0 {
		m.st = c
		m.verifyKept()
	}
	return m.folded, m.deleted, m.mapped
}

// TestMaintainModel lets random histories happen, with points coming and going: every
// point that is kept must come back byte for byte, and what is not kept must be
// refused or right. LEEWARD_SEED repeats one, LEEWARD_FULL=1 makes it 10 000.
func TestMaintainModel(t *testing.T) {
	seeds, steps := 40/slower, 20
	if full() {
		seeds = 10000 / slower
	}
	if s := os.Getenv("LEEWARD_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		maintainModel(t, seed, steps)
		return
	}
	var mu sync.Mutex
	folded, deleted, mapped := 0, 0, 0
	t.Run("seed", func(t *testing.T) {
		for range seeds {
			seed := rand.Uint64()
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				defer func() {
					if t.Failed() {
						t.Logf("repeat with LEEWARD_SEED=%d", seed)
					}
				}()
				f, d, m := maintainModel(t, seed, steps)
				mu.Lock()
				defer mu.Unlock()
				folded, deleted, mapped = folded+f, deleted+d, mapped+m
			})
		}
	})
	if folded < seeds || deleted < seeds || mapped < seeds {
		t.Fatalf("%d segments folded, %d deleted and %d maps made in %d histories: this test shows too little", folded, deleted, mapped, seeds)
	}
	t.Logf("%d histories, %d segments folded, %d deleted, %d maps made", seeds, folded, deleted, mapped)
}

// stored is the size of a vault's segments in bytes.
func stored(st *storetest.Mem) (n int) {
	for _, k := range st.Keys() {
		if _, _, ok := parseSegmentKey(k); ok {
			n += len(st.Bytes(k))
		}
	}
	return n
}

// After thinning to one point a vault holds at most a tenth more than a fresh copy.
func TestSpaceAfterThinning(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	const blocks, changes = 4096, 40
	disk := make([]byte, blocks*BlockSize)
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := newNoise(5)
	write1 := func(at, n int) Frame {
		half := disk[at*BlockSize : (at+n)*BlockSize]
		noise.Read(half)
		for i := range n { // half of it packs
			clear(half[i*BlockSize+BlockSize/2 : (i+1)*BlockSize])
		}
		return frame(CodecZstd, write{uint64(at), uint32(n), half})
	}
	var frames []Frame
	for at := 0; at < blocks; at += 64 {
		frames = append(frames, write1(at, 64))
	}
	h := commit(t, w, cutAt(opening(1, uint64(len(disk)), frames...), uint64(len(disk))))
	put := func(n int, h Head) {
		p := &Point{
			ID: "p" + strconv.Itoa(n), Group: "g", Time: testTime.Add(time.Duration(n) * time.Second), Consistency: "crash",
			Machines: []PointMachine{{Machine: testDisk.Machine, Disks: []PointDisk{{Disk: testDisk.Disk, At: h.Position, Size: h.Size, Digest: h.Digest}}}},
		}
		if err := v.PutPoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	put(0, h)
	for n := range changes {
		var frames []Frame
		at := 0
		for range 10 { // scattered, so that every old frame loses a little
			if at += 1 + rnd.IntN(2*blocks/10-4); at >= blocks-4 {
				break
			}
			frames = append(frames, write1(at, 1+rnd.IntN(4)))
			at += 4
		}
		h = commit(t, w, cutAt(batch(h, 3, frames...), uint64(len(disk))))
		put(n+1, h)
	}
	commit(t, w, batch(h, 1)) // the head itself is never folded
	before := stored(st)
	done, err := v.Maintain(t.Context(), now(keepers))
	if err != nil || len(done.Kept) != 1 || len(done.Removed) != changes {
		t.Fatalf("%+v, %v", done, err)
	}
	after := stored(st)

	freshSt, fresh := memVault(t)
	fw := openDisk(t, fresh)
	frames = nil
	for at := 0; at < blocks; at += 64 {
		frames = append(frames, frame(CodecZstd, write{uint64(at), 64, disk[at*BlockSize : (at+64)*BlockSize]}))
	}
	commit(t, fw, cutAt(opening(1, uint64(len(disk)), frames...), uint64(len(disk))))
	want := stored(freshSt)
	t.Logf("%d bytes before, %d after, a fresh copy has %d: %.3f x", before, after, want, float64(after)/float64(want))
	if float64(after) > 1.1*float64(want) {
		t.Errorf("%d bytes are stored, a fresh copy has %d", after, want)
	}
	wantDisk(t, v, h.Position, disk)
	wantClean(t, v)
}

// Readers go on while what they read is folded and deleted under them, and so does a
// restore that has begun.
func TestReaderOutlivesFolding(t *testing.T) {
	m := newModel(t, 3, storetest.NewMem())
	m.life(60)
	var stay []string
	readers := map[string]*Reader{}
	for id, at := range m.listed {
		if len(stay) == 5 {
			break
		}
		stay = append(stay, id)
		r, err := m.v.OpenAt(t.Context(), testDisk, at, ReaderOptions{CacheBytes: 1, ReadAhead: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers[id] = r
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for id, r := range readers {
		want, rnd := m.states[m.listed[id]], rand.New(rand.NewPCG(1, 1))
		wg.Go(func() {
			for ctx.Err() == nil {
				off := rnd.IntN(len(want))
				p := make([]byte, min(1+rnd.IntN(100000), len(want)-off))
				if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
					t.Errorf("point %s, offset %d: %v", id, off, err)
					return
				}
			}
		})
	}
	done, err := unlockTest(t, m.st).Maintain(t.Context(), now(keepers, stay...))
	if err != nil || done.Folded == 0 || done.Deleted == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	for id, r := range readers { // none has opened anything since
		want := m.states[m.listed[id]]
		got := make(image, len(want))
		if _, err := r.Restore(t.Context(), got, RestoreOptions{}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("restore of %s: %v", id, err)
		}
	}
	cancel()
	wg.Wait()
	// A position that nobody kept is refused, not made up.
	for at, want := range m.states {
		if at == (Position{}) {
			continue
		}
		r, err := m.v.OpenAt(t.Context(), testDisk, at, ReaderOptions{})
		if err != nil {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", at, err)
			}
			continue
		}
		got := make(image, len(want))
		if _, err := r.Restore(t.Context(), got, RestoreOptions{}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", at, err)
		}
		r.Close()
	}
}

func TestPins(t *testing.T) {
	m := newModel(t, 5, storetest.NewMem())
	for m.points < 4 {
		m.life(10)
	}
	if err := m.v.Pin(t.Context(), "p1", "before the upgrade"); err != nil {
		t.Fatal(err)
	}
	if err := m.v.Pin(t.Context(), "p1", ""); !errors.Is(err, ErrExists) {
		t.Errorf("pinned twice: %v", err)
	}
	if err := m.v.Pin(t.Context(), "p99", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("pinned what is not there: %v", err)
	}
	if err := m.v.Unpin(t.Context(), "p2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("unpinned what is not pinned: %v", err)
	}
	pins, bad, err := m.v.Pins(t.Context())
	if err != nil || len(bad) > 0 || len(pins) != 1 || pins[0].Point != "p1" || pins[0].Name != "before the upgrade" || time.Since(pins[0].Time) > time.Minute {
		t.Fatalf("%+v %v %v", pins, bad, err)
	}
	r, err := m.v.Maintain(t.Context(), MaintainOptions{Keep: keepers, DryRun: true, set: true})
	if err != nil || len(r.Kept) != 2 || len(r.Removed) != m.points-2 {
		t.Fatalf("dry run: %+v, %v", r, err)
	}
	if points, _, _ := m.v.Points(t.Context(), ""); len(points) != m.points {
		t.Fatal("the dry run removed points")
	}
	if _, err := m.v.Maintain(t.Context(), now(keepers)); err != nil {
		t.Fatal(err)
	}
	wantDisk(t, m.v, m.listed["p1"], m.states[m.listed["p1"]])
	wantClean(t, m.v)
	if err := m.v.Unpin(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	if r, err = m.v.Maintain(t.Context(), now(keepers)); err != nil || len(r.Removed) != 1 || r.Removed[0].ID != "p1" {
		t.Fatalf("after unpinning: %+v, %v", r, err)
	}
	wantClean(t, m.v)
	// A pin without a point is pointed out.
	st := m.st.(*storetest.Mem)
	if err := m.v.Pin(t.Context(), r.Kept[0].ID, ""); err != nil {
		t.Fatal(err)
	}
	for _, k := range st.Keys() {
		if strings.HasPrefix(k, pointPrefix) {
			st.Remove(k)
		}
	}
	c, err := m.v.Check(t.Context(), CheckOptions{})
	if err != nil || len(c.Problems) != 1 || !strings.HasPrefix(c.Problems[0].Key, pinPrefix) {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := m.v.Unpin(t.Context(), r.Kept[0].ID); err != nil {
		t.Errorf("unpin a point that is gone: %v", err)
	}
	wantClean(t, m.v)
}

// What young segments lead to can still be listed: it is not folded.
func TestYoungIsLeftAlone(t *testing.T) {
	m := newModel(t, 9, storetest.NewMem())
	m.life(40)
	before := len(m.st.(*storetest.Mem).Keys())
	m.v.fan = 1000 // no maps
	r, err := m.v.Maintain(t.Context(), MaintainOptions{Keep: keepers})
	if err != nil || r.Folded != 0 || r.Deleted != 0 || len(r.Removed) == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if after := len(m.st.(*storetest.Mem).Keys()); after != before-len(r.Removed) {
		t.Errorf("%d objects of %d are left", after, before)
	}
}

// A recovery point that cannot be read may need anything: nothing is touched.
func TestMaintainStopsAtDamage(t *testing.T) {
	m := newModel(t, 5, storetest.NewMem())
	for m.points < 3 {
		m.life(10)
	}
	st := m.st.(*storetest.Mem)
	for _, k := range st.Keys() {
		if strings.HasPrefix(k, pointPrefix) {
			b := st.Bytes(k)
			b[len(b)-1] ^= 1
			st.Set(k, b)
			break
		}
	}
	before := len(st.Keys())
	if _, err := m.v.Maintain(t.Context(), now(keepers)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged point: %v", err)
	}
	if len(st.Keys()) != before {
		t.Error("objects were deleted")
	}
}
