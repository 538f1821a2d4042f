package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// maxModel is the largest disk of the model in blocks.
const maxModel = 600

// model is the dumb twin of a vault with one disk: it remembers the whole disk at
// the end of every segment.
type model struct {
	t               testing.TB
	max             int // blocks of the disk
	rnd             *rand.Rand
	st              store.Store
	v               *Vault
	ws              []*DiskWriter // a writer and its zombies
	states          map[Position][]byte
	heads           map[Position]Head
	cuts            map[Position]bool
	points          int
	listed          map[string]Position // points by id
	folded, deleted int                 // segments
	mapped          int                 // maps made
	branch          uint64              // makes chain hashes of different branches differ
}

func newModel(t testing.TB, seed uint64, st store.Store) *model {
	m := &model{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), st: st,
		states: map[Position][]byte{{}: nil}, heads: map[Position]Head{}, cuts: map[Position]bool{}, listed: map[string]Position{},
	}
	m.max = []int{60, 60, 60, 150, maxModel}[m.rnd.IntN(5)]
	v, err := Create(context.Background(), st, testKey)
	if err != nil {
		t.Fatal(err)
	}
	m.v = v
	m.ws = []*DiskWriter{openDisk(t, v)}
	return m
}

// content returns n blocks: new ones, zeros now and then, often what was there.
func (m *model) content(was []byte, start uint64, n int) []byte {
	b := text(n, m.rnd.Uint64N(4))
	for i := range n {
		at, block := (int(start)+i)*BlockSize, b[i*BlockSize:(i+1)*BlockSize]
		switch m.rnd.IntN(6) {
		case 0:
			clear(block)
		case 1, 2:
			if at+BlockSize <= len(was) {
				copy(block, was[at:])
			}
		}
	}
	return b
}

// frames returns random frames over a disk of size blocks, and the disk after them.
func (m *model) frames(was []byte, blocks int) (frames []Frame, now []byte) {
	now = bytes.Clone(was)
	grow := func(n int) { now = append(now, make([]byte, max(0, n-len(now)))...) }
	var writes []write
	for at := m.rnd.IntN(blocks/2 + 1); at < blocks && len(writes) < 12; {
		n := min(1+m.rnd.IntN(1+m.max/15), blocks-at)
		w := write{start: uint64(at), count: uint32(n)}
		if m.rnd.IntN(4) > 0 {
			w.data = m.content(was, w.start, n)
		}
		writes = append(writes, w)
		end := (at + n) * BlockSize
		grow(end)
		clear(now[at*BlockSize : end])
		copy(now[at*BlockSize:end], w.data)
		at += n + m.rnd.IntN(m.max/10)
	}
	if m.rnd.IntN(3) == 0 { // frames need not ascend
		m.rnd.Shuffle(len(writes), func(i, j int) { writes[i], writes[j] = writes[j], writes[i] })
	}
	for len(writes) > 0 {
		n, blocks := 0, 0
		for n < len(writes) && n < 4 && blocks+int(writes[n].count) <= MaxRaw/BlockSize {
			blocks += int(writes[n].count)
			n++
		}
		frames = append(frames, frame(Codec(m.rnd.IntN(2)), writes[:n]...))
		writes = writes[n:]
	}
	return frames, now
}

// resize cuts or extends a disk.
func resize(b []byte, size int) []byte {
	if size <= len(b) {
		return b[:size:size]
	}
	return append(b[:len(b):len(b)], make([]byte, size-len(b))...)
}

// padded is the disk with its last block whole, as it is stored.
func padded(b []byte) []byte { return resize(b, (len(b)+BlockSize-1)/BlockSize*BlockSize) }

// step commits a random batch with writer w.
func (m *model) step(w *DiskWriter) {
	h := w.Head()
	open := h.Epoch == 0 || m.rnd.IntN(12) == 0
	if open {
		if err := w.Reload(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
		h = w.Head()
	}
	was := m.states[h.Position]
	size := len(was)
	if open && (size == 0 || m.rnd.IntN(3) == 0) {
		size = (m.max/6 + m.rnd.IntN(m.max*5/6)) * BlockSize
	}
	frames, now := m.frames(padded(resize(was, size)), (size+BlockSize-1)/BlockSize)
	m.branch++
	b := &Batch{Epoch: h.Epoch, First: h.Number + 1, Prev: h.Hash, Frames: frames}
	if open {
		b = opening(h.Epoch+1+m.rnd.Uint64N(3), uint64(size), frames...)
		b.MinBase = h.Position
	}
	b.Last = b.First + m.rnd.Uint64N(5)
	b.Hash = hashAt(b.Epoch, b.Last, m.branch)
	now = resize(now, size) // no extent goes beyond it
	if m.rnd.IntN(3) == 0 {
		if m.rnd.IntN(4) == 0 {
			size = (m.max/12 + m.rnd.IntN(m.max*11/12)) * BlockSize
		}
		cutAt(b, uint64(size))
		now = resize(now, size)
	}
	got, err := w.Commit(m.t.Context(), b)
	if errors.Is(err, ErrConflict) || errors.Is(err, ErrFenced) {
		if err := w.Reload(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.states[got.Position] = now
	m.heads[got.Position] = got
	m.cuts[got.Position] = b.Cut != nil
	if b.Cut != nil {
		m.point(b, got)
	}
}

func (m *model) point(b *Batch, h Head) {
	m.points++
	p := &Point{
		ID: fmt.Sprintf("p%d", m.points), Group: "g", Time: testTime.Add(time.Duration(m.points) * time.Second), Consistency: "crash",
		Machines: []PointMachine{{Machine: testDisk.Machine, Disks: []PointDisk{{Disk: testDisk.Disk, At: h.Position, Size: b.Cut.Size, Digest: h.Digest}}}},
	}
	if err := m.v.PutPoint(m.t.Context(), p); err != nil {
		m.t.Fatal(err)
	}
	m.listed[p.ID] = h.Position
}

// life lets a random number of things happen.
func (m *model) life(steps int) {
	for range steps {
		switch m.rnd.IntN(12) {
		case 0: // a new process takes over; the old one lives on for a while
			m.ws = append(m.ws, openDisk(m.t, unlockTest(m.t, m.st)))
			m.ws = m.ws[max(0, len(m.ws)-3):]
		case 1:
			if err := m.ws[0].Reload(m.t.Context()); err != nil {
				m.t.Fatal(err)
			}
		default:
			m.step(m.ws[m.rnd.IntN(len(m.ws))])
		}
	}
}

// verify compares everything the vault holds with the model.
func (m *model) verify() {
	v := unlockTest(m.t, m.st)
	for _, at := range slices.SortedFunc(maps.Keys(m.states), Position.Compare) {
		if at == (Position{}) {
			continue
		}
		wantDisk(m.t, v, at, m.states[at])
		c, err := v.Cut(m.t.Context(), testDisk, at)
		if m.cuts[at] != (err == nil) || err != nil && !errors.Is(err, ErrNotFound) || err == nil && c.At != at {
			m.t.Fatalf("cut at %s: %+v, %v", at, c, err)
		}
	}
	n := 0
	err := v.Cuts(m.t.Context(), testDisk, func(c CutInfo) error {
		if n++; !m.cuts[c.At] || c.Digest != m.heads[c.At].Digest {
			m.t.Errorf("there is a cut at %s", c.At)
		}
		return nil
	})
	if err != nil || n != m.points {
		m.t.Fatalf("%d cuts, %d points, %v", n, m.points, err)
	}
	w := openDisk(m.t, v)
	m.verifySums(w)
	if r := wantClean(m.t, v); r.Segments != len(m.heads) || r.Points != m.points {
		m.t.Fatalf("report %+v, want %d segments and %d points", r, len(m.heads), m.points)
	}
}

func (m *model) verifySums(w *DiskWriter) {
	disk := padded(m.states[w.Head().Position])
	for i, s := range w.Sums(0, maxModel) {
		want := Sum{}
		if (i+1)*BlockSize <= len(disk) {
			want = SumOf(disk[i*BlockSize : (i+1)*BlockSize])
		}
		if s != want {
			m.t.Fatalf("sum of block %d of the head at %s is wrong", i, w.Head().Position)
		}
	}
}

// TestModel lets random histories happen: every state they went through must come
// back byte for byte. LEEWARD_SEED repeats one.
func TestModel(t *testing.T) {
	seeds, steps := 10/slower, 40
	if full() {
		seeds = 2000
	}
	if s := os.Getenv("LEEWARD_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		m := newModel(t, seed, storetest.NewMem())
		m.life(steps)
		m.verify()
		return
	}
	for range seeds {
		seed := rand.Uint64()
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			m := newModel(t, seed, storetest.NewMem())
			m.life(steps)
			m.verify()
		})
		if !ok {
			t.Fatalf("repeat with LEEWARD_SEED=%d", seed)
		}
	}
}
