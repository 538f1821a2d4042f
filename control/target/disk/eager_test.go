package disk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"
)

// What is written past the page cache, beside it and by many at once is all there.
func TestEagerWritesEverything(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		f, err := os.OpenFile(filepath.Join(t.TempDir(), "image"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const size = 16<<20 + 512 // no multiple of a block
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, size+directAlign)
		want = want[directAlign-int(uintptr(unsafe.Pointer(&want[0]))%directAlign):][:size]
		_, _ = rand.NewChaCha8([32]byte{1}).Read(want)
		e := newEager(f)
		if e.direct == nil {
			t.Log("this file system has no way past the page cache")
		}
		e.refused.Store(refused)
		var wg sync.WaitGroup
		at, rnd := 0, rand.New(rand.NewPCG(1, 2))
		for at < size {
			from := at
			n := directAlign * (1 + rnd.IntN(16))
			if rnd.IntN(2) == 0 {
				n += directFrom + directAlign*rnd.IntN(200)
			}
			at = min(size, at+n)
			part := want[from:at]
			if rnd.IntN(4) == 0 {
				part = append([]byte{0}, part...)[1:] // at an odd address
			}
			wg.Go(func() {
				if n, err := e.WriteAt(part, int64(from)); n != len(part) || err != nil {
					t.Errorf("write %d bytes at %d: %d, %v", len(part), from, n, err)
				}
			})
		}
		wg.Wait()
		e.end()
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("refused %v: the file differs (%d bytes, %v)", refused, len(got), err)
		}
		if st, err := f.Stat(); err != nil || st.Size() != size {
			t.Errorf("the file has %d bytes, %v", st.Size(), err)
		}
	}
}
