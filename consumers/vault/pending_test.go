package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// stager stages in memory, and holds each Stage until it is told to go on.
type stager struct {
	*storetest.Mem
	mu    sync.Mutex
	gates map[string]chan struct{} // mu guards
	fail  map[string]error         // mu guards: of Commit
	order []string                 // mu guards: as they were committed
}

func (s *stager) gate(key string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gates[key] == nil {
		s.gates[key] = make(chan struct{})
	}
	return s.gates[key]
}

func (s *stager) Stage(ctx context.Context, key string, data []byte) (store.Staged, error) {
	<-s.gate(key)
	return inMemory{s, key, data}, nil
}

type inMemory struct {
	s    *stager
	key  string
	data []byte
}

func (g inMemory) Commit(ctx context.Context) error {
	g.s.mu.Lock()
	err := g.s.fail[g.key]
	g.s.order = append(g.s.order, g.key)
	g.s.mu.Unlock()
	if err != nil {
		return err
	}
	return g.s.Put(ctx, g.key, g.data)
}

func (g inMemory) Abort() {}

// ahead begins three batches behind the open and returns them with what the disk is then.
func ahead(t *testing.T) (st *stager, v *Vault, w *DiskWriter, all []*Pending, want [][]byte) {
	t.Helper()
	st = &stager{Mem: storetest.NewMem(), gates: map[string]chan struct{}{}, fail: map[string]error{}}
	v = newTestVault(t, st)
	w = openDisk(t, v)
	h := commit(t, w, opening(1, 16*BlockSize))
	disk := make([]byte, 16*BlockSize)
	for i := range uint64(3) {
		data := text(4, i)
		copy(disk[i*3*BlockSize:], data)
		b := batch(h, 2, frame(CodecRaw, write{i * 3, 4, data}))
		p, err := w.Begin(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		h.Position, h.Hash = Position{1, b.Last}, b.Hash
		all, want = append(all, p), append(want, slices.Clone(disk))
	}
	return st, v, w, all, want
}

// Whatever is written first, the names appear in order, and Head does not run ahead.
func TestPendingBatchesAppearInOrder(t *testing.T) {
	st, v, w, all, want := ahead(t)
	for _, first := range []uint64{6, 4} { // the later ones are written first
		close(st.gate(segmentKey(testDisk, 1, first)))
	}
	if got := w.Head().Number; got != 1 {
		t.Fatalf("the head is at link %d before anything is durable", got)
	}
	close(st.gate(segmentKey(testDisk, 1, 2)))
	for i, p := range all {
		h, err := p.Wait()
		if err != nil || h.Number != uint64(3+2*i) {
			t.Fatalf("batch %d: link %d, %v", i, h.Number, err)
		}
		if got := w.Head().Number; got < h.Number {
			t.Errorf("the head is at link %d, %d is durable", got, h.Number)
		}
		wantDisk(t, v, h.Position, want[i])
	}
	if order := st.order[len(st.order)-3:]; !slices.IsSorted(order) {
		t.Errorf("committed in the order %v", order)
	}
	wantClean(t, v)
}

// One fails: those behind it are not there either, whatever the store has of them, and
// the writer goes on from what the vault holds.
func TestPendingBatchesFailTogether(t *testing.T) {
	st, v, w, all, want := ahead(t)
	trouble := errors.New("trouble")
	second := segmentKey(testDisk, 1, 4)
	st.fail[second] = trouble
	for _, first := range []uint64{2, 4, 6} {
		close(st.gate(segmentKey(testDisk, 1, first)))
	}
	if _, err := all[0].Wait(); err != nil {
		t.Fatal(err)
	}
	for _, p := range all[1:] {
		if h, err := p.Wait(); !errors.Is(err, trouble) || h.Number != 3 {
			t.Fatalf("link %d, %v", h.Number, err)
		}
	}
	if got := w.Head().Number; got != 3 {
		t.Fatalf("the head is at link %d", got)
	}
	if st.Bytes(segmentKey(testDisk, 1, 6)) != nil {
		t.Fatal("a segment is there, and the one before it is not")
	}
	wantClean(t, v)
	st.mu.Lock()
	delete(st.fail, second)
	st.mu.Unlock()
	h := w.Head()
	for i := range uint64(2) {
		b := batch(h, 2, frame(CodecRaw, write{(i + 1) * 3, 4, text(4, i+1)}))
		p, err := w.Begin(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if h, err = p.Wait(); err != nil {
			t.Fatal(err)
		}
		wantDisk(t, v, h.Position, want[i+1])
	}
	wantClean(t, v)
}

// Somebody else wrote one of the links: what was begun behind it is not there.
func TestPendingBatchMeetsAnother(t *testing.T) {
	st, v, w, all, _ := ahead(t)
	for _, first := range []uint64{2, 4, 6} {
		defer close(st.gate(segmentKey(testDisk, 1, first)))
	}
	other := openDisk(t, v)
	b := batch(other.Head(), 3)
	b.Hash = hashAt(1, b.Last, 9)
	if _, err := other.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for _, first := range []uint64{2, 4, 6} {
		st.gate(segmentKey(testDisk, 1, first)) <- struct{}{}
	}
	for _, p := range all {
		if _, err := p.Wait(); !errors.Is(err, ErrConflict) {
			t.Fatal(err)
		}
	}
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h := w.Head(); h.Hash != b.Hash || h.Number != b.Last {
		t.Errorf("head %s is not the other's", h.Position)
	}
	if _, err := w.Commit(t.Context(), batch(w.Head(), 1)); err != nil {
		t.Error(err)
	}
	wantClean(t, v)
}

// TestPendingCrash kills a writer with three batches under way at each operation of the
// store, and lets single operations fail at random. What was called durable is there,
// and the rest is not there in part.
func TestPendingCrash(t *testing.T) {
	life := func(st store.Store, done map[Position][]byte) error {
		v, err := Unlock(context.Background(), st, testKey)
		if err != nil {
			return err
		}
		w, err := v.OpenDisk(context.Background(), testDisk)
		if err != nil {
			return err
		}
		disk := make([]byte, 64*BlockSize)
		var pending []*Pending
		var states [][]byte
		var failed error
		settle := func() {
			h, err := pending[0].Wait()
			if err == nil {
				done[h.Position] = states[0]
			} else if failed == nil {
				failed = err
			}
			pending, states = pending[1:], states[1:]
		}
		h := w.Head()
		for i := range uint64(12) {
			data := text(6, i)
			copy(disk[i*5*BlockSize:], data)
			last := 1 + 2*i
			b := &Batch{Epoch: 1, First: last - 1, Last: last, Prev: h.Hash, Hash: hashAt(1, last, 0), Frames: []Frame{frame(CodecRaw, write{i * 5, 6, data})}}
			if i == 0 {
				b = opening(1, 64*BlockSize, b.Frames...)
			}
			if h.Epoch == 1 && h.Number >= last {
				continue // a life before this one
			}
			b.Prev = [32]byte{}
			if i > 0 {
				b.Prev = hashAt(1, last-2, 0)
			}
			p, err := w.Begin(context.Background(), b)
			if err != nil {
				failed = err
				break
			}
			pending, states = append(pending, p), append(states, slices.Clone(disk))
			if len(pending) == 3 {
				settle()
			}
			if failed != nil {
				break
			}
		}
		for len(pending) > 0 {
			settle()
		}
		return failed
	}
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			st := storetest.NewMem()
			newTestVault(t, st)
			before, done, rnd := st.Ops(), map[Position][]byte{}, rand.New(rand.NewPCG(seed, 1))
			kill := before + 1 + int(seed)
			faults := func(op storetest.Op) storetest.Fault {
				if seed >= 30 && rnd.IntN(12) == 0 || seed < 30 && op.N >= kill {
					return storetest.Fault{Err: errCrash, Done: rnd.IntN(2) == 0 && (seed >= 30 || op.N == kill)}
				}
				return storetest.Fault{}
			}
			for lives := 0; ; lives++ {
				if seed < 30 && lives > 0 || lives > 20 {
					faults = nil
				}
				st.Faults(faults)
				err := life(st, done)
				if err == nil {
					break
				}
				// ErrChain: a batch was begun after one before it had failed.
				if !errors.Is(err, errCrash) && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrChain) {
					t.Fatal(err)
				}
				st.Faults(nil)
				v := unlockTest(t, st)
				wantClean(t, v)
				for at, want := range done {
					wantDisk(t, v, at, want)
				}
			}
			st.Faults(nil)
			v := unlockTest(t, st)
			wantClean(t, v)
			if got := openDisk(t, v).Head().Number; got != 23 {
				t.Errorf("the disk is at link %d of 23", got)
			}
		})
	}
}
