package targettest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target"
)

// limit is how long anything may take that is not part of what is tested.
const limit = 2 * time.Minute

// Kit is what the conformance test of a target needs to know of it.
type Kit struct {
	New func(t *testing.T) target.Target
	// Live returns a machine that comes up and how to tell.
	Live func(t *testing.T) (*target.Machine, target.Probe)
	// Dead returns a machine that starts and never lives; nil where there is no such
	// thing.
	Dead func(t *testing.T) (*target.Machine, target.Probe)
}

// TestTarget holds a target to its contract.
func TestTarget(t *testing.T, k Kit) {
	t.Run("refuses", k.refuses)
	t.Run("lives and ends", k.lives)
	t.Run("cancelled", k.cancelled)
	if k.Dead != nil {
		t.Run("dead is no error", k.dead)
	}
}

func (k Kit) refuses(t *testing.T) {
	tg := k.New(t)
	for name, spoil := range map[string]func(m *target.Machine){
		"no name":          func(m *target.Machine) { m.Name = "" },
		"no disks":         func(m *target.Machine) { m.Disks = nil },
		"unknown firmware": func(m *target.Machine) { m.Firmware = "coreboot" },
		"empty disk":       func(m *target.Machine) { m.Disks = []target.Disk{Mem("d", nil)} },
		"torn sector":      func(m *target.Machine) { m.Disks = []target.Disk{Mem("d", make([]byte, 1000))} },
		"negative memory":  func(m *target.Machine) { m.Memory = -1 },
	} {
		m, _ := k.Live(t)
		if err := tg.Validate(t.Context(), m); err != nil {
			t.Fatalf("a good machine is refused: %v", err)
		}
		spoil(m)
		if err := tg.Validate(t.Context(), m); err == nil {
			t.Errorf("%s: not refused", name)
		}
		dir := t.TempDir()
		if _, err := tg.Start(t.Context(), m, dir); err == nil {
			t.Errorf("%s: started", name)
		}
		empty(t, dir)
	}
}

func (k Kit) lives(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	m, p := k.Live(t)
	before := ContentOf(t, m)
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := k.New(t).Start(ctx, m, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.WithoutCancel(ctx)) // whatever goes wrong before
	res, err := r.Probe(ctx, p)
	if err != nil || !res.Alive || len(res.Evidence) == 0 || res.Boot <= 0 {
		t.Fatalf("not alive: %v, %+v", err, res)
	}
	for _, file := range []string{res.Screen, res.SerialLog} {
		if rel, err := filepath.Rel(dir, file); file != "" && (err != nil || !filepath.IsLocal(rel)) {
			t.Errorf("%s is not in the run's directory", file)
		}
	}
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := r.Stop(ctx); err != nil {
		t.Errorf("stop again: %v", err)
	}
	if err := r.Wait(ctx); err != nil {
		t.Errorf("wait: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Errorf("remove the run's directory: %v", err)
	}
	Untouched(t, m, before)
}

func (k Kit) cancelled(t *testing.T) {
	m, _ := k.Live(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := k.New(t).Start(ctx, m, t.TempDir()); err == nil {
		r.Stop(t.Context())
		t.Error("started although it was cancelled")
	}
}

func (k Kit) dead(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	m, p := k.Dead(t)
	before := ContentOf(t, m)
	r, err := k.New(t).Start(ctx, m, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Probe(ctx, p)
	switch {
	case err != nil:
		t.Errorf("no life is an error: %v", err)
	case res.Alive || res.Boot != 0:
		t.Errorf("a dead machine lives: %+v", res)
	case len(res.Evidence) == 0:
		t.Error("no word about what was missing")
	}
	done, stop := context.WithCancel(ctx)
	stop()
	if err := r.Stop(done); err != nil { // a cancelled stop is one that does not wait
		t.Errorf("stop: %v", err)
	}
	if err := r.Wait(ctx); err != nil {
		t.Errorf("wait: %v", err)
	}
	Untouched(t, m, before)
}

// ContentOf returns a hash of all that is on a machine's disks, to tell later that
// nobody wrote to them.
func ContentOf(t testing.TB, m *target.Machine) [32]byte {
	t.Helper()
	h := sha256.New()
	for _, d := range m.Disks {
		if _, err := io.Copy(h, io.NewSectionReader(d, 0, d.Size())); err != nil {
			t.Fatal(err)
		}
	}
	return [32]byte(h.Sum(nil))
}

// Untouched fails the test unless the disks of m hold what they did.
func Untouched(t testing.TB, m *target.Machine, before [32]byte) {
	t.Helper()
	if ContentOf(t, m) != before {
		t.Errorf("a disk of %s was touched", m.Name)
	}
}

func empty(t testing.TB, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v is left in the run's directory: %v", left, err)
	}
}

// TestDisk holds a target.Disk to its contract. It reads all of it.
func TestDisk(t *testing.T, d target.Disk) {
	at := int64(0)
	buf := make([]byte, 1<<20)
	hole := func(end int64) {
		for at < end {
			p := buf[:min(int64(len(buf)), end-at)]
			if n, err := d.ReadAt(p, at); n < len(p) {
				t.Fatalf("read %d bytes at %d: %d, %v", len(p), at, n, err)
			}
			if !zero(p) {
				t.Fatalf("between the extents, from %d, there is data", at)
			}
			at += int64(len(p))
		}
	}
	d.Extents(func(off, length int64) bool {
		if off < at || length <= 0 || length > d.Size()-off {
			t.Fatalf("extent of %d bytes at %d, after %d and in %d bytes", length, off, at, d.Size())
		}
		hole(off)
		at = off + length
		return true
	})
	hole(d.Size())
	if n, err := d.ReadAt(make([]byte, 10), d.Size()-5); n != 5 || !errors.Is(err, io.EOF) {
		t.Errorf("a read over the end returns %d, %v", n, err)
	}
	if n, err := d.ReadAt(make([]byte, 10), d.Size()+5); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("a read beyond the end returns %d, %v", n, err)
	}
	if r, ok := d.(target.Restorer); ok {
		testRestore(t, r)
	}
}

// testRestore holds what Restore writes against what ReadAt reads.
func testRestore(t *testing.T, d target.Restorer) {
	got := &sink{t: t, b: make([]byte, d.Size())}
	var last int64
	if err := d.Restore(t.Context(), got, func(_ string, done, _ int64) { last = done }); err != nil {
		t.Fatalf("restore: %v", err)
	}
	want := make([]byte, d.Size())
	if n, err := d.ReadAt(want, 0); n < len(want) {
		t.Fatal(err)
	}
	for i := range want {
		if want[i] != got.b[i] {
			t.Fatalf("restore writes %d to byte %d, it reads %d", got.b[i], i, want[i])
		}
	}
	if last == 0 && !zero(want) {
		t.Error("restore tells of no progress")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Restore(ctx, &sink{t: t, b: make([]byte, d.Size())}, nil); !errors.Is(err, context.Canceled) && !zero(want) {
		t.Errorf("a cancelled restore returns %v", err)
	}
}

// sink is a disk in memory to write to.
type sink struct {
	t  *testing.T
	mu sync.Mutex
	b  []byte
}

func (s *sink) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if end := off + int64(len(p)); off%target.BlockSize != 0 || end%target.BlockSize != 0 && end != int64(len(s.b)) {
		s.t.Errorf("restore writes %d bytes at %d, which are not whole blocks", len(p), off)
	}
	return copy(s.b[off:], p), nil
}
