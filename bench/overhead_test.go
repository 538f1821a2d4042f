package main

import (
	"testing"
	"time"

	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/overhead"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
)

// TestOverhead runs one short pair of each kind; what it measures is for long runs.
func TestOverhead(t *testing.T) {
	if !rig.Root() {
		absent(t, "needs root for loop devices and tracing")
	}
	if why := load.Missing(); why != "" {
		absent(t, why)
	}
	r, err := overhead.Run(t.Context(), overhead.Options{Dir: t.TempDir(), Size: 64 << 20, Pairs: 1, Each: 200 * time.Millisecond, Log: product.Silent(), Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range r.Writes {
		if w.Events == 0 || w.Losses != 0 || len(w.Ratios) != 1 || w.Ratios[0] <= 0 {
			t.Errorf("%+v", w)
		}
	}
}
