package hydrate

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	size     = 16*chunk + 4096*3 + 512
	longTime = 2 * time.Minute // for a busy machine
)

// vault is a disk in a store: it counts what is read, in order, and can be made slow.
type vault struct {
	*targettest.Disk
	mu    sync.Mutex
	reads []int64 // chunks
	gate  chan struct{}
}

func (v *vault) ReadAt(p []byte, off int64) (int, error) {
	if v.gate != nil {
		<-v.gate
	}
	v.mu.Lock()
	v.reads = append(v.reads, off/chunk)
	v.mu.Unlock()
	return v.Disk.ReadAt(p, off)
}

func (v *vault) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.reads)
}

func content() []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, size)
	for off := 0; off < size; off += 64 << 10 {
		if r.IntN(3) > 0 {
			for i := off; i < min(off+64<<10, size); i++ {
				b[i] = byte(r.Uint32())
			}
		}
	}
	return b
}

func open(t testing.TB, d target.Disk, path string) *Copy {
	t.Helper()
	c, err := Open(d, path)
	if err != nil {
		t.Fatal(err)
	}
	c.room = func() (int64, error) { return 1 << 40, nil }
	c.again = time.Millisecond
	return c
}

func run(t testing.TB, c *Copy) error {
	ctx, cancel := context.WithTimeout(t.Context(), longTime)
	defer cancel()
	err := c.Run(ctx)
	if ctx.Err() != nil {
		t.Fatal("it does not end")
	}
	return err
}

func equal(t testing.TB, what string, r io.ReaderAt, want []byte) {
	t.Helper()
	got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(len(want))))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: differs, %v", what, err)
	}
}

// A copy is what the point is, the point is not read again, and the machine's writes are
// elsewhere.
func TestCopies(t *testing.T) {
	data := content()
	v := &vault{Disk: targettest.Mem("sda", data)}
	dir := t.TempDir()
	c := open(t, v, filepath.Join(dir, "copy"))
	o, err := overlay.Open(c, filepath.Join(dir, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	now := bytes.Clone(data)
	write := func(off int, b string) {
		if _, err := o.WriteAt([]byte(b), int64(off)); err != nil {
			t.Error(err)
		}
		copy(now[off:], b)
	}
	write(5*chunk+77, "before")
	if s := c.Status(); s.Whole || s.Done != 0 || s.Total == 0 {
		t.Errorf("before: %+v", s)
	}
	// A machine that wants the same again and again does not keep the rest away.
	var machine sync.WaitGroup
	done := make(chan struct{})
	machine.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_, _ = c.ReadAt(make([]byte, 512), 5*chunk)
			}
		}
	})
	err = run(t, c)
	close(done)
	machine.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); !s.Whole || s.Done != s.Total || s.Why != "" {
		t.Errorf("after: %+v", s)
	}
	v.Break(true)
	read := v.count()
	write(7*chunk+99, "after")
	equal(t, "the machine's disk", o, now)
	equal(t, "the copy", c, data)
	if n := v.count(); n != read {
		t.Errorf("the vault was read %d times again", n-read)
	}
	var changed int64
	o.Changed(func(_, n int64, _ bool) bool { changed += n; return true })
	if changed != 2*overlay.PageSize {
		t.Errorf("%d bytes count as changed by the machine, not two pages", changed)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	// Another process finds it whole.
	c = open(t, v, filepath.Join(dir, "copy"))
	defer c.Close()
	if s := c.Status(); !s.Whole {
		t.Errorf("opened again: %+v", s)
	}
	equal(t, "the copy, opened again", c, data)
}

// What the machine reads is copied first, and then what lies behind it.
func TestOrder(t *testing.T) {
	data := bytes.Repeat([]byte("data"), size/4)
	v := &vault{Disk: targettest.Mem("sda", data), gate: make(chan struct{})}
	c := open(t, v, filepath.Join(t.TempDir(), "copy"))
	defer c.Close()
	var machine sync.WaitGroup
	for _, at := range []int64{11, 4} { // the machine reads a little of each
		machine.Go(func() {
			_, _ = c.ReadAt(make([]byte, 512), at*chunk)
		})
		v.gate <- struct{}{}
		machine.Wait()
	}
	v.mu.Lock()
	v.reads = nil
	v.mu.Unlock()
	close(v.gate)
	if err := run(t, c); err != nil {
		t.Fatal(err)
	}
	if want := []int64{11, 4, 5, 6}; !slices.Equal(v.reads[:4], want) || v.count() != 17 {
		t.Errorf("copied in the order %v", v.reads)
	}
}

// A store that fails, and a disk that is full, cost time.
func TestWaits(t *testing.T) {
	data := content()
	v := &vault{Disk: targettest.Mem("sda", data)}
	c := open(t, v, filepath.Join(t.TempDir(), "copy"))
	defer c.Close()
	v.Break(true)
	var mu sync.Mutex
	free := int64(1 << 40)
	c.room = func() (int64, error) { mu.Lock(); defer mu.Unlock(); return free, nil }
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), longTime)
	defer cancel()
	go func() { done <- c.Run(ctx) }()
	waits := func(why string) {
		t.Helper()
		targettest.WaitFor(t, longTime, why, func() bool { return strings.Contains(c.Status().Why, why) })
	}
	waits("broken")
	mu.Lock()
	free = Reserve + 99
	mu.Unlock()
	waits("make room")
	v.Break(false)
	mu.Lock()
	free = 1 << 40
	mu.Unlock()
	if err := <-done; err != nil || !c.Status().Whole {
		t.Errorf("%v %+v", err, c.Status())
	}
	equal(t, "the copy", c, data)
}

// A copy that was interrupted anywhere goes on: nothing that was flushed is fetched again.
func TestGoesOn(t *testing.T) {
	data := content()
	path := filepath.Join(t.TempDir(), "copy")
	for n := 3; ; n *= 2 {
		v := &vault{Disk: targettest.Mem("sda", data)}
		c := open(t, v, path)
		had := c.Status().Done
		ctx, cancel := context.WithTimeout(t.Context(), longTime)
		room := 0
		c.room = func() (int64, error) {
			if room++; room > n {
				cancel()
			}
			return 1 << 40, nil
		}
		err := c.Run(ctx)
		s := c.Status()
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if s.Done < had || s.Done == had && !s.Whole {
			t.Errorf("it had %d bytes and has %d", had, s.Done)
		}
		if s.Whole {
			equal(t, "the copy", c, data)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if s.Whole {
			return
		}
	}
}

// A copy that is not what the point promises is never called whole.
func TestLies(t *testing.T) {
	v := &vault{Disk: targettest.Mem("sda", content())}
	v.Lie()
	path := filepath.Join(t.TempDir(), "copy")
	c := open(t, v, path)
	defer c.Close()
	if err := run(t, c); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("%v", err)
	}
	if s := c.Status(); s.Whole || !strings.Contains(s.Why, "digest") {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(path + ".whole"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is marked as whole: %v", err)
	}
}
