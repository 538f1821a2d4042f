package failover

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

var allStates = []State{Validating, Opening, Booting, Probing, Alive, Failed, Interrupted, Cleaning, Cleaned}

// The whole table: "-" is an error.
func TestStep(t *testing.T) {
	table := map[Event]string{
		Done:      "opening booting probing alive - - - cleaned -",
		Fail:      "failed failed failed failed - - - - -",
		Restart:   "interrupted interrupted interrupted interrupted interrupted failed interrupted interrupted cleaned",
		Adopt:     "- - probing probing alive - - - -",
		Revive:    "- - booting booting booting - - - -",
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

// A machine whose agent lost a disk goes on with points without it: words and times choose
// what is whole, an id may choose what is not, and both is said.
func TestPointsThatLackADisk(t *testing.T) {
	with := func(minute int, note string, disks ...string) *vault.Point {
		p := point(fmt.Sprintf("p%d", minute), "db", "crash", minute, "db")
		for _, d := range disks {
			p.Machines[0].Disks = append(p.Machines[0].Disks, vault.PointDisk{Disk: d, Note: note})
		}
		return p
	}
	gone := wire.NoteWithout + "sdb: it cannot be read: input/output error; not frozen: swap"
	all := []*vault.Point{
		with(1, "", "sda", "sdb"),
		with(2, gone, "sda"),
		with(3, gone+"; "+wire.NoteWithout+"sdc: it is being brought up to date", "sda"),
	}
	for word, want := range map[string]string{"latest": "p1", "latest-processed": "p1", "2026-11-22T12:02:30Z": "p1", "p3": "p3", "p2": "p2"} {
		if p, err := Select(all, "db", word); err != nil || p.ID != want {
			t.Errorf("%s chooses %v, %v, want %s", word, p, err, want)
		}
	}
	if d := Lacks(all, "db", all[2]); !slices.Equal(d, []string{"sdb"}) { // no point ever had sdc
		t.Errorf("it lacks %v", d)
	}
	if s := about(all, "db", all[2]); s != "it lacks disk sdb" {
		t.Error(s)
	}
	if s := about(all, "db", all[0]); s != "2 newer points lack disk sdb" {
		t.Error(s)
	}
	// A disk that is new is in no older point: nothing better can be had.
	fresh := []*vault.Point{with(1, "", "sda"), with(2, wire.NoteWithout+"sdb: it is being brought up to date", "sda")}
	if p, err := Select(fresh, "db", "latest"); err != nil || p.ID != "p2" || about(fresh, "db", p) != "" {
		t.Errorf("%v, %v, %q", p, err, about(fresh, "db", p))
	}
	// When the last whole point is gone, what is left is better than nothing.
	if p, err := Select(all[1:], "db", "latest"); err != nil || p.ID != "p3" {
		t.Errorf("%v, %v", p, err)
	}
}
