package trace

import (
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/agent/capture"
)

// Whatever the order of marking, taking, sealing, confirming and dying: a block that
// was written and is not in the chain up to a confirmed mark is kept, and once all
// is confirmed nothing is.
func TestRecordForgetsOnlyWhatIsConfirmed(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		const blocks = 300
		h := someHead
		h.Size, h.Granule = blocks*capture.BlockSize, rapid.SampledFrom([]uint64{1, 4}).Draw(rt, "granule")
		rec, err := lockRecord(filepath.Join(dir, "x.kept"))
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = rec.remove() }()
		if err := rec.create(h, blocks); err != nil {
			rt.Fatal(err)
		}
		pending := new(capture.Set)  // written, not taken
		lacks := map[uint64]uint64{} // block → number of the link that it is in, 0: not sealed
		number, sealed := uint64(1), uint64(0)
		rec.opening(1)
		check := func() {
			kept := rec.kept(blocks)
			for b := range lacks {
				if !kept.Has(b) {
					rt.Fatalf("block %d is forgotten", b)
				}
			}
		}
		write := func() {
			start := rapid.Uint64Range(0, blocks-1).Draw(rt, "start")
			count := rapid.Uint64Range(1, min(150, blocks-start)).Draw(rt, "count")
			pending.Add(start, count)
			rec.add(start, count)
			for b := start; b < start+count; b++ {
				lacks[b] = 0
			}
		}
		seal := func() {
			number++
			for b, n := range lacks {
				if n == 0 && !pending.Has(b) {
					lacks[b] = number
				}
			}
			if rec.sealed == nil {
				sealed = number
			}
			rec.seal(capture.Mark{Epoch: 1, Number: number}, pending)
		}
		confirm := func() {
			rec.confirm(capture.Mark{Epoch: 1, Number: number})
			for b, n := range lacks {
				if n != 0 && n <= sealed {
					delete(lacks, b)
				}
			}
		}
		die := func() {
			check()
			rec.close()
			if rec, err = lockRecord(filepath.Join(dir, "x.kept")); err == nil {
				err = rec.load()
			}
			if err != nil {
				rt.Fatal(err)
			}
			rec.unseal()
			*pending = *rec.kept(blocks)
			for b := range lacks {
				lacks[b] = 0
			}
		}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 6).Draw(rt, "what") {
			case 0, 1:
				write()
			case 2:
				*pending = capture.Set{}
			case 3:
				seal()
			case 4:
				confirm()
			case 5:
				die()
			case 6:
				rec.unseal()
				for b := range lacks {
					lacks[b] = 0
				}
				sealed = 0
			}
			check()
		}
		*pending = capture.Set{}
		rec.unseal()
		seal()
		confirm()
		if n := rec.kept(blocks).Len(); n != 0 {
			rt.Fatalf("%d blocks are kept though all is confirmed", n)
		}
	})
}
