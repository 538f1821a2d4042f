package report

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	x := []float64{4, 1, 3, 2}
	for _, c := range []struct{ q, want float64 }{{0, 1}, {0.5, 2.5}, {1, 4}, {0.25, 1.75}} {
		if got := Quantile(x, c.q); got != c.want {
			t.Errorf("Quantile(%v) = %v, want %v", c.q, got, c.want)
		}
	}
	if !math.IsNaN(Median(nil)) {
		t.Error("the median of nothing is a number")
	}
	if x[0] != 4 {
		t.Error("the samples were sorted in place")
	}
}

// The ranks are those of tables of the sign test.
func TestMedianInterval(t *testing.T) {
	for _, c := range []struct {
		n         int
		low, high float64
	}{{1, 1, 1}, {5, 1, 5}, {6, 1, 6}, {10, 2, 9}, {20, 6, 15}, {50, 18, 33}} {
		var x []float64
		for i := c.n; i > 0; i-- {
			x = append(x, float64(i))
		}
		if low, high := MedianInterval(x); low != c.low || high != c.high {
			t.Errorf("of %d: %v to %v, want %v to %v", c.n, low, high, c.low, c.high)
		}
	}
	if low, high := MedianInterval(nil); !math.IsNaN(low) || !math.IsNaN(high) {
		t.Errorf("of nothing: %v to %v", low, high)
	}
}

func TestResults(t *testing.T) {
	r := &Results{Schema: "leeward.bench.v1", Time: time.Unix(0, 0), Samples: []Sample{
		{Tool: "slow", Step: "initial", Wall: 3}, {Tool: "fast", Step: "initial", Wall: 1}, {Tool: "fast", Step: "initial", Wall: 2},
		{Tool: "absent", Step: "initial", Err: "is not on PATH"}, {Tool: "fast", Step: "initial", Wall: 9, Err: "restored image differs"},
	}}
	if got := r.Take("fast", "initial", func(s Sample) float64 { return s.Wall }); got != 1.5 {
		t.Errorf("median is %v, want 1.5: a failed sample must not count", got)
	}
	var out bytes.Buffer
	r.Steps(&out, []string{"initial"})
	text := out.String()
	fast, slow, absent := strings.Index(text, "fast"), strings.Index(text, "slow"), strings.Index(text, "absent")
	if fast < 0 || fast > slow || slow > absent || !strings.Contains(text, "is not on PATH") {
		t.Errorf("table is out of order or hides why:\n%s", text)
	}
	path, err := r.Save(t.TempDir(), "quick")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back Results
	if err := json.Unmarshal(b, &back); err != nil || len(back.Samples) != len(r.Samples) {
		t.Errorf("results do not come back: %v", err)
	}
}

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		g    Goal
		want bool
	}{
		{Goal{Ratio: 0.5, Limit: 0.9}, true},
		{Goal{Ratio: 1.5, Limit: 0.9}, false},
		{Goal{Ratio: 0.5, Limit: 0.7, AtLeast: true}, false},
		{Goal{Ratio: 0.8, Limit: 0.7, AtLeast: true}, true},
		{Goal{Ratio: 0, Limit: 0.9, Why: "restic is not on PATH"}, false},
	} {
		if got := c.g.Met(); got != c.want {
			t.Errorf("%+v: met is %v", c.g, got)
		}
	}
}
