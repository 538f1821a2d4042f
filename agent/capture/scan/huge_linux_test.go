package scan_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

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

// somewhere is a directory on a filesystem that has files of 16 TiB, real disk space
// for a table, or both.
func somewhere(t *testing.T, size int64) (dir string) {
	t.Helper()
	for _, under := range []string{"/dev/shm", os.TempDir()} {
		dir, err := os.MkdirTemp(under, "leeward-huge-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		f, err := os.Create(filepath.Join(dir, "disk.img"))
		if err != nil {
			continue
		}
		defer f.Close()
		if f.Truncate(size) == nil {
			return dir
		}
	}
	t.Fatal("no filesystem here has sparse files of 16 TiB")
	return ""
}

// TestHugeSparseDisk: 4 TiB (16 with LEEWARD_FULL) with little on them are followed and
// compared in seconds and in little memory.
func TestHugeSparseDisk(t *testing.T) {
	size := int64(4 << 40)
	if os.Getenv("LEEWARD_FULL") == "1" {
		size = 16<<40 - 1<<20
	}
	path := filepath.Join(somewhere(t, size), "disk.img")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var at []uint64 // blocks with something on them
	for i := range uint64(200) {
		b := i * uint64(size/block/200)
		at = append(at, b)
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, block), int64(b*block)); err != nil {
			t.Fatal(err)
		}
	}
	dev, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	before := resident(t)
	src, err := scan.New(dev, scan.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.Start(ctx); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		set, err := src.Take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		want := 200
		if round == 1 {
			want = 1
		}
		if set.Len() != uint64(want) || !set.Has(at[7]) {
			t.Fatalf("take %d finds %d blocks, want %d", round, set.Len(), want)
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{200}, block), int64(at[7]*block)); err != nil {
			t.Fatal(err)
		}
	}
	if s := src.Stats(); s.Blocks != dev.Blocks() || s.Zero != dev.Blocks()-200 {
		t.Errorf("stats %+v", s)
	}
	n := 0
	_, err = scan.Compare(ctx, dev, scan.Options{}, scan.Nothing, func(uint64, []byte, []wire.Sum) error { n++; return nil })
	if err != nil || n != 200 {
		t.Errorf("compare finds %d runs: %v", n, err)
	}
	runtime.GC()
	if grown := (resident(t) - before) >> 20; grown > 128 {
		t.Errorf("memory grew by %d MiB", grown)
	}
}

// TestTableInAFile: a table of 32 GiB of data takes 128 MiB, and little of it is in
// memory.
func TestTableInAFile(t *testing.T) {
	const blocks = 8 << 20
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	table, err := scan.NewTable(blocks, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("the file has a name: %v", left)
	}
	before := resident(t)
	sums := make([]wire.Sum, 4096)
	for i := range sums {
		sums[i] = wire.Sum{byte(i), byte(i >> 8), 1}
	}
	for at := uint64(0); at < blocks; at += uint64(len(sums)) {
		if err := table.Seed(at, sums); err != nil {
			t.Fatal(err)
		}
	}
	if grown := (resident(t) - before) >> 20; grown > 64 {
		t.Errorf("memory grew by %d MiB for a table of %d MiB", grown, blocks*16>>20)
	}
	// What left memory is still known: a source over it finds no difference.
	f := hollow(blocks)
	src, err := scan.New(f, scan.Options{}, table)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.Start(ctx); err != nil {
		t.Fatal(err)
	}
	set, err := src.Take(ctx)
	if err != nil || set.Len() != blocks {
		t.Errorf("of %d blocks that are zero now %d are found: %v", blocks, set.Len(), err)
	}
	if _, err := scan.NewTable(8, "/nonexistent"); err == nil || !strings.Contains(err.Error(), "reserve") {
		t.Errorf("a table in a directory that is not there: %v", err)
	}
}

// TestSeedByMany: what several goroutines say of neighbouring parts of a disk is all known.
func TestSeedByMany(t *testing.T) {
	const segment, segments = 32 << 10, 4096 // the bits of 64 share a word
	for range 20 {
		table, err := scan.NewTable(segment*segments, "")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for part := range uint64(2) {
			wg.Go(func() {
				for s := part; s < segments; s += 2 {
					if err := table.Seed(s*segment, []wire.Sum{{1}}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		src, err := scan.New(hollow(segment*segments), scan.Options{}, table)
		if err != nil {
			t.Fatal(err)
		}
		if err := src.Start(ctx); err != nil {
			t.Fatal(err)
		}
		set, err := src.Take(ctx)
		if err := errors.Join(err, src.Close()); err != nil {
			t.Fatal(err)
		}
		if set.Len() != segments {
			t.Fatalf("%d of %d blocks that are zero now are found", set.Len(), segments)
		}
	}
}

// hollow is a device of so many blocks that knows it is all a hole.
type hollow uint64

func (z hollow) Path() string                                     { return "zero" }
func (z hollow) Blocks() uint64                                   { return uint64(z) }
func (z hollow) NextData(uint64) uint64                           { return uint64(z) }
func (z hollow) ReadBlocks(context.Context, uint64, []byte) error { return os.ErrInvalid }
