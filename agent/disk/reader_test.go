package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// numbered makes an image whose blocks each carry their own number, cut off at
// size bytes.
func numbered(t testing.TB, size int) *Disk {
	t.Helper()
	b := make([]byte, (size+BlockSize-1)/BlockSize*BlockSize)
	for i := range len(b) / 8 {
		binary.LittleEndian.PutUint64(b[i*8:], uint64(i/(BlockSize/8))+1)
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, b[:size], 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func pairs(p ...part) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) {
		for _, r := range p {
			if !yield(r.start, r.count) {
				return
			}
		}
	}
}

func TestReaderRandomRanges(t *testing.T) {
	const blocks = 3000
	d := numbered(t, blocks*BlockSize-100)
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var want []part
		for at := uint64(0); ; {
			at += rnd.Uint64N(1 << rnd.UintN(9))
			n := 1 + rnd.Uint64N(1<<rnd.UintN(9))
			if at+n > blocks {
				break
			}
			want = append(want, part{at, n})
			at += n
		}
		o := ReadOptions{Depth: 1 + rnd.IntN(8), MaxRead: BlockSize << rnd.IntN(9), Bytes: BlockSize << rnd.IntN(12), Gap: rnd.IntN(65536) - 1}
		checkRead(t, d, o, want)
	}
}

// checkRead reads ranges and checks that exactly they come back, in order.
func checkRead(t *testing.T, d *Disk, o ReadOptions, want []part) {
	t.Helper()
	r := NewReader(d, o)
	var next int
	var done uint64 // blocks of want[next]
	err := r.Read(context.Background(), pairs(want...), func(start uint64, b []byte) error {
		n := uint64(len(b) / BlockSize)
		if len(b) == 0 || len(b) > r.opt.MaxRead || next >= len(want) || start != want[next].start+done || done+n > want[next].count {
			t.Fatalf("options %+v: piece %d+%d does not fit", o, start, n)
		}
		for i := range n {
			if got := binary.LittleEndian.Uint64(b[i*BlockSize:]); got != start+i+1 {
				t.Fatalf("block %d holds %d", start+i, got)
			}
		}
		if done += n; done == want[next].count {
			next, done = next+1, 0
		}
		return nil
	})
	if err != nil || next != len(want) {
		t.Fatalf("options %+v: %d of %d ranges, %v", o, next, len(want), err)
	}
}

func TestReaderErrors(t *testing.T) {
	d := numbered(t, 100*BlockSize)
	r := NewReader(d, ReadOptions{Depth: 4, MaxRead: BlockSize})
	ctx := context.Background()
	ok := func(uint64, []byte) error { return nil }
	for name, ranges := range map[string]iter.Seq2[uint64, uint64]{
		"falling": pairs(part{10, 1}, part{5, 1}), "overlap": pairs(part{10, 5}, part{12, 1}),
		"beyond": pairs(part{99, 2}), "overflow": pairs(part{50, ^uint64(0)}),
	} {
		if err := r.Read(ctx, ranges, ok); err == nil {
			t.Errorf("%s ranges were accepted", name)
		}
	}
	stop := errors.New("stop")
	if err := r.Read(ctx, pairs(part{0, 100}), func(start uint64, _ []byte) error {
		if start == 50 {
			return stop
		}
		return nil
	}); !errors.Is(err, stop) {
		t.Errorf("got %v, want the callback's error", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	if err := r.Read(cancelled, pairs(part{0, 100}), func(uint64, []byte) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want cancelled", err)
	}
	// Still usable after all that.
	checkRead(t, d, ReadOptions{}, []part{{0, 100}})
}

func TestReadBlocksTail(t *testing.T) {
	d := numbered(t, 3*BlockSize+10)
	if d.Blocks() != 4 || d.Size() != 3*BlockSize+10 {
		t.Fatalf("%d blocks, %d bytes", d.Blocks(), d.Size())
	}
	buf := bytes.Repeat([]byte{0xff}, 2*BlockSize)
	if err := d.ReadBlocks(context.Background(), 2, buf); err != nil {
		t.Fatal(err)
	}
	if buf[BlockSize] != 4 || !bytes.Equal(buf[BlockSize+10:], make([]byte, BlockSize-10)) {
		t.Fatal("the tail is not padded with zeros")
	}
	for _, bad := range []struct {
		start uint64
		n     int
	}{{3, 2 * BlockSize}, {0, 5}, {^uint64(0), BlockSize}, {5, 0}} {
		if err := d.ReadBlocks(context.Background(), bad.start, make([]byte, bad.n)); err == nil {
			t.Errorf("reading %d bytes at block %d was accepted", bad.n, bad.start)
		}
	}
}

func TestSlab(t *testing.T) {
	s := slab{mem: make([]byte, 10)}
	a, ua := s.alloc(6)
	b, _ := s.alloc(4)
	if a == nil || b == nil {
		t.Fatal("no room in an empty slab")
	}
	if c, _ := s.alloc(1); c != nil {
		t.Fatal("room in a full slab")
	}
	s.free(ua)
	c, uc := s.alloc(6)
	if c == nil || uc != 6 || &c[0] != &a[0] {
		t.Fatal("what was freed is not used again")
	}
	s.free(4)
	d, ud := s.alloc(3) // behind c, in b's place
	if d == nil || ud != 3 || &d[0] != &b[0] {
		t.Fatal("the end is not used")
	}
	s.free(6)
	if e, ue := s.alloc(6); e == nil || ue != 7 {
		t.Fatalf("the rest at the end is not skipped: %d", ue)
	}
}
