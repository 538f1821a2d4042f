package life

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is what work does to, in the smallest steps that control can die between.
type world struct{ fence, copy, export bool }

// todo lists the steps of a phase's work. Each is safe to repeat.
func (w *world) todo(l *Life) []func() {
	set := func(b *bool, v bool) func() { return func() { *b = v } }
	switch l.Phase {
	case Fencing, Disabling:
		return []func(){set(&w.fence, true)}
	case Bringing, Staying:
		return []func(){set(&w.copy, true)}
	case Changing, Ending, Returning:
		return []func(){set(&w.copy, false)}
	case Releasing:
		return []func(){set(&w.fence, false)}
	case Reprotecting:
		return []func(){set(&w.export, true)}
	case Unprotecting, Completing:
		return []func(){set(&w.export, false)}
	case Settling:
		return []func(){set(&w.export, false), set(&w.copy, false), set(&w.fence, false)}
	}
	return nil
}

// at is how the world must be where a machine rests; what it does not name may be either.
func (w *world) wrong(l *Life) string {
	want := map[Phase]world{
		Protected: {}, FailedOver: {fence: true, copy: true}, Committed: {fence: true, copy: true}, Migrated: {fence: true, copy: true},
		Ready: {fence: true, copy: true, export: true}, Returned: {fence: true, export: true}, Disabled: {fence: true},
	}
	if x, ok := want[l.Phase]; ok && *w != x {
		return "at rest it should be different"
	}
	if w.copy && !w.fence {
		return "a copy runs, and its source is not fenced"
	}
	if l.Phase.Fenced() && !w.fence {
		return "no fence"
	}
	return ""
}

// Operators ask for whatever they like, work fails, and control is killed between any
// two steps: the machine is never in two places, and can always be brought home.
func TestLifeUnderKills(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := []Kind{Start, Change, Commit, Cancel, Reprotect, Failback, Complete, Disable, Enable}
		l, w := New("web"), &world{}
		var pending []func() // what is left of the work on its way
		check := func(what string) {
			if why := w.wrong(l); why != "" {
				t.Fatalf("after %s machine is %s and the world %+v: %s", what, l.Phase, *w, why)
			}
		}
		step := func(e Event) {
			before := l.Attempt
			work, err := l.Step(e)
			if err != nil || l.Attempt == before {
				return
			}
			pending = nil // work of another attempt is ended, and the new one begins after it
			if work {
				pending = w.todo(l)
			}
		}
		run := func() {
			for len(pending) > 0 {
				pending[0]()
				pending = pending[1:]
				check("a step of work")
			}
		}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // control is killed and started anew
				step(Event{Kind: Begin})
			case 1, 2:
				order := Order{Planned: rapid.Bool().Draw(t, "planned")}
				if rapid.Bool().Draw(t, "shutdown") {
					order.Shutdown = "off"
				}
				step(Event{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Order: order, Point: "p"})
			case 3:
				if len(pending) > 0 {
					pending[0]()
					pending = pending[1:]
				}
			case 4: // work that fails has done some of it
				step(Event{Kind: Fail, Attempt: l.Attempt, Text: "no luck", Job: "j"})
			case 5: // a report that is late changes nothing
				was := l.Phase
				if l.Attempt > 0 {
					step(Event{Kind: Done, Attempt: l.Attempt - 1})
				}
				if l.Phase != was {
					t.Fatalf("a late report took it from %s to %s", was, l.Phase)
				}
			default:
				if l.Phase.Working() {
					run()
					step(Event{Kind: Done, Attempt: l.Attempt, Point: "p", Job: "j"})
				}
			}
			check("an event")
		}
		home(t, l, w, step, run)
		check("going home")
	})
}

// home brings a machine back to rest, from wherever it is, by what operators can ask.
func home(t *rapid.T, l *Life, w *world, step func(Event), run func()) {
	for n := 0; l.Phase != Protected && l.Phase != Migrated; n++ {
		if n > 40 {
			t.Fatalf("machine is %s and finds no way home", l.Phase)
		}
		if l.Phase.Working() {
			step(Event{Kind: Begin})
			run()
			step(Event{Kind: Done, Attempt: l.Attempt, Point: "p", Job: "j"})
			continue
		}
		next := map[Phase]Kind{FailedOver: Commit, Down: Cancel, Committed: Reprotect, Ready: Failback, Returned: Commit, Disabled: Enable}
		step(Event{Kind: next[l.Phase]})
	}
}

// A cancel is possible exactly where the operator is told what it undoes, and leads to
// rest by work that cannot fail for good.
func TestCancelIsSafe(t *testing.T) {
	for _, p := range Phases() {
		l := &Life{Machine: "web", Phase: p, Job: "j"}
		_, err := l.Step(Event{Kind: Cancel, By: "ann"})
		if (err == nil) != (p.Undo() != "") {
			t.Errorf("cancel in %s: %v, and it is said to undo %q", p, err, p.Undo())
		}
		if _, refused := errors.AsType[*RefusedError](err); err != nil && !refused {
			t.Errorf("cancel in %s: %v", p, err)
		}
		if err != nil {
			if l.Phase != p || l.By != "" {
				t.Errorf("a refused cancel changed %s to %+v", p, l)
			}
			continue
		}
		for n := 0; l.Phase.Working(); n++ {
			if table[l.Phase].fail != l.Phase || n > 5 {
				t.Fatalf("a cancel of %s leads to %s, which can fail for good", p, l.Phase)
			}
			if _, err := l.Step(Event{Kind: Done, Attempt: l.Attempt}); err != nil {
				t.Fatal(err)
			}
		}
		if l.Error != "cancelled" {
			t.Errorf("after a cancel of %s it is %s: %q", p, l.Phase, l.Error)
		}
	}
}

// The way of the acceptance: out, another point, commit, back, home.
func TestWayOutAndHome(t *testing.T) {
	l, loss := New("web"), uint64(0)
	var way []string
	step := func(e Event) {
		t.Helper()
		e.Attempt, e.At = l.Attempt, time.Unix(int64(len(way)), 0)
		if _, err := l.Step(e); err != nil {
			t.Fatal(err)
		}
		way = append(way, string(l.Phase))
	}
	step(Event{Kind: Start, By: "ann", Order: Order{Planned: true, Shutdown: "off", Point: "latest"}})
	step(Event{Kind: Done, Point: "p1"})
	step(Event{Kind: Done, Point: "p2"})
	step(Event{Kind: Done, Loss: &loss})
	step(Event{Kind: Fail, Text: "it does not answer"})
	step(Event{Kind: Done, Job: "fo-1"})
	step(Event{Kind: Change, Point: "p0", By: "bob"})
	step(Event{Kind: Done})
	step(Event{Kind: Fail, Text: "no proof of life", Job: "fo-2"})
	if l.Job != "fo-2" || l.Error != "no proof of life" {
		t.Errorf("life is %+v", l)
	}
	step(Event{Kind: Change, Point: "p2", By: "bob"})
	step(Event{Kind: Done})
	step(Event{Kind: Done, Job: "fo-3"})
	step(Event{Kind: Commit, By: "ann"})
	if l.Point != "p2" || l.Job != "fo-3" || l.Loss == nil || l.Generation != 1 || l.Error != "" {
		t.Errorf("life is %+v", l)
	}
	step(Event{Kind: Reprotect, By: "ann"})
	step(Event{Kind: Done})
	step(Event{Kind: Failback, By: "ann", Order: Order{Home: map[string]string{"sda": "/dev/sda"}}})
	step(Event{Kind: Done})
	step(Event{Kind: Commit, By: "ann"})
	step(Event{Kind: Done})
	want := "checking draining fencing stopping-source bringing-up failed-over changing-point bringing-up failover-failed changing-point bringing-up " +
		"failed-over committed re-protecting failback-ready failing-back failed-back settling-at-home protected"
	if got := strings.Join(way, " "); got != want {
		t.Errorf("the way was\n%s, want\n%s", got, want)
	}
	if l.Job != "" || l.Point != "" || len(l.Past) != len(way) || l.Past[6].By != "bob" || l.Past[7].By != "" {
		t.Errorf("at home: %+v", l)
	}
	for range 2 * maxPast {
		step(Event{Kind: Start})
		step(Event{Kind: Cancel})
	}
	if len(l.Past) != maxPast || l.Generation != 1+2*maxPast {
		t.Errorf("it remembers %d phases, generation %d", len(l.Past), l.Generation)
	}
}

// The package's words have a row for every phase, as the code has.
func TestTableIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range Phases() {
		if !strings.Contains(string(doc), "//\t"+string(p)+" ") && !strings.Contains(string(doc), "//\t"+string(p)+"  ") {
			t.Errorf("doc.go has no row for %s", p)
		}
		if !p.Known() || p.Working() && table[p].done == "" {
			t.Errorf("%s leads nowhere", p)
		}
	}
	if len(table) != len(Phases()) || Phase("tea").Known() || Phase("tea").Fenced() || Phase("tea").Away() {
		t.Error("phases and table do not agree")
	}
	if _, err := (&Life{Machine: "web", Phase: "tea"}).Step(Event{Kind: Begin}); err == nil {
		t.Error("an unknown phase takes a step")
	}
}
