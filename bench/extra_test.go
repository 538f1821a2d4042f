package main

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/control/api"
)

// What a commit is safe by is the first listed point that was cut after it, whichever was
// listed first.
func TestSafeAfter(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1700000000, 0).Add(time.Duration(s * 1e9)) }
	points := []api.Point{{Time: at(2), Listed: at(5)}, {Time: at(1), Listed: at(1.5)}, {Time: at(3), Listed: at(4)}, {Time: at(9), Listed: at(9.25)}}
	ages, err := safeAfter([]time.Time{at(0.5), at(1), at(1.25), at(2.5), at(8)}, points)
	if err != nil {
		t.Fatal(err)
	}
	if want := []float64{1, 0.5, 2.75, 1.5, 1.25}; !slices.EqualFunc(ages, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-6 }) {
		t.Errorf("ages %v, want %v", ages, want)
	}
	if between, until := slowestPoints(points); between != 6*time.Second || until != 3*time.Second {
		t.Errorf("slowest: %v and %v", between, until)
	}
	if _, err := safeAfter([]time.Time{at(10)}, points); err == nil {
		t.Error("a commit after the last cut is safe")
	}
	if _, err := safeAfter(nil, points); err == nil {
		t.Error("no commits have an age")
	}
}

// A cost that grows as fast as what it is for keeps its goal, one that grows with the
// square does not.
func TestGrowthGoals(t *testing.T) {
	s := &series{what: "a disk", unit: "MiB"}
	for _, n := range []float64{64, 128, 256, 512, 1024} {
		s.sizes = append(s.sizes, n)
		s.add("initial", "s", 0.5+n/100, true)
		s.add("restore", "s", n*n, true)
		s.add("memory", "MiB", n, false)
	}
	goals := s.goals()
	if len(goals) != 2 || !goals[0].Met() || goals[1].Met() || math.Abs(goals[1].Ratio-16) > 1e-9 {
		t.Errorf("goals %+v", goals)
	}
}

// Every figure is in the table, taken or not, once, and none of the names is misspelt.
func TestExtrasWithout(t *testing.T) {
	for _, e := range extras() {
		have := []report.Goal{{Figure: e.figures[0].Figure, Ours: "1", Ratio: 1}}
		all := e.without("no time", have)
		if len(all) != len(e.figures) {
			t.Errorf("%s: %d goals, want %d", e.name, len(all), len(e.figures))
		}
		for i, g := range all {
			if (g.Why == "no time") != (i > 0) {
				t.Errorf("%s: %+v", e.name, g)
			}
		}
	}
}
