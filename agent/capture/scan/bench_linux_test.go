package scan_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// hashing is how long all CPUs take to sum up so many bytes that are in their caches.
func hashing(data []byte, bytes int64) time.Duration {
	began := time.Now()
	var wg sync.WaitGroup
	n := runtime.GOMAXPROCS(0)
	for range n {
		wg.Go(func() {
			sums := make([]wire.Sum, len(data)/wire.BlockSize)
			for left := bytes / int64(n); left > 0; left -= int64(len(data)) {
				wire.SumsOf(data, sums)
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}

// BenchmarkCompare compares a whole loop device with sums, next to dd in the same
// run: half of it zeros, and all of it data.
func BenchmarkCompare(b *testing.B) {
	for _, c := range []struct {
		name  string
		share int64 // one in so many blocks is not zero
		disk  bool  // where tests have their files, past the page cache; else in memory
	}{
		// In memory each byte that is read costs the CPUs a copy, and sums want them, too.
		{"half zeros", 2, false},
		{"all data", 1, false},
		{"all data, on a disk", 1, true},
	} {
		share := c.share
		b.Run(c.name, func(b *testing.B) {
			disktest.NeedRoot(b, "dd")
			const size = 512 << 20
			var img string
			var options []string
			if c.disk {
				img, options = filepath.Join(b.TempDir(), "disk.img"), []string{"--direct-io=on"}
				if err := os.WriteFile(img, nil, 0o600); err != nil {
					b.Fatal(err)
				}
			} else {
				img = disktest.Image(b, size)
			}
			noise, err := os.OpenFile(img, os.O_WRONLY, 0)
			if err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 1<<20)
			for at := int64(0); at < size/share; at += int64(len(data)) {
				_, _ = rand.Read(data)
				if _, err := noise.WriteAt(data, at); err != nil {
					b.Fatal(err)
				}
			}
			if err := errors.Join(noise.Sync(), noise.Close()); err != nil {
				b.Fatal(err)
			}
			dev, err := disk.Open(disktest.Attach(b, img, options...))
			if err != nil {
				b.Fatal(err)
			}
			defer dev.Close()
			sums := make([]wire.Sum, dev.Blocks())
			var dd, hash time.Duration
			b.SetBytes(size)
			for b.Loop() {
				_, err := scan.Compare(ctx, dev, scan.Options{}, func(_ context.Context, start uint64, n int) ([]wire.Sum, error) {
					return sums[start:][:n], nil
				}, func(uint64, []byte, []wire.Sum) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				began := time.Now()
				if out, err := exec.Command("dd", "if="+dev.Path(), "of=/dev/null", "iflag=direct", "bs=4M").CombinedOutput(); err != nil {
					b.Fatal(err, string(out))
				}
				dd += time.Since(began)
				hash += hashing(data, size/share)
				b.StartTimer()
			}
			b.ReportMetric(float64(dd)/float64(b.Elapsed()), "x-dd")
			b.ReportMetric(float64(hash)/float64(b.Elapsed()), "x-hash")
			// The goal: 70 % of dd, or what the CPUs can hash if that is less.
			b.ReportMetric(max(float64(dd)/0.7, float64(hash))/float64(b.Elapsed()), "x-goal")
		})
	}
}
