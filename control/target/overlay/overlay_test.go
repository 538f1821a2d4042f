package overlay_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// content makes size bytes of which about half of the 8 KiB pieces are zeros.
func content(size int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, size)
	for off := 0; off < size; off += 8192 {
		if r.IntN(2) == 0 {
			continue
		}
		for i := off; i < min(off+8192, size); i++ {
			data[i] = byte(r.Uint32())
		}
	}
	return data
}

func open(t testing.TB, data []byte) (*overlay.Overlay, *targettest.Disk, string) {
	t.Helper()
	d := targettest.Mem("d", data)
	path := filepath.Join(t.TempDir(), "overlay")
	o, err := overlay.New(d, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o, d, path
}

func readAll(t testing.TB, r io.ReaderAt, size int64) []byte {
	t.Helper()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fataler is testing.TB as far as rapid has it too.
type fataler interface{ Fatalf(string, ...any) }

// checkMaps compares what an overlay tells of itself with its content now and before.
func checkMaps(t fataler, o *overlay.Overlay, before, now []byte) {
	at := int64(0)
	o.Extents(0, o.Size(), func(off, length int64, hole bool) bool {
		if off != at || length <= 0 {
			t.Fatalf("extent at %d of %d bytes, expected one at %d", off, length, at)
		}
		if hole && len(bytes.Trim(now[off:off+length], "\x00")) > 0 {
			t.Fatalf("the hole at %d holds data", off)
		}
		at += length
		return true
	})
	if at != o.Size() {
		t.Fatalf("extents end at %d of %d", at, o.Size())
	}
	left := bytes.Clone(before)
	o.Changed(func(off, length int64, zero bool) bool {
		copy(left[off:off+length], now[off:off+length])
		if zero && len(bytes.Trim(now[off:off+length], "\x00")) > 0 {
			t.Fatalf("the zeroed run at %d holds data", off)
		}
		return true
	})
	if !bytes.Equal(left, now) {
		t.Fatalf("Changed does not name all that was changed")
	}
}

// Whatever is done to it, an overlay reads like a plain array, and its base stays.
func TestOverlayIsAnArray(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 3<<20).Draw(t, "size")
		data := content(size, rapid.Uint64().Draw(t, "seed"))
		before := bytes.Clone(data)
		file := filepath.Join(dir, "overlay")
		defer os.Remove(file)
		o, err := overlay.New(targettest.Mem("d", data), file)
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer o.Close()
		model := bytes.Clone(data)
		for range rapid.IntRange(1, 30).Draw(t, "operations") {
			off := rapid.IntRange(0, size-1).Draw(t, "off")
			n := rapid.IntRange(0, size-off).Draw(t, "n")
			if rapid.Bool().Draw(t, "short") {
				n = min(n, 9000)
			}
			if rapid.Bool().Draw(t, "aligned") {
				off = off / 4096 * 4096
			}
			switch rapid.SampledFrom([]string{"write", "zero", "trim", "read"}).Draw(t, "what") {
			case "write":
				p := bytes.Repeat([]byte{byte(rapid.IntRange(0, 255).Draw(t, "byte"))}, n)
				if _, err := o.WriteAt(p, int64(off)); err != nil {
					t.Fatalf("write: %v", err)
				}
				copy(model[off:], p)
			case "zero":
				err = o.WriteZeroes(int64(off), int64(n))
				clear(model[off : off+n])
			case "trim":
				err = o.Trim(int64(off), int64(n))
				clear(model[off : off+n])
			case "read":
				p := make([]byte, n)
				_, err = o.ReadAt(p, int64(off))
				if !bytes.Equal(p, model[off:off+n]) {
					t.Fatalf("read of %d bytes at %d differs", n, off)
				}
			}
			if err != nil {
				t.Fatalf("%v", err)
			}
		}
		now := make([]byte, size)
		if _, err := o.ReadAt(now, 0); err != nil || !bytes.Equal(now, model) {
			t.Fatalf("content differs: %v", err)
		}
		checkMaps(t, o, before, now)
		if !bytes.Equal(data, before) {
			t.Fatalf("the base was written")
		}
	})
}

// Writers of neighbouring bytes in the same pages must not undo each other.
func TestNeighboursInAPage(t *testing.T) {
	data := bytes.Repeat([]byte{'b'}, 1<<20)
	o, _, _ := open(t, data)
	const writers, piece = 8, 512
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			p := bytes.Repeat([]byte{byte('0' + w)}, piece)
			for off := w * piece; off < len(data); off += writers * piece {
				var err error
				if w == 3 {
					err = o.WriteZeroes(int64(off), piece)
				} else {
					_, err = o.WriteAt(p, int64(off))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for off, c := range readAll(t, o, o.Size()) {
		want := byte('0' + off/piece%writers)
		if want == '3' {
			want = 0
		}
		if c != want {
			t.Fatalf("byte %d is %q, not %q", off, c, want)
		}
	}
}

func TestNothingIsMadeBeforeTheFirstWrite(t *testing.T) {
	o, _, path := open(t, content(1<<20, 1))
	readAll(t, o, o.Size())
	if err := o.Trim(0, o.Size()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the data file: %v", err)
	}
}

func TestSpaceOfWhatIsTrimmedIsGivenBack(t *testing.T) {
	o, _, path := open(t, make([]byte, 8<<20))
	if _, err := o.WriteAt(bytes.Repeat([]byte{1}, 8<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := o.Trim(4096, 8<<20-8192); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := st.Sys().(*syscall.Stat_t).Blocks * 512; got > 1<<20 {
		t.Errorf("%d bytes are allocated for 8192 that hold data", got)
	}
}

func TestBaseThatFails(t *testing.T) {
	o, d, _ := open(t, bytes.Repeat([]byte{1}, 1<<20))
	d.Break(true)
	if _, err := o.ReadAt(make([]byte, 10), 0); err == nil {
		t.Error("a read that failed says it did not")
	}
	if _, err := o.WriteAt(make([]byte, 10), 5); err == nil {
		t.Error("a write into a page that cannot be filled says it worked")
	}
	if _, err := o.WriteAt(bytes.Repeat([]byte{7}, 4096), 4096); err != nil {
		t.Errorf("a whole page needs nothing of the base: %v", err)
	}
	d.Break(false)
	b := readAll(t, o, 8192)
	if b[5] != 1 || b[4096] != 7 {
		t.Errorf("bytes are %d and %d, not 1 and 7", b[5], b[4096])
	}
}

func TestOutsideTheDisk(t *testing.T) {
	o, _, _ := open(t, make([]byte, 10000))
	if _, err := o.WriteAt(make([]byte, 10), 9995); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("write over the end: %v", err)
	}
	if err := o.Trim(9999, 1<<62); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("trim over the end: %v", err)
	}
	if n, err := o.ReadAt(make([]byte, 10), 9995); n != 5 || !errors.Is(err, io.EOF) {
		t.Errorf("read over the end: %d, %v", n, err)
	}
}

func TestCounts(t *testing.T) {
	data := make([]byte, 1<<20)
	copy(data[8192:], bytes.Repeat([]byte{1}, 8192))
	o, _, _ := open(t, data)
	readAll(t, o, o.Size())
	if s := o.Stats(); s.Read != 1<<20 || s.BaseRead != 8192 || s.Written != 0 {
		t.Errorf("%+v", s)
	}
	o.WriteAt([]byte("x"), 8192)
	if s := o.Stats(); s.BaseRead != 8192+4096 || s.Written != 1 {
		t.Errorf("after a write: %+v", s)
	}
}

func TestRefusesToReplaceAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "overlay")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := overlay.New(targettest.Mem("d", make([]byte, 4096)), path); err == nil {
		t.Error("an overlay over a file that is there")
	}
}
