package life

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Whether all have come so far, for every pair of phases.
func TestReached(t *testing.T) {
	tog := &Together{ID: "x", Group: "shop", Members: []string{"web", "db"}}
	if !tog.Leads("db") || tog.Leads("web") {
		t.Error("who leads is not one and the same")
	}
	all := map[string]*Life{}
	set := func(m string, p Phase, id string) {
		l := New(m)
		l.Phase, l.Error = p, "why "+m
		if id != "" {
			l.Order.Together = &Together{ID: id}
		}
		all[m] = l
	}
	of := func(m string) *Life { return all[m] }
	for _, p := range Phases() {
		set("web", Fencing, "x")
		set("db", p, "x")
		reached, late, err := tog.Reached(Fencing, of)
		got := fmt.Sprint(reached, late, err)
		want := "false [] machine db of group shop is " + string(p) + ": why db"
		switch p {
		case Checking, Draining:
			want = "false [db] <nil>"
		case Fencing, Stopping, Bringing, FailedOver, Down:
			want = "true [] <nil>"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
	for _, id := range []string{"", "older"} {
		set("db", Protected, id)
		if reached, late, err := tog.Reached(Draining, of); reached || err != nil || !slices.Equal(late, []string{"db"}) {
			t.Errorf("one that was not asked yet (%q): %v, %v, %v", id, reached, late, err)
		}
	}
	set("db", Releasing, "x")
	if _, _, err := tog.Reached(Draining, of); err == nil || !strings.Contains(err.Error(), "db") {
		t.Errorf("one that gave up: %v", err)
	}
}
