package failover

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
)

var allStates = []State{Validating, Opening, Booting, Probing, Alive, Failed, Interrupted, Cleaning, Cleaned}

// The whole table: "-" is an error.
func TestStep(t *testing.T) {
	table := map[Event]string{
		Done:      "opening booting probing alive - - - cleaned -",
		Fail:      "failed failed failed failed - - - - -",
		Restart:   "interrupted interrupted interrupted interrupted interrupted failed interrupted interrupted cleaned",
		Adopt:     "- - probing probing alive - - - -",
		Revive:    "- - - booting booting - - - -",
		Cleanup:   "cleaning cleaning cleaning cleaning cleaning cleaning cleaning cleaning -",
		CleanFail: "- - - - - - - failed -",
	}
	for e, want := range table {
		for i, w := range strings.Fields(want) {
			s := allStates[i]
			got, err := Step(s, e)
			if w == "-" && (err == nil || got != s) || w != "-" && (err != nil || string(got) != w) {
				t.Errorf("Step(%s, %s) = %s, %v, want %s", s, e, got, err, w)
			}
		}
	}
	if _, err := Step("tea", Done); err == nil {
		t.Error("an unknown state can be done")
	}
}

// From every state, cleaning up leads to cleaned.
func TestEveryStateCanBeCleaned(t *testing.T) {
	for _, s := range allStates[:len(allStates)-1] {
		got, err := Step(s, Cleanup)
		if err == nil {
			got, err = Step(got, Done)
		}
		if err != nil || got != Cleaned {
			t.Errorf("a job that is %s ends as %s, %v", s, got, err)
		}
		if s.Running() == s.Waiting() {
			t.Errorf("a job that is %s must either run or wait", s)
		}
	}
}

func point(id, group, consistency string, minute int, machines ...string) *vault.Point {
	p := &vault.Point{ID: id, Group: group, Consistency: consistency, Time: time.Date(2026, 11, 22, 12, minute, 0, 0, time.UTC)}
	for _, m := range machines {
		p.Machines = append(p.Machines, vault.PointMachine{Machine: m})
	}
	return p
}

func TestSelect(t *testing.T) {
	all := []*vault.Point{
		point("b2", "shop", "crash", 2, "db", "web"),
		point("a1", "db", "app", 1, "db"),
		point("b3", "db", "crash", 3, "db"),
		point("c4", "web", "crash", 4, "web"),
	}
	cases := []struct{ machine, word, want, err string }{
		{"db", "latest", "b3", ""},
		{"db", "", "b3", ""},
		{"db", "latest-processed", "b3", ""},
		{"db", "latest-app", "a1", ""},
		{"web", "latest-app", "", "none of the 2 points"},
		{"web", "latest", "c4", ""},
		{"db", "2026-11-22T12:02:00Z", "b2", ""},
		{"db", "2026-11-22T14:02:30+02:00", "b2", ""},
		{"db", "2026-11-22T12:00:59Z", "", "the oldest point of machine db is of 2026-11-22T12:01:00Z"},
		{"db", "a1", "a1", ""},
		{"db", "a", "a1", ""},
		{"db", "b", "", "2 points start with"},
		{"db", "b2", "b2", ""},
		{"db", "c4", "", "is no id of a point of machine db"},
		{"db", "lastest", "", "none of the words latest, latest-processed, latest-app"},
		{"mail", "latest", "", "machine mail has none"},
	}
	for _, c := range cases {
		p, err := Select(all, c.machine, c.word)
		switch {
		case c.err != "":
			if !errors.Is(err, ErrNoPoint) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("Select(%s, %q): error %v, want one with %q", c.machine, c.word, err, c.err)
			}
		case err != nil || p.ID != c.want:
			t.Errorf("Select(%s, %q) = %v, %v, want %s", c.machine, c.word, p, err, c.want)
		}
	}
	if _, err := ByID(all, ""); !errors.Is(err, ErrNoPoint) {
		t.Errorf("an empty id finds a point: %v", err)
	}
}

func TestRequestValidate(t *testing.T) {
	good := Request{Machine: "db", Target: "qemu", Options: Options{Serial: "login:"}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Request){
		"machine":  func(r *Request) { r.Machine = "../db" },
		"target":   func(r *Request) { r.Target = "" },
		"cpus":     func(r *Request) { r.Options.CPUs = -1 },
		"memory":   func(r *Request) { r.Options.MemoryBytes = -1 },
		"firmware": func(r *Request) { r.Options.Firmware = "openboot" },
		"port":     func(r *Request) { r.Options.Port = 70000 },
		"timeout":  func(r *Request) { r.Options.TimeoutSecs = -1 },
		"id":       func(r *Request) { r.ID = strings.Repeat("x", 200) },
		"proof":    func(r *Request) { r.Options.Serial = "" },
	} {
		r := good
		change(&r)
		if r.Validate() == nil {
			t.Errorf("a request with a bad %s is accepted: %+v", name, r)
		}
	}
}
