package timing

import (
	"slices"
	"sync/atomic"
	"time"
)

// bounds are the upper ends of the buckets; one more takes what is longer.
var bounds = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
	10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute,
}

// Bounds are the upper ends of the buckets, ascending.
func Bounds() []time.Duration { return slices.Clone(bounds[:]) }

// Histogram counts durations. The zero value is empty; it may be used by many
// goroutines.
type Histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Int64
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) {
	i, _ := slices.BinarySearch(bounds[:], d)
	h.counts[i].Add(1)
	h.sum.Add(int64(d))
}

// Counts is what a Histogram has counted.
type Counts struct {
	Buckets []uint64      `json:"buckets,omitempty"` // durations up to each of Bounds and above the one before; the last takes the rest
	Sum     time.Duration `json:"sum_ns,omitempty"`
}

// Counts returns what was counted so far. What is counted meanwhile may be in it in
// part.
func (h *Histogram) Counts() Counts {
	c := Counts{Buckets: make([]uint64, len(h.counts)), Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		c.Buckets[i] = h.counts[i].Load()
	}
	return c
}

// Valid reports whether c has the buckets of this version, or nothing.
func (c Counts) Valid() bool { return len(c.Buckets) == 0 || len(c.Buckets) == len(bounds)+1 }
