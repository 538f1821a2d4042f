package trace_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// TestHugeDisk: a disk of 16 TiB that is written to in 4096 places (each 128 MiB with
// LEEWARD_FULL=1) is followed, audited and taken over in little memory.
func TestHugeDisk(t *testing.T) {
	disktest.NeedRoot(t)
	const size = 16<<40 - 1<<20
	step := int64(4 << 30)
	if os.Getenv("LEEWARD_FULL") == "1" {
		step = 128 << 20
	}
	dir, err := os.MkdirTemp("/dev/shm", "leeward-huge-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	img := filepath.Join(dir, "disk.img")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatalf("no filesystem here has sparse files of 16 TiB: %v", err)
	}
	path := disktest.Attach(t, img)
	k := &kept{rig: &rig{T: t, dev: open(t, path), out: writer(t, path)}, path: path, opt: trace.Options{Keep: t.TempDir()}, next: 1}
	t.Cleanup(func() {
		_ = k.src.Close()
		if _, err := trace.Forget(k.opt.Keep, "", false); err != nil {
			t.Error(err)
		}
	})
	k.open()
	k.settle()
	runtime.GC()
	before := resident(t)
	writes := uint64(0)
	for at := int64(0); at <= size-4096; at += step {
		k.write(at, 4096)
		writes++
	}
	for round := range 2 {
		set, err := k.src.Take(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		// What was kept by the process before is as exact as its map: 128 blocks a bit.
		if n := set.Len(); n < writes || round == 0 && n != writes || n > 128*writes {
			t.Errorf("take %d: %d blocks of %d writes", round, n, writes)
		}
		for at := int64(0); at <= size-4096; at += step {
			if !set.Has(uint64(at / 4096)) {
				t.Fatalf("take %d: the write at byte %d is missing", round, at)
			}
		}
		k.must(k.audit())
		k.must(k.src.Close())
		k.open()
		k.must(k.src.Resumed())
	}
	runtime.GC()
	if grown := (resident(t) - before) >> 20; grown > 128 {
		t.Errorf("memory grew by %d MiB", grown)
	} else {
		t.Logf("%d writes all over 16 TiB: memory grew by %d MiB", writes, grown)
	}
}

// resident is this process's memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(s.Text(), "VmRSS: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
