package vault

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// TestMapBuilder compares the map with painting block after block.
func TestMapBuilder(t *testing.T) {
	const blocks = 300
	type place struct{ source, ordinal, off uint32 }
	rapid.Check(t, func(t *rapid.T) {
		var b mapBuilder
		painted := map[uint64]place{}
		for source := range rapid.IntRange(1, 30).Draw(t, "segments") {
			s := &segment{}
			at := uint64(rapid.IntRange(0, 100).Draw(t, "from"))
			for at < blocks {
				f := format.Frame{Codec: format.CodecRaw, Blocks: 256}
				if rapid.IntRange(0, 3).Draw(t, "zeros") == 0 {
					f = format.Frame{Codec: format.CodecZeros}
				}
				for range rapid.IntRange(1, 4).Draw(t, "extents") {
					e := format.Extent{Start: at, Count: uint32(rapid.IntRange(1, 60).Draw(t, "count"))}
					if f.Codec != format.CodecZeros {
						e.Off = uint32(rapid.IntRange(0, 256-int(e.Count)).Draw(t, "off"))
					}
					f.Extents = append(f.Extents, e)
					for i := range e.Count {
						painted[e.Start+uint64(i)] = place{uint32(source), uint32(len(s.frames)), e.Off + i}
						if f.Codec == format.CodecZeros {
							delete(painted, e.Start+uint64(i))
						}
					}
					at = e.End() + uint64(rapid.IntRange(0, 50).Draw(t, "gap"))
				}
				s.frames = append(s.frames, f)
			}
			if err := b.add(s); err != nil {
				t.Fatal(err)
			}
		}
		m := b.done(true)
		last := uint64(0)
		used := map[uint32]bool{}
		for _, p := range m.pieces {
			if p.start() < last || p.count == 0 {
				t.Fatalf("piece at %d after %d", p.start(), last)
			}
			last = p.end()
			used[p.frame] = true
			for i := range p.count {
				f := m.frames[p.frame]
				want, ok := painted[p.start()+uint64(i)]
				if got := (place{f.source, f.ordinal, p.off() + i}); !ok || got != want {
					t.Fatalf("block %d is %+v, want %+v", p.start()+uint64(i), got, want)
				}
				delete(painted, p.start()+uint64(i))
			}
		}
		if len(painted) > 0 || len(used) != len(m.frames) {
			t.Fatalf("%d blocks are not mapped, %d of %d frames are used", len(painted), len(used), len(m.frames))
		}
	})
}

func TestPieceLimits(t *testing.T) {
	p := newPiece(format.MaxBlocks-10, 7, 5, 255)
	if p.start() != format.MaxBlocks-10 || p.end() != format.MaxBlocks-3 || p.off() != 255 || p.frame != 5 {
		t.Errorf("piece %+v", p)
	}
}

// TestTable compares the table with a map.
func TestTable(t *testing.T) {
	for _, limit := range []int{0, 3, heapPages} { // pages on the heap, the others in a file
		t.Run(fmt.Sprint(limit), func(t *testing.T) { testTable(t, newTableWith(limit)) })
	}
}

func testTable(t *testing.T, tab *table) {
	rnd := rand.New(rand.NewPCG(3, 4))
	plain := map[uint64]Sum{}
	var digest Digest
	for range 20000 {
		block := rnd.Uint64N(3000)
		if rnd.IntN(2) == 0 {
			block += 1 << 50
		}
		switch rnd.IntN(300) {
		case 0:
			end := block + rnd.Uint64N(1<<rnd.IntN(62))
			tab.each(block, end, func(b uint64, s Sum) {
				if plain[b] != s {
					t.Fatalf("block %d", b)
				}
				digest.Replace(b, s, Sum{})
				delete(plain, b)
			})
			tab.clear(block, end)
			if _, _, any := tab.bounds(block, end); any {
				t.Fatal("cleared, but not empty")
			}
		default:
			s := Sum{byte(rnd.IntN(4))}
			digest.Replace(block, tab.get(block), s)
			tab.set(block, s)
			if plain[block] = s; s == (Sum{}) {
				delete(plain, block)
			}
		}
	}
	if digest != tab.digest() {
		t.Error("the digest kept is not the digest of all")
	}
	got := map[uint64]Sum{}
	tab.each(0, 1<<63, func(b uint64, s Sum) { got[b] = s })
	if !maps.Equal(got, plain) {
		t.Errorf("%d blocks, want %d", len(got), len(plain))
	}
	tab.clear(0, 1<<63)
	if len(tab.pages) != 0 || tab.arena.onHeap != 0 {
		t.Errorf("%d pages are left, %d on the heap", len(tab.pages), tab.arena.onHeap)
	}
	if tab.arena.limit == 0 && os.Getenv("TMPDIR") != "/nonexistent" && (tab.arena.file == nil || tab.arena.failed) {
		t.Error("no file was used")
	}
}

// The sums of a large disk are not on the heap, and their file goes with the table.
func TestTableOutOfMemory(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	const disk = 16 << 30 / BlockSize
	before := heap()
	tab := newTable()
	for b := uint64(0); b < disk; b += pageBlocks { // a block of each page makes the page
		tab.set(b, Sum{1, byte(b >> 8)})
	}
	used := heap() - before
	if used > 30<<20 {
		t.Errorf("%d MiB on the heap for a disk with %d MiB of sums", used>>20, disk*sumSize>>20)
	}
	t.Logf("%d MiB of sums, %d MiB on the heap", disk*sumSize>>20, used>>20)
	for b := uint64(0); b < disk; b += 16 * pageBlocks {
		if tab.get(b) != (Sum{1, byte(b >> 8)}) || tab.get(b+1) != (Sum{}) {
			t.Fatalf("block %d", b)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left in TMPDIR, %v", left, err)
	}
	runtime.KeepAlive(tab)
	fd := int(tab.arena.file.Fd())
	tab = nil
	for range 100 {
		runtime.GC()
		if _, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil {
			return
		}
		runtime.Gosched()
	}
	t.Error("the file is open though nobody uses the table")
}

// Without room for the file, the heap serves.
func TestTableWithoutFile(t *testing.T) {
	t.Setenv("TMPDIR", "/nonexistent")
	testTable(t, newTableWith(0))
}

// TestReadAheadStreams: interleaved sequential readers are told apart.
func TestReadAheadStreams(t *testing.T) {
	var a readAhead
	a.init(0, 64<<20)
	ahead := 0
	for i := range int64(20) {
		for stream := range int64(4) {
			off := stream<<40 + i*65536
			if start, stop := a.next(off, off+65536, true); stop > start {
				if start < off+65536 || stop > off+65536+defaultReadAhead {
					t.Fatalf("stream %d at %d wants %d to %d", stream, off, start, stop)
				}
				ahead++
			}
		}
	}
	if ahead < 20 {
		t.Errorf("only %d stretches were read ahead", ahead)
	}
	offs := []int64{}
	for range 100 {
		offs = append(offs, rand.Int64N(1<<40))
	}
	slices.Sort(offs)
	rand.Shuffle(len(offs), func(i, j int) { offs[i], offs[j] = offs[j], offs[i] })
	for _, off := range offs {
		if start, stop := a.next(off, off+4096, true); stop > start {
			t.Errorf("a random read at %d reads ahead", off)
		}
	}
}
