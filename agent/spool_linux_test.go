package agent

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// A comparison that is interrupted goes on where everything before is in the stream.
func TestComparisonGoesOn(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 12000) // the first half is noise
	cfg := config(t, path)
	cfg.checkpoint = 2 << 20
	var mu sync.Mutex
	first := int64(-1) // where the second comparison begins
	cfg.Progress = func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Phase == "compare" && p.Text == "" && p.Done < p.Total && (first < 0 || p.Done < first) {
			first = p.Done
		}
	}
	get(r, func() bool { r.loseAt = 12 << 20; return true })
	start(t, cfg, b)
	until(t, "a cut equal to the disk", func() bool { return r.hasCut(sumOf(t, path)) })
	mu.Lock()
	defer mu.Unlock()
	if n := get(r, func() int { return len(r.opens) }); n < 2 {
		t.Fatalf("%d epochs: the comparison was not interrupted", n)
	}
	if first < 2<<20 {
		t.Errorf("the second comparison begins at byte %d", first)
	}
}

// What the agent writes to must not be on what it protects.
func TestSpoolOnAProtectedDiskIsRefused(t *testing.T) {
	disktest.NeedRoot(t, "mkfs.ext4")
	dev := disktest.Loop(t, 32<<20)
	disktest.Mkfs(t, dev, "ext4")
	dir := disktest.Mount(t, dev)
	b := streamstest.Start(t)
	cfg := config(t, dev)
	cfg.Capture, cfg.Spool = "scan", filepath.Join(dir, "spool")
	if err := os.Mkdir(cfg.Spool, 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), cfg, b, quiet(t))
	if err == nil {
		a.Close()
		t.Fatal("a spool on the protected disk was accepted")
	}
	if !strings.Contains(err.Error(), "is on the protected disk") {
		t.Errorf("error is %v", err)
	}
	cfg.Spool = t.TempDir()
	a, err = New(t.Context(), cfg, b, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
}

// A state directory on the protected disk: replication goes on, its filesystem is
// never frozen, and the cut says so.
func TestStateOnAProtectedDiskIsNotFrozen(t *testing.T) {
	disktest.NeedRoot(t, "mkfs.ext4")
	dev := disktest.Loop(t, 32<<20)
	disktest.Mkfs(t, dev, "ext4")
	dir := disktest.Mount(t, dev)
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	cfg := config(t, dev)
	cfg.Capture, cfg.StateDir, cfg.FreezeLimit = "auto", filepath.Join(dir, "state"), time.Second
	told := eventsOf(t, b, "not-frozen")
	start(t, cfg, b)
	until(t, "an event", told)
	until(t, "cuts of a disk at rest", func() bool { return get(r, func() bool { return len(r.cuts) > 0 }) })
	if err := os.WriteFile(filepath.Join(dir, "free"), make([]byte, wire.BlockSize), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A disk without a filesystem cannot be frozen: its cuts are of moments when it was at
// rest, its tracker is audited all the same, and writers in between are no alarm.
func TestRawDiskUnderWriters(t *testing.T) {
	disktest.NeedRoot(t)
	dev := disktest.Loop(t, 32<<20)
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	cfg := config(t, dev)
	cfg.Capture, cfg.FreezeLimit = "trace", time.Second
	resync := eventsOf(t, b, "resync")
	start(t, cfg, b)
	raw, err := os.OpenFile(dev, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	n := int64(0)
	until(t, "cuts of a disk that is written to", func() bool {
		n++
		if _, err := raw.WriteAt([]byte("raw "+strings.Repeat("x", int(n%100))), n%8000*wire.BlockSize); err != nil {
			t.Fatal(err)
		}
		return get(r, func() bool { return len(r.cuts) >= 5 })
	})
	if resync() {
		t.Error("the audit of a busy disk raised an alarm")
	}
}
