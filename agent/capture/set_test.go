package capture_test

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/agent/capture"
)

// model is a set that cannot be wrong.
type model map[uint64]bool

func (m model) add(start, count uint64) {
	for i := range count {
		m[start+i] = true
	}
}

// check compares a set with the model in every way there is.
func (m model) check(t interface{ Fatalf(string, ...any) }, s *capture.Set) {
	if s.Len() != uint64(len(m)) {
		t.Fatalf("Len is %d, want %d", s.Len(), len(m))
	}
	var blocks, end uint64
	first := true
	for start, count := range s.Ranges() {
		if count == 0 || !first && start <= end {
			t.Fatalf("range %d+%d is empty, out of order, or touches the one before, which ends at %d", start, count, end)
		}
		for i := range count {
			if !m[start+i] || !s.Has(start+i) {
				t.Fatalf("block %d does not belong there", start+i)
			}
		}
		blocks, end, first = blocks+count, start+count, false
	}
	if blocks != uint64(len(m)) {
		t.Fatalf("ranges hold %d blocks, want %d", blocks, len(m))
	}
}

func TestSetAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Around the borders of words (64) and pages (32768), where mistakes live.
		near := rapid.Custom(func(t *rapid.T) uint64 {
			base := rapid.SampledFrom([]uint64{0, 64, 128, 32768, 65536, 1 << 40}).Draw(t, "base")
			return base + rapid.Uint64Range(0, 130).Draw(t, "off")
		})
		long := rapid.Custom(func(t *rapid.T) uint64 { // seldom: the model is slow
			if rapid.IntRange(0, 9).Draw(t, "long") > 0 {
				return 1
			}
			return rapid.SampledFrom([]uint64{32767, 32768, 33000}).Draw(t, "length")
		})
		var s, other capture.Set
		m := model{}
		for range rapid.IntRange(0, 20).Draw(t, "adds") {
			start, count := near.Draw(t, "start"), rapid.OneOf(rapid.Uint64Range(0, 300), rapid.Uint64Range(0, 3), long).Draw(t, "count")
			to := rapid.SampledFrom([]*capture.Set{&s, &other}).Draw(t, "set")
			to.Add(start, count)
			m.add(start, count)
			if count > 0 && (!to.Has(start) || !to.Has(start+count-1)) {
				t.Fatalf("%d+%d is not there after Add", start, count)
			}
		}
		s.Merge(&other)
		m.check(t, &s)
		var gone capture.Set
		for range rapid.IntRange(0, 10).Draw(t, "removals") {
			start, count := near.Draw(t, "start"), rapid.OneOf(rapid.Uint64Range(0, 300), long).Draw(t, "count")
			gone.Add(start, count)
			for i := range count {
				delete(m, start+i)
			}
		}
		s.Subtract(&gone)
		m.check(t, &s)
		if s.Has(1 << 50) {
			t.Fatalf("has a block that was never added")
		}
	})
}

// TestSetMemory: a block here and there on a large disk, and all of a large disk, take
// little memory.
func TestSetMemory(t *testing.T) {
	const blocks = 16 << 40 / capture.BlockSize
	for name, fill := range map[string]func(s *capture.Set){
		"a block in each 128 MiB of 16 TiB": func(s *capture.Set) {
			for at := uint64(7); at < blocks; at += 32 << 10 {
				s.Add(at, 1)
			}
		},
		"16 TiB but for a block": func(s *capture.Set) { s.Add(1, blocks-1) },
	} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := new(capture.Set)
		fill(s)
		runtime.GC()
		runtime.ReadMemStats(&after)
		if mib := int64(after.HeapAlloc-before.HeapAlloc) >> 20; mib > 32 {
			t.Errorf("%s: %d blocks take %d MiB", name, s.Len(), mib)
		}
	}
}

func TestSetEmptyAndEarlyStop(t *testing.T) {
	var s capture.Set
	model{}.check(t, &s)
	s.Add(5, 0)
	s.Merge(new(capture.Set))
	model{}.check(t, &s)
	s.Add(1, 1)
	s.Add(5, 1)
	s.Add(70, 1)
	n := 0
	for range s.Ranges() {
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		t.Fatalf("Ranges went on after a break: %d", n)
	}
}

func FuzzSet(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 0, 0xff, 0x7f, 0, 0, 2, 0})
	f.Add([]byte{63, 0, 0, 0, 2, 0, 0, 0x80, 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var s capture.Set
		m := model{}
		for ; len(ops) >= 6 && len(m) < 1<<17; ops = ops[6:] {
			start, count := uint64(binary.LittleEndian.Uint32(ops)), uint64(binary.LittleEndian.Uint16(ops[4:]))
			s.Add(start, count)
			m.add(start, count)
		}
		m.check(t, &s)
	})
}

func BenchmarkSetAdd(b *testing.B) {
	var s capture.Set
	rnd := rand.New(rand.NewPCG(1, 1))
	blocks := make([]uint64, 4096)
	for i := range blocks {
		blocks[i] = rnd.Uint64N(1 << 26) // 256 GiB
	}
	for b.Loop() {
		for _, n := range blocks {
			s.Add(n, 1)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/4096, "ns/add")
}
