package console

import (
	"context"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
)

// Runtime describes this process, by the names that Prometheus' own clients use.
func Runtime(context.Context) ([]Family, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	out := []Family{
		Of("go_goroutines", "Goroutines of this process", Gauge, float64(runtime.NumGoroutine())),
		Of("go_memstats_heap_alloc_bytes", "Bytes of objects in memory", Gauge, float64(m.HeapAlloc)),
		Of("go_gc_heap_live_bytes", "Bytes of objects that were in use when garbage was last collected", Gauge, float64(live[0].Value.Uint64())),
		Of("go_memstats_heap_inuse_bytes", "Bytes of memory that hold objects", Gauge, float64(m.HeapInuse)),
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err == nil {
		seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
		out = append(out, Of("process_cpu_seconds_total", "Processor time that this process has used", Counter, seconds(u.Utime)+seconds(u.Stime)))
	}
	// Statm counts pages: the second number is what is resident.
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			if pages, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				out = append(out, Of("process_resident_memory_bytes", "Memory of this process that is in use", Gauge, float64(pages*int64(os.Getpagesize()))))
			}
		}
	}
	return out, nil
}
