package history

import (
	"math"
	"testing"
	"time"
)

var start = time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)

func TestChurnIsOfOneCounter(t *testing.T) {
	h := New()
	for i, v := range []Values{
		{RPO: math.NaN(), Said: true, Sent: 1000, Since: 1, Backlog: 5},
		{RPO: 3, Said: true, Sent: 3000, Since: 1, Backlog: 7},
		{RPO: 4, Backlog: math.NaN()},                           // its agent is silent
		{RPO: 5, Said: true, Sent: 9000, Since: 1, Backlog: 0},  // and speaks again: since when is not known
		{RPO: 6, Said: true, Sent: 500, Since: 2, Backlog: 0},   // it was started anew
		{RPO: 7, Said: true, Sent: 1500, Since: 2, Backlog: 12}, //
	} {
		h.Add("web", start.Add(time.Duration(i)*Fine), v)
	}
	want := []float64{math.NaN(), 200, math.NaN(), math.NaN(), math.NaN(), 100}
	got := h.Of("web")
	if len(got) != len(want) {
		t.Fatalf("%d samples", len(got))
	}
	for i, s := range got {
		if s.Churn != want[i] && !(math.IsNaN(s.Churn) && math.IsNaN(want[i])) {
			t.Errorf("sample %d: churn %v, want %v", i, s.Churn, want[i])
		}
	}
	if !math.IsNaN(got[0].RPO) || got[5].RPO != 7 || got[5].Backlog != 12 || !got[5].Time.Equal(start.Add(5*Fine)) {
		t.Errorf("%+v", got)
	}
}

// A day later the first hour is coarse, and keeps its worst.
func TestOldSamplesAreTheWorstOfTheirTime(t *testing.T) {
	h := New()
	n := 0
	for at := start; at.Before(start.Add(26 * time.Hour)); at = at.Add(Fine) {
		v := Values{RPO: 5, Said: true, Sent: uint64(n) * 10_000, Since: 1, Backlog: 1}
		if n == 1000 { // one bad moment, nearly three hours in
			v.RPO, v.Backlog = 900, 1<<30
		}
		h.Add("web", at, v)
		n++
	}
	all := h.Of("web")
	if len(all) > fineSlots+coarseSlots || len(all) < fineSlots+coarseSlots/2 {
		t.Fatalf("%d samples", len(all))
	}
	bad := 0
	for i, s := range all {
		if i > 0 && !s.Time.After(all[i-1].Time) {
			t.Fatalf("sample %d is of %v, after %v", i, s.Time, all[i-1].Time)
		}
		if s.RPO == 900 && s.Backlog == 1<<30 {
			bad++
		}
		if math.Abs(s.Churn-1000) > 1 {
			t.Fatalf("sample %d: churn %v", i, s.Churn)
		}
	}
	if bad != 1 {
		t.Errorf("the bad moment is in %d samples", bad)
	}
	if first := all[0].Time; first.Before(start.Add(time.Hour)) || first.After(start.Add(3*time.Hour)) {
		t.Errorf("the oldest is of %v", first)
	}
}

func TestOnlySoManyMachines(t *testing.T) {
	h := New()
	name := func(i int) string { return string(rune('a'+i%26)) + time.Duration(i).String() }
	for i := range MaxMachines + 10 {
		h.Add(name(i), start, Values{})
	}
	if len(h.machines) != MaxMachines || h.Of(name(MaxMachines+1)) != nil {
		t.Errorf("%d machines are kept", len(h.machines))
	}
	h.Forget(func(n string) bool { return n == name(3) })
	if len(h.machines) != 1 || len(h.Of(name(3))) != 1 {
		t.Errorf("%d machines are left", len(h.machines))
	}
}
