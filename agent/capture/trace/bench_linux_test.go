package trace_test

import (
	"context"
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// BenchmarkCost is what a writer loses to being followed: 4 KiB random writes to a
// loop device in memory, followed and not followed in turn, as a ratio, and what
// reading the ring costs.
func BenchmarkCost(b *testing.B) {
	disktest.NeedRoot(b, "fio")
	path := disktest.Loop(b, 256*mib)
	dev := open(b, path)
	var plain, followed, events, busy float64
	for b.Loop() {
		plain += writeRate(b, path)
		src, err := trace.New(dev, trace.Options{})
		if err == nil {
			err = src.Start(context.Background())
		}
		if err != nil {
			b.Fatal(err)
		}
		followed += writeRate(b, path)
		if _, err := src.Take(context.Background()); err != nil {
			b.Fatal(err)
		}
		s := src.Stats()
		events, busy = events+float64(s.Events), busy+float64(s.Busy)
		if err := src.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(followed/plain, "x-plain")
	b.ReportMetric(followed/float64(b.N), "IOPS")
	b.ReportMetric(busy/events, "ns-read/event")
}

// writeRate is fio's writes per second.
func writeRate(b *testing.B, path string) float64 {
	b.Helper()
	out, err := exec.Command("fio", "--name=w", "--filename="+path, "--rw=randwrite", "--bs=4k", "--ioengine=libaio",
		"--iodepth=32", "--direct=1", "--time_based", "--runtime=2", "--thread", "--output-format=json").Output()
	if err != nil {
		b.Fatal(err)
	}
	var r struct {
		Jobs []struct{ Write struct{ IOPS float64 } }
	}
	if err := json.Unmarshal(out, &r); err != nil || len(r.Jobs) != 1 {
		b.Fatalf("fio printed %v jobs, %v", len(r.Jobs), err)
	}
	return r.Jobs[0].Write.IOPS
}
