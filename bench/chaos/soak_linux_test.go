package chaos_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/bench/chaos"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
)

// Three minutes of small faults in CI: the appliance does not grow, no agent holds too much,
// and nothing is lost. That an agent does not grow takes longer to see: `make soak` takes half
// an hour. Half a minute elsewhere, which sees only what is lost.
func TestSoak(t *testing.T) {
	t.Parallel()
	ci := os.Getenv("CI") == "true"
	absent := func(what string) {
		if rig.Root() || ci {
			t.Fatalf("%s, and here it must not be missing", what)
		}
		t.Skip("SKIPPED: " + what)
	}
	if !rig.Root() {
		absent("loop devices and mounts need root")
	}
	if m, ok := rig.Have("fio"); !ok {
		absent(m + " is not installed")
	}
	long := 30 * time.Second
	if ci || os.Getenv("LEEWARD_FULL") != "" {
		long = 3 * time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	bin, err := product.Build(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := chaos.Run(ctx, chaos.Options{
		For: long, Size: 128 << 20, Rate: 2 << 20, Interval: time.Second, Recovery: 90 * time.Second, Every: 50, Seed: 7,
		Dir: t.TempDir(), Bin: bin, Log: product.Silent(),
		Say: func(format string, args ...any) { fmt.Fprintf(t.Output(), format+"\n", args...) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Skipped != "" {
		absent(r.Skipped)
	}
	if !r.OK(len(r.Kills)) || len(r.Kills) == 0 {
		t.Errorf("promises were broken: %+v", r)
	}
	for _, g := range r.Grown() {
		t.Error(g)
	}
	for _, x := range r.Trends() {
		t.Logf("%s: %.0f, %+.0f an hour", x.Name, x.Held, x.Slope)
	}
	t.Logf("%d faults, %d points listed, %d restored", len(r.Kills), r.Listed, r.Checked)
}
