package disk_test

import (
	"crypto/rand"
	"fmt"
	"iter"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

const benchSize = 512 * mib

// full makes a loop device without holes.
func full(b *testing.B) *disk.Disk {
	b.Helper()
	disktest.NeedRoot(b, "dd")
	img := disktest.Image(b, benchSize)
	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, mib)
	_, _ = rand.Read(buf)
	for range benchSize / mib {
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	return open(b, disktest.Attach(b, img))
}

func whole(blocks uint64) iter.Seq2[uint64, uint64] {
	return func(yield func(uint64, uint64) bool) { yield(0, blocks) }
}

// BenchmarkSequential reads a whole device, next to dd in the same run.
func BenchmarkSequential(b *testing.B) {
	d := full(b)
	for _, o := range []disk.ReadOptions{{Depth: 1, MaxRead: 4 << 20}, {Depth: 4}, {}} {
		b.Run(fmt.Sprintf("depth=%d", o.Depth), func(b *testing.B) {
			r := disk.NewReader(d, o)
			var dd time.Duration
			b.SetBytes(benchSize)
			for b.Loop() {
				if err := r.Read(ctx, whole(d.Blocks()), func(uint64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				began := time.Now()
				if out, err := exec.Command("dd", "if="+d.Path(), "of=/dev/null", "iflag=direct", "bs=4M").CombinedOutput(); err != nil {
					b.Fatal(err, string(out))
				}
				dd += time.Since(began)
				b.StartTimer()
			}
			b.ReportMetric(float64(dd)/float64(b.Elapsed()), "x-dd")
		})
	}
}

// BenchmarkRandom reads 4 KiB here and there, as after random writes.
func BenchmarkRandom(b *testing.B) {
	d := full(b)
	const reads = 20000
	blocks := make([]uint64, 0, reads)
	for len(blocks) < reads {
		blocks = append(blocks, mrand.Uint64N(d.Blocks()))
	}
	slices.Sort(blocks)
	blocks = slices.Compact(blocks)
	ranges := func(yield func(uint64, uint64) bool) {
		for _, n := range blocks {
			if !yield(n, 1) {
				return
			}
		}
	}
	for _, o := range []disk.ReadOptions{{Depth: 1, Gap: -1}, {Depth: 8, Gap: -1}, {Depth: 32, Gap: -1}, {Depth: 32}} {
		b.Run(fmt.Sprintf("depth=%d,gap=%d", o.Depth, o.Gap), func(b *testing.B) {
			r := disk.NewReader(d, o)
			for b.Loop() {
				if err := r.Read(ctx, ranges, func(uint64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(blocks)*b.N)/b.Elapsed().Seconds(), "blocks/s")
		})
	}
}
