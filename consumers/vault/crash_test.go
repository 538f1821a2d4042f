package vault

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

var errCrash = errors.New("the process was killed")

// story is a short life of a vault. It notes in done what it was told is safe.
func story(st store.Store, done map[Position][]byte, points map[string]bool) error {
	ctx := context.Background()
	v, err := Unlock(ctx, st, testKey)
	if errors.Is(err, ErrNotVault) {
		v, err = Create(ctx, st, testKey)
	}
	if err != nil {
		return err
	}
	w, err := v.OpenDisk(ctx, testDisk)
	if err != nil {
		return err
	}
	const size = 40 * BlockSize
	disk := make([]byte, size)
	for i := range 4 {
		epoch := uint64(i/2 + 1)
		data := text(10, uint64(i))
		copy(disk[i*5*BlockSize:], data)
		f := frame(Codec(i%2), write{uint64(i * 5), 10, data})
		b := cutAt(opening(epoch, size, f), size)
		if i%2 == 1 {
			b = cutAt(&Batch{Epoch: epoch, First: 2, Last: 4, Prev: hashAt(epoch, 1, 0), Hash: hashAt(epoch, 4, 0), Frames: []Frame{f}}, size)
		}
		at := Position{epoch, b.Last}
		if w.Head().Position.Compare(at) >= 0 {
			continue // a life before this one came so far
		}
		h, err := w.Commit(ctx, b)
		if err != nil {
			return err
		}
		done[at] = append([]byte(nil), disk...)
		p := &Point{
			ID: fmt.Sprint("p", i), Group: "g", Time: b.Cut.Time, Consistency: "crash",
			Machines: []PointMachine{{Machine: testDisk.Machine, Disks: []PointDisk{{Disk: testDisk.Disk, At: at, Size: size, Digest: h.Digest}}}},
		}
		if err := v.PutPoint(ctx, p); err != nil {
			return err
		}
		points[p.ID] = true
	}
	return nil
}

// TestCrash kills the story at each of its operations on the store, before and after
// the operation took effect. Whatever was called safe must be there afterwards, the
// check must be clean, and a second life must be able to finish.
func TestCrash(t *testing.T) {
	whole := storetest.NewMem()
	if err := story(whole, map[Position][]byte{}, map[string]bool{}); err != nil {
		t.Fatal(err)
	}
	ops := whole.Ops()
	if ops < 20 {
		t.Fatalf("the story has only %d operations", ops)
	}
	for n := 1; n <= ops; n++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprint(n, after), func(t *testing.T) { crash(t, n, after) })
		}
	}
	t.Logf("killed at each of %d operations", ops)
}

func crash(t *testing.T, n int, after bool) {
	st := storetest.NewMem()
	st.Faults(func(op storetest.Op) storetest.Fault {
		switch {
		case op.N < n:
			return storetest.Fault{}
		case op.N == n:
			return storetest.Fault{Err: errCrash, Done: after}
		}
		return storetest.Fault{Err: errCrash} // the dead do nothing more
	})
	done, points := map[Position][]byte{}, map[string]bool{}
	if err := story(st, done, points); !errors.Is(err, errCrash) {
		t.Fatalf("the story survived: %v", err)
	}
	st.Faults(nil)
	look := func() {
		v, err := Unlock(t.Context(), st, testKey)
		if errors.Is(err, ErrNotVault) && len(done) == 0 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		wantClean(t, v)
		for at, want := range done {
			wantDisk(t, v, at, want)
		}
		for id := range points {
			if _, err := v.Point(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
	look()
	if err := story(st, done, points); err != nil {
		t.Fatalf("a second life: %v", err)
	}
	look()
}

// A commit whose outcome is not known is found out by committing again.
func TestUnknownOutcome(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	h := commit(t, w, opening(1, 10*BlockSize))
	b := batch(h, 2, frame(CodecRaw, write{1, 1, text(1, 1)}))
	st.Faults(func(op storetest.Op) storetest.Fault {
		if op.Verb == "put" {
			return storetest.Fault{Err: errCrash, Done: true}
		}
		return storetest.Fault{}
	})
	if got, err := w.Commit(t.Context(), b); !errors.Is(err, errCrash) || got.Position != h.Position {
		t.Fatalf("head %s, %v", got.Position, err)
	}
	st.Faults(nil)
	if _, err := w.Commit(t.Context(), b); !errors.Is(err, ErrConflict) {
		t.Fatalf("again: %v", err)
	}
	if err := w.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.Head(); got.Number != b.Last || got.Hash != b.Hash {
		t.Fatalf("head %+v is not the batch", got.Position)
	}
	wantClean(t, v)
}

// A store that tears objects breaks its contract. That is seen and named, not served.
func TestTornObject(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	h := commit(t, w, opening(1, 10*BlockSize))
	st.Faults(func(op storetest.Op) storetest.Fault {
		if op.Verb == "put" {
			return storetest.Fault{Err: errCrash, Torn: 300}
		}
		return storetest.Fault{}
	})
	if _, err := w.Commit(t.Context(), batch(h, 2, frame(CodecRaw, write{1, 1, text(1, 1)}))); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	st.Faults(nil)
	var damage *DamageError
	if err := w.Reload(t.Context()); !errors.As(err, &damage) || damage.Key != segmentKey(testDisk, 1, 2) {
		t.Fatalf("reload: %v", err)
	}
	wantDisk(t, v, h.Position, make([]byte, 10*BlockSize))
	r, err := v.Check(t.Context(), CheckOptions{})
	if err != nil || len(r.Problems) != 1 || r.Problems[0].Key != damage.Key {
		t.Fatalf("%+v, %v", r, err)
	}
}

// A full disk or a dead store gives its own error, not one about damage.
func TestStoreErrorsPassThrough(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	h := commit(t, w, opening(1, 10*BlockSize, frame(CodecRaw, write{1, 1, text(1, 1)})))
	st.Faults(func(storetest.Op) storetest.Fault { return storetest.Fault{Err: errCrash} })
	_, openErr := v.OpenDisk(t.Context(), testDisk)
	_, readErr := v.OpenAt(t.Context(), testDisk, h.Position, ReaderOptions{})
	_, checkErr := v.Check(t.Context(), CheckOptions{ReadData: true})
	_, _, pointsErr := v.Points(t.Context(), "")
	_, commitErr := w.Commit(t.Context(), batch(h, 1))
	for what, err := range map[string]error{"open": openErr, "read": readErr, "check": checkErr, "points": pointsErr, "commit": commitErr} {
		if !errors.Is(err, errCrash) || errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
