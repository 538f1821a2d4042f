package timing

import (
	"slices"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	for _, d := range []time.Duration{0, time.Millisecond, time.Millisecond + 1, time.Second, time.Hour} {
		h.Observe(d)
	}
	c := h.Counts()
	if !c.Valid() || c.Sum != time.Hour+time.Second+2*time.Millisecond+1 {
		t.Errorf("%+v", c)
	}
	second := slices.Index(Bounds(), time.Second)
	for i, n := range c.Buckets {
		want := map[int]uint64{0: 2, 1: 1, second: 1, len(Bounds()): 1}[i]
		if n != want {
			t.Errorf("bucket %d has %d, want %d", i, n, want)
		}
	}
	if !slices.IsSorted(bounds[:]) {
		t.Error("the bounds do not ascend")
	}
	if (Counts{Buckets: make([]uint64, 3)}).Valid() || !(Counts{}).Valid() {
		t.Error("Valid does not look at the buckets")
	}
}
