package overlay_test

import (
	"bytes"
	"context"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// fresh takes writes as a new disk does, of whole pages that are not zero and none twice.
type fresh struct {
	*rapid.T
	mu      sync.Mutex
	b       []byte
	written map[int64]bool
}

func (f *fresh) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off%overlay.PageSize != 0 || len(p)%overlay.PageSize != 0 && off+int64(len(p)) != int64(len(f.b)) {
		f.Errorf("%d bytes at %d are no whole pages", len(p), off)
	}
	for at := off; at < off+int64(len(p)); at += overlay.PageSize {
		if f.written[at] {
			f.Errorf("the page at %d is written twice", at)
		}
		f.written[at] = true
	}
	return copy(f.b[off:], p), nil
}

// A disk is restored as it was changed, and what it was is held to its digest.
func TestChangedDisk(t *testing.T) {
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		size := 64*overlay.PageSize + rapid.SampledFrom([]int{0, 512, 3584}).Draw(t, "more")
		want := make([]byte, size)
		for range rapid.IntRange(0, 8).Draw(t, "extents") {
			at := rapid.IntRange(0, 63).Draw(t, "page") * overlay.PageSize
			fill(want[at:min(size, at+rapid.IntRange(1, 5).Draw(t, "pages")*overlay.PageSize)], byte(1+at/overlay.PageSize))
		}
		base := targettest.Mem("sda", bytes.Clone(want))
		n++
		o, err := overlay.New(base, filepath.Join(dir, strconv.Itoa(n)))
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		for range rapid.IntRange(0, 6).Draw(t, "changes") {
			at := rapid.IntRange(0, size-512).Draw(t, "at") &^ 511
			n := min(size-at, rapid.IntRange(1, 40).Draw(t, "sectors")*512)
			if rapid.Bool().Draw(t, "zero") {
				clear(want[at : at+n])
				err = o.WriteZeroes(int64(at), int64(n))
			} else {
				fill(want[at:at+n], byte(rapid.IntRange(0, 255).Draw(t, "value")))
				_, err = o.WriteAt(want[at:at+n], int64(at))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		d := overlay.Apply(base, o)
		got := &fresh{T: t, b: make([]byte, size), written: map[int64]bool{}}
		if err := d.Restore(context.Background(), got, nil); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.b, want) {
			t.Fatal("what is restored is not what was changed")
		}
		d.Extents(func(off, length int64) bool {
			clear(want[off : off+length])
			return true
		})
		if !bytes.Equal(want, make([]byte, size)) {
			t.Fatal("there is data outside of its extents")
		}
		base.Lie()
		if err := d.Restore(context.Background(), &fresh{T: t, b: make([]byte, size), written: map[int64]bool{}}, nil); err == nil {
			t.Fatal("a base that lies is restored")
		}
	})
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}
