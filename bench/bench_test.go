package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/bench/chaos"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/proof"
	"github.com/leeward-dr/leeward/bench/rig"
)

// TestMain lets this test binary be the agent's freeze guard and the program of the
// first read.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "guard" {
		os.Exit(quiesce.GuardMain())
	}
	if len(os.Args) > 1 && os.Args[1] == "first-read" {
		if err := firstRead(context.Background(), os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Stderr.WriteString("this test binary does not know the word " + os.Args[1] + "\n")
		os.Exit(2) // and never the tests again: that would have no end
	}
	os.Exit(m.Run())
}

// absent skips a test that needs something which is not here, unless it must be.
func absent(t *testing.T, what string) {
	t.Helper()
	if rig.Root() || os.Getenv("CI") == "true" {
		t.Fatalf("%s, and here it must not be missing", what)
	}
	t.Skip(what)
}

// smallest are sizes that the filesystems' tools just accept: what a point costs here
// is mostly hashing all of the disk twice. btrfs has some to spare: on a slow machine it runs
// out of space before there are three points.
var smallest = map[string]int64{"ext4": 96 << 20, "xfs": 300 << 20, "btrfs": 224 << 20}

func proofOptions(t *testing.T, fs string) proof.Options {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return proof.Options{
		Points: 3, Size: smallest[fs], Rate: 4 << 20, Interval: 200 * time.Millisecond, Seed: 5, Capture: "trace",
		Guard: []string{self, "guard"}, Dir: t.TempDir(), Limit: 2 * time.Minute, Log: product.Silent(), Say: t.Logf,
	}
}

// TestProof takes points under load on every filesystem and compares them.
func TestProof(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			o := proofOptions(t, fs)
			r, err := proof.Run(t.Context(), fs, o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Skipped != "" {
				absent(t, r.Skipped)
			}
			if !r.OK(o.Points) {
				t.Errorf("not proven: %s", show(r))
			}
			t.Logf("%d of %d equal, %.0f blocks changed between points, frozen %v at most", r.Equal, r.Listed, r.Changed, r.FreezeMax)
		})
	}
}

// TestProofCanFail changes a block that no tracker can see: every point from there on
// must be found unequal, in that block alone.
func TestProofCanFail(t *testing.T) {
	o := proofOptions(t, "ext4")
	o.Sabotage, o.Points = true, 4
	r, err := proof.Run(t.Context(), "ext4", o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Skipped != "" {
		absent(t, r.Skipped)
	}
	if r.OK(o.Points) || len(r.Bad) != r.Listed-o.Points/2 {
		t.Errorf("sabotage at the cut of point %d of %d made %d points unequal: %s", o.Points/2+1, r.Listed, len(r.Bad), show(r))
	}
	for _, b := range r.Bad {
		if !strings.Contains(b.Why, "in 1 blocks") {
			t.Errorf("point %s: %s", b.Point, b.Why)
		}
	}
}

// TestBinaries runs what needs the real programs, so that they are built once.
func TestBinaries(t *testing.T) {
	bin, err := product.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Run("chaos", func(t *testing.T) { testChaos(t, bin, false) })
	t.Run("chaos can fail", func(t *testing.T) { testChaos(t, bin, true) })
	t.Run("soak", func(t *testing.T) { testSoak(t, bin) })
	t.Run("fanin", func(t *testing.T) { testFanin(t, bin) })
	t.Run("contest", func(t *testing.T) { testContest(t, bin) })
}

// testChaos kills a few times and looks. With sabotage the vault is damaged first,
// and that must be noticed.
func testChaos(t *testing.T, bin product.Binaries, sabotage bool) {
	o := chaos.Options{
		Kills: 3, Size: 96 << 20, Rate: 1 << 20, Interval: 300 * time.Millisecond, Recovery: time.Minute, Every: 5, Seed: 6,
		Sabotage: sabotage, Bin: bin, Dir: t.TempDir(), Log: product.Silent(), Say: t.Logf,
	}
	if sabotage {
		o.Kills = 0
	}
	r, err := chaos.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Skipped != "" {
		absent(t, r.Skipped)
	}
	if r.OK(o.Kills) == sabotage {
		t.Errorf("sabotage %v: %s", sabotage, show(r))
	}
}

// testSoak disturbs for some seconds: too short to see what grows, long enough to lose
// something.
func testSoak(t *testing.T, bin product.Binaries) {
	o := chaos.Options{
		For: 8 * time.Second, Size: 96 << 20, Rate: 1 << 20, Interval: 300 * time.Millisecond, Recovery: 2 * time.Minute, Every: 50, Seed: 7,
		Bin: bin, Dir: t.TempDir(), Log: product.Silent(), Say: t.Logf,
	}
	r, err := chaos.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Skipped != "" {
		absent(t, r.Skipped)
	}
	if !r.OK(len(r.Kills)) || len(r.Kills) == 0 || len(r.Samples) == 0 {
		t.Errorf("%d faults, %d samples: %s", len(r.Kills), len(r.Samples), show(r))
	}
}

// testFanin sends changes of a handful of disks through an appliance.
func testFanin(t *testing.T, bin product.Binaries) {
	args := []string{"fanin", "-disks", "8,16", "-limit", "2m", "-servers", "appliance", "-dir", t.TempDir(), "-results", t.TempDir(), "-leeward", bin.Leeward, "-agent", bin.Agent}
	if err := run(t.Context(), args); err != nil {
		t.Fatal(err)
	}
}

// testContest takes Leeward alone through all steps on a small disk.
func testContest(t *testing.T, bin product.Binaries) {
	results := filepath.Join(t.TempDir(), "results")
	err := run(t.Context(), []string{
		"-size", "32M", "-pipe-size", "8M", "-runs", "1", "-peers", "-", "-dir", t.TempDir(), "-results", results,
		"-leeward", bin.Leeward, "-agent", bin.Agent,
	})
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(results); err != nil || len(files) != 1 {
		t.Errorf("%d results were kept, %v", len(files), err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"nonsense"}, {"proof", "--points", "0"}, {"chaos", "--every", "0"}, {"--runs", "0"}, {"--size", "much"}, {"fanin", "--disks", "8,4"}, {"--leeward", "none"}, {"--percent", "1,1"}, {"--percent", "0"}, {"profile", "--scenario", "sleep"}, {"extra", "--only", "nothing"}} {
		if err := run(t.Context(), args); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}
