package overlay

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The bytes of a map are a promise to later versions.
func TestGoldenMap(t *testing.T) {
	o := written(t, filepath.Join(t.TempDir(), "disk"))
	if err := errors.Join(o.Flush(), o.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(o.mapPath())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "map.hex")
	if *update {
		if err := os.WriteFile(golden, []byte(dump(got)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if dump(got) != string(want) {
		t.Errorf("the map is\n%s\nnot\n%s", dump(got), want)
	}
}

// dump shows the lines of 16 bytes that are not all zeros.
func dump(b []byte) string {
	var s strings.Builder
	for line := range strings.Lines(hex.Dump(b)) {
		if strings.Trim(line[8:60], " 0") != "" {
			s.WriteString(line)
		}
	}
	return s.String()
}

// big is a disk of two leaves and a page that is not whole.
const big = 70<<20 + 1000

type zeros struct{ n int64 }

func (z zeros) ReadAt(p []byte, _ int64) (int, error) { clear(p); return len(p), nil }
func (z zeros) Size() int64                           { return z.n }
func (z zeros) Extents(yield func(off, length int64) bool) {
	if z.n > 1<<20 {
		yield(0, 1<<20)
	}
}
func (z zeros) Digest() [32]byte { return [32]byte{7, 7, 7} }

func written(t testing.TB, path string) *Overlay {
	t.Helper()
	o, err := New(zeros{big}, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	_, err = o.WriteAt([]byte("hello"), 5)
	err = errors.Join(err, o.WriteZeroes(4096, 3*4096))
	_, err2 := o.WriteAt(bytes.Repeat([]byte{9}, 2*4096+1), 65<<20)
	_, err3 := o.WriteAt([]byte("end"), big-3)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestMapThatDoesNotFit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	o := written(t, path)
	if err := errors.Join(o.Flush(), o.Close()); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path + ".map")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		base   Base
		change func(b []byte) []byte
		says   string
	}{
		"other size":  {zeros{big + 1}, nil, "it is of a disk of"},
		"other point": {flat(make([]byte, big/512)), nil, "it is of a disk of"},
		"header":      {zeros{big}, func(b []byte) []byte { b[17]++; return b }, "damaged"},
		"no map":      {zeros{big}, func(b []byte) []byte { return b[:0] }, "unexpected EOF"},
		"cut short":   {zeros{big}, func(b []byte) []byte { return b[:headerSize+leafSize] }, "unexpected EOF"},
		"state":       {zeros{big}, func(b []byte) []byte { b[headerSize+16] = 1; return b }, "state that there is not"},
		"behind":      {zeros{big}, func(b []byte) []byte { b[len(b)-1] = 0x80; return b }, "behind the end"},
	} {
		b := bytes.Clone(good)
		if c.change != nil {
			b = c.change(b)
		}
		if err := os.WriteFile(path+".map", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(c.base, path); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(path+".map", good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(zeros{big}, path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a map without its data: %v", err)
	}
}

func TestOpenFindsWhatWasFlushed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	o := written(t, path)
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	before, err := io.ReadAll(io.NewSectionReader(o, 0, big))
	if err := errors.Join(err, o.Close()); err != nil {
		t.Fatal(err)
	}
	if o, err = Open(zeros{big}, path); err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	after, err := io.ReadAll(io.NewSectionReader(o, 0, big))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the content differs: %v", err)
	}
	if _, err := New(zeros{big}, path); err == nil {
		t.Error("a new overlay was made over an old one")
	}
}

// What was written and not flushed before there was a map is gone as a whole.
func TestNothingFlushed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := written(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	o, err := Open(zeros{big}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.WriteAt([]byte{1}, 100); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8192)
	if _, err := o.ReadAt(b, 0); err != nil || b[5] != 0 || b[100] != 1 {
		t.Errorf("%v, %v, %v", b[5], b[100], err)
	}
}

// Take tells exactly what changed since it was called last.
func TestTake(t *testing.T) {
	o, err := New(zeros{big}, filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	count := func() (n int64, runs int) {
		o.Take(func(_, length int64) { n += length; runs++ })
		return n, runs
	}
	o.WriteAt(make([]byte, 10), 0)
	if n, _ := count(); n != 0 {
		t.Errorf("%d bytes without Track", n)
	}
	o.Track()
	r := rand.New(rand.NewPCG(3, 3))
	for range 50 {
		want := map[int64]bool{}
		for range r.IntN(40) {
			off := r.Int64N(big)
			if r.IntN(3) == 0 {
				off = min(big-1, 64<<20-20000+r.Int64N(40000)) // around the border of leaves
			}
			n := min(1+r.Int64N(400000), big-off)
			if r.IntN(4) == 0 {
				// Zeroing what reads as zeros is no change, but here it was written before.
				if _, err := o.WriteAt(bytes.Repeat([]byte{1}, int(n)), off); err != nil {
					t.Fatal(err)
				}
				if err := o.WriteZeroes(off, n); err != nil {
					t.Fatal(err)
				}
			} else if _, err := o.WriteAt(make([]byte, n), off); err != nil {
				t.Fatal(err)
			}
			for p := off / PageSize; p < pages(off+n); p++ {
				want[p] = true
			}
		}
		end := int64(-1)
		o.Take(func(off, length int64) {
			if off <= end || off%PageSize != 0 {
				t.Fatalf("a run at %d after one that ends at %d", off, end)
			}
			end = off + length
			if end%PageSize != 0 && end != big {
				t.Fatalf("a run ends at %d", end)
			}
			for p := off / PageSize; p < pages(end); p++ {
				if !want[p] {
					t.Fatalf("page %d did not change", p)
				}
				delete(want, p)
			}
		})
		if len(want) > 0 {
			t.Fatalf("%d pages that changed are missing", len(want))
		}
	}
}

func FuzzMap(f *testing.F) {
	o := written(f, filepath.Join(f.TempDir(), "disk"))
	if err := o.Flush(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(o.mapPath())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:headerSize], b[headerSize:headerSize+leafSize], int64(leafPages))
	f.Add(b[:headerSize], b[headerSize+leafSize:], int64(1537))
	f.Fuzz(func(t *testing.T, head, leaf []byte, n int64) {
		if h, err := parseHeader(head); err == nil && !bytes.Equal(h.encode(), head) {
			t.Fatal("a header that was understood is another when it is written")
		}
		n = min(max(n, 1), leafPages)
		if checkLeaf(leaf, n) != nil {
			return
		}
		s := newStates(n)
		s.load(0, leaf)
		got := make([]byte, leafSize)
		if s.leaves[0] != nil {
			got = s.leaves[0].encode(nil)
		}
		if !bytes.Equal(got, leaf) {
			t.Fatal("a leaf that was understood is another when it is written")
		}
	})
}
