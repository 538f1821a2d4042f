package vault

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// The sums of every position that can be opened are those of its contents, and Differ
// names exactly the blocks that differ, also across a fork.
func TestSumsOfPositions(t *testing.T) {
	ctx := context.Background()
	v := newTestVault(t, storetest.NewMem())
	const blocks = 600
	r := rand.New(rand.NewPCG(5, 5))
	w, err := v.OpenDisk(ctx, testDisk)
	if err != nil {
		t.Fatal(err)
	}
	image := make([][]byte, blocks)
	kept := map[Position][][]byte{{}: make([][]byte, blocks)}
	h := Head{}
	for step := range 24 {
		var ws []write
		for at := uint64(r.IntN(20)); at < blocks; at += 1 + uint64(r.IntN(80)) {
			n := min(1+r.IntN(5), blocks-int(at))
			if r.IntN(4) == 0 {
				ws = append(ws, write{start: at, count: uint32(n)})
				clear(image[at : int(at)+n])
			} else {
				data := text(n, uint64(step*1000+int(at)))
				ws = append(ws, write{at, uint32(n), data})
				for i := range n {
					image[int(at)+i] = data[i*BlockSize:][:BlockSize]
				}
			}
			at += uint64(n)
		}
		b := batch(h, 1, frame(CodecRaw, ws...))
		if step%8 == 0 {
			b = opening(h.Epoch+1, blocks*BlockSize, frame(CodecRaw, ws...))
		}
		if h, err = w.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
		kept[h.Position] = append([][]byte(nil), image...)
	}
	all := map[Position]*Sums{}
	for p, image := range kept {
		s, err := v.SumsAt(ctx, testDisk, p)
		if err != nil {
			t.Fatal(err)
		}
		all[p] = s
		for i, sum := range s.Read(0, blocks) {
			if want := sumOrZero(image[i]); sum != want {
				t.Fatalf("at %s block %d has sum %x, want %x", p, i, sum, want)
			}
		}
	}
	for p, a := range kept {
		for q, b := range kept {
			differs := map[uint64]bool{}
			all[p].Differ(all[q], func(start, count uint64) bool {
				if count == 0 || start > 0 && differs[start-1] {
					t.Fatalf("run %d+%d is empty or touches the one before", start, count)
				}
				for i := range count {
					differs[start+i] = true
				}
				return true
			})
			for i := range a {
				if differs[uint64(i)] != (sumOrZero(a[i]) != sumOrZero(b[i])) {
					t.Fatalf("%s and %s: block %d: Differ says %v", p, q, i, differs[uint64(i)])
				}
			}
		}
	}
	if _, err := v.SumsAt(ctx, testDisk, Position{9, 9}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a position that is not there: %v", err)
	}
}

func sumOrZero(b []byte) Sum {
	if b == nil {
		return Sum{}
	}
	return SumOf(b)
}
