package vault

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
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

func maintainModel(t *testing.T, seed uint64, steps int) (folded, deleted int) {
	m := newModel(t, seed, storetest.NewMem())
	for range 1 + m.rnd.IntN(6) {
		m.life(1 + m.rnd.IntN(steps))
		m.tidy()
		if m.rnd.IntN(3) == 0 {
			m.verifyKept()
		}
	}
	m.verifyKept()
	return m.folded, m.deleted
}

// TestMaintainModel lets random histories happen, with points coming and going: every
// point that is kept must come back byte for byte, and what is not kept must be
// refused or right. LEEWARD_SEED repeats one, LEEWARD_FULL=1 makes it 10 000.
func TestMaintainModel(t *testing.T) {
	seeds, steps := 60/slower, 20
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
	folded, deleted := 0, 0
	for range seeds {
		seed := rand.Uint64()
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			f, d := maintainModel(t, seed, steps)
			folded, deleted = folded+f, deleted+d
		})
		if !ok {
			t.Fatalf("repeat with LEEWARD_SEED=%d", seed)
		}
	}
	if folded < seeds || deleted < seeds {
		t.Fatalf("%d segments folded and %d deleted in %d histories: this test shows too little", folded, deleted, seeds)
	}
	t.Logf("%d histories, %d segments folded, %d deleted", seeds, folded, deleted)
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
