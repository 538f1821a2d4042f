package plan

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func example(t testing.TB) *Plan {
	t.Helper()
	b, err := os.ReadFile("testdata/site.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestExample(t *testing.T) {
	p := example(t)
	if len(p.Stages) != 3 || strings.Join(p.Machines(), " ") != "db web1 web2 mail" {
		t.Errorf("read %+v", p)
	}
	r, err := New("r1", p, 7, Failover, "", "ann", noon)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range r.Tasks {
		got = append(got, fmt.Sprintf("%d %s %s", k.Part, k.ID, k.State))
	}
	want := []string{
		"0 database/before/1 waiting", "1 database/machine/1 waiting", "2 database/after/1 waiting",
		"3 web/machine/1 waiting", "3 web/machine/2 waiting", "4 web/after/1 waiting", "5 web/after/2 skipped", "6 rest/before/1 waiting", "7 rest/machine/1 waiting",
	}
	if !slices.Equal(got, want) {
		t.Errorf("tasks\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRefusals(t *testing.T) {
	head := "schema: leeward.plan.v1\nname: p\n"
	stage := head + "stages:\n- name: a\n  "
	for text, want := range map[string]string{
		"":                           "empty",
		"name: p":                    "schema",
		head:                         "0 stages",
		head + "stagess: []":         "line 3: field stagess not found",
		head + "stages: [{name: a}]": "does nothing",
		head + "target: {kind: moon}\nstages: [{name: a, machines: [{machine: m}]}]":                "target kind",
		head + "stages: [{name: a, machines: [{machine: m}]}, {name: a, machines: [{machine: n}]}]": "two stages",
		head + "stages: [{name: a, machines: [{machine: m}, {machine: m}]}]":                        "named twice",
		stage + "machines: [{machine: a.b}]":                                                        "machine name",
		stage + "machines: [{machine: m, on_error: panic}]":                                         "on_error",
		stage + "machines: [{machine: m, retries: 99}]":                                             "retries",
		stage + "machines: [{machine: m, timeout: 1000h}]":                                          "timeout",
		stage + "before: [{name: x}]":                                                               "exactly one",
		stage + "before: [{name: x, ask: 'go?', script: {run: ls}}]":                                "exactly one",
		stage + "before: [{name: x, script: {run: ''}}]":                                            "run has 0 bytes",
		stage + "before: [{name: x, script: {run: ls, ssh: '-oProxyCommand=x@y'}}]":                 "ssh is",
		stage + "before: [{name: x, script: {run: ls, ssh: 'a@b c'}}]":                              "ssh is",
		stage + "before: [{name: x, http: {url: 'file:///etc/passwd'}}]":                            "url is",
		stage + "before: [{name: x, http: {url: 'http://a', method: BREW}}]":                        "method",
		stage + "before: [{name: x, ask: ok, only: [drill]}]":                                       "only names",
		stage + "before: [{name: '', ask: ok}]":                                                     "needs a name",
	} {
		p, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %+v, %v; want an error with %q", text, p, err, want)
		}
	}
}

// walk carries out a run whose attempts end as fail says; ask gives answers.
func walk(t *testing.T, r *Run, fail map[string]int, ask map[string][]string) (log []string) {
	t.Helper()
	events := []Event{{Kind: Begin, At: noon}}
	for steps := 0; ; steps++ {
		if steps > 1000 {
			t.Fatal("it does not end")
		}
		var e Event
		if len(events) > 0 {
			e, events = events[0], events[1:]
		} else {
			i := slices.IndexFunc(r.Tasks, func(k Task) bool { return k.State == Asking })
			if r.Over() || i < 0 {
				return append(log, "run "+string(r.State))
			}
			k := r.Tasks[i]
			all := ask[k.ID]
			if len(all) == 0 {
				return append(log, "asks "+k.ID)
			}
			e = Event{Kind: Answered, Task: k.ID, Text: all[0], By: "ann", At: noon}
			ask[k.ID] = all[1:]
			log = append(log, "answer "+k.ID+" "+all[0])
		}
		out, err := r.Step(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range out {
			done := Event{Kind: Succeed, Task: x.Start, Attempt: x.Attempt, At: noon}
			if fail[x.Start] > 0 {
				fail[x.Start]--
				done.Kind, done.Text = Fail, "it broke"
			}
			log = append(log, fmt.Sprintf("%s#%d %s", x.Start, x.Attempt, done.Kind))
			events = append(events, done)
		}
	}
}

// One script fails, under each rule.
func TestOnError(t *testing.T) {
	const script = "web/after/1"
	for _, c := range []struct {
		rule    string
		retries int
		fails   int
		answers []string
		tail    string // the last lines
	}{
		{Stop, 0, 1, nil, "web/after/1#1 fail|run failed"},
		{Stop, 2, 2, nil, "web/after/1#3 succeed|asks rest/before/1"},
		{Continue, 0, 1, nil, "web/after/1#1 fail|asks rest/before/1"},
		{Ask, 0, 1, nil, "web/after/1#1 fail|asks web/after/1"},
		{Ask, 0, 1, []string{"retry"}, "answer web/after/1 retry|web/after/1#2 succeed|asks rest/before/1"},
		{Ask, 0, 2, []string{"retry", "continue"}, "web/after/1#2 fail|answer web/after/1 continue|asks rest/before/1"},
		{Ask, 0, 1, []string{"stop"}, "answer web/after/1 stop|run failed"},
	} {
		p := example(t)
		p.Stages[1].After[0].OnError, p.Stages[1].After[0].Retries = c.rule, c.retries
		r, err := New("r1", p, 1, Failover, "", "ann", noon)
		if err != nil {
			t.Fatal(err)
		}
		log := strings.Join(walk(t, r, map[string]int{script: c.fails}, map[string][]string{script: c.answers}), "|")
		if !strings.HasSuffix(log, c.tail) || !strings.HasPrefix(log, "database/before/1#1 succeed|database/machine/1#1 succeed|database/after/1#1 succeed|web/machine/1#1 succeed|web/machine/2#1 succeed|") {
			t.Errorf("%+v: %s", c, log)
		}
	}
	p := example(t)
	p.Stages[1].After[0].OnError = Continue
	r, err := New("r1", p, 1, Failover, "", "ann", noon)
	if err != nil {
		t.Fatal(err)
	}
	log := walk(t, r, map[string]int{script: 1}, map[string][]string{"rest/before/1": {"yes"}})
	if log[len(log)-1] != "run done-with-warnings" {
		t.Errorf("an ignored failure leaves %v", log)
	}
	if r, err = New("r1", p, 1, Failover, "", "ann", noon); err != nil {
		t.Fatal(err)
	}
	log = walk(t, r, nil, map[string][]string{"rest/before/1": {"no"}})
	if log[len(log)-1] != "run failed" || r.Tasks[8].State != Skipped {
		t.Errorf("a closed gate leaves %v, %+v", log, r.Tasks[8])
	}
	if _, err := r.Step(Event{Kind: Answered, Task: "rest/before/1", Text: "yes"}); err == nil {
		t.Error("an answer to a run that is over was taken")
	}
}

func drawPlan(t *rapid.T) *Plan {
	p := &Plan{Schema: Schema, Name: "p"}
	rule := rapid.SampledFrom([]string{"", Stop, Continue, Ask})
	machines := 0
	for i := range rapid.IntRange(1, 4).Draw(t, "stages") {
		s := Stage{Name: fmt.Sprintf("s%d", i)}
		actions := func() (all []Action) {
			for range rapid.IntRange(0, 3).Draw(t, "actions") {
				a := Action{Name: "x", Retries: rapid.IntRange(0, 2).Draw(t, "retries"), OnError: rule.Draw(t, "rule")}
				if rapid.Bool().Draw(t, "gate") {
					a.Ask = "go on?"
				} else {
					a.Script = &Script{Run: "true"}
				}
				if rapid.IntRange(0, 3).Draw(t, "only") == 0 {
					a.Only = []string{Test}
				}
				all = append(all, a)
			}
			return all
		}
		s.Before, s.After = actions(), actions()
		for range rapid.IntRange(1, 4).Draw(t, "machines") {
			s.Machines = append(s.Machines, Machine{Machine: fmt.Sprintf("m%d", machines), OnError: rule.Draw(t, "rule")})
			machines++
		}
		p.Stages = append(p.Stages, s)
	}
	return p
}

// Whatever happens and in whatever order: tasks start in the order of their parts,
// nothing starts after a stop, who carries the run out may die at any moment, a late
// word of an earlier attempt changes nothing, and the run ends.
func TestRunProperties(t *testing.T) {
	ends := map[RunState]int{}
	rapid.Check(t, func(t *rapid.T) {
		p := drawPlan(t)
		if err := p.Validate(); err != nil {
			t.Fatal(err)
		}
		r, err := New("r", p, 1, rapid.SampledFrom(Modes).Draw(t, "mode"), "", "", noon)
		if err != nil {
			t.Fatal(err)
		}
		type attempt struct {
			task string
			n    int
		}
		working := map[attempt]bool{}
		var old []attempt
		do := func(e Event) {
			e.At = noon
			stopped := r.Stopped
			out, err := r.Step(e)
			if err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
			for _, x := range out {
				if x.End != "" {
					for a := range working {
						if a.task == x.End {
							delete(working, a)
						}
					}
					continue
				}
				k := r.task(x.Start)
				if stopped && e.Kind != Begin {
					t.Fatalf("%s starts after the run was stopped", x.Start)
				}
				for _, o := range r.Tasks {
					if o.Part < k.Part && !o.over() {
						t.Fatalf("%s starts before %s is over (%s)", x.Start, o.ID, o.State)
					}
				}
				for a := range working {
					if a.task == x.Start {
						t.Fatalf("%s starts twice at once", x.Start)
					}
				}
				working[attempt{x.Start, x.Attempt}] = true
			}
		}
		do(Event{Kind: Begin})
		for steps := 0; !r.Over(); steps++ {
			if steps > 5000 {
				t.Fatalf("it does not end: %+v", r)
			}
			switch rapid.IntRange(0, 19).Draw(t, "what") {
			case 0: // it dies, and what it did is lost or done, nobody knows
				b, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				r = new(Run)
				if err := json.Unmarshal(b, r); err != nil {
					t.Fatal(err)
				}
				for a := range working {
					old = append(old, a)
				}
				working = map[attempt]bool{}
				do(Event{Kind: Begin})
			case 1:
				if len(old) > 0 {
					a := old[rapid.IntRange(0, len(old)-1).Draw(t, "old")]
					do(Event{Kind: Fail, Task: a.task, Attempt: a.n, Text: "late"})
				}
			case 2:
				if rapid.IntRange(0, 9).Draw(t, "cancel") == 0 {
					do(Event{Kind: Cancel})
				}
			default:
				asked := false
				for _, k := range r.Tasks {
					if k.State == Asking && rapid.Bool().Draw(t, "answer") {
						words := []string{"retry", "continue", "stop"}
						if k.Action != nil && k.Action.Ask != "" {
							words = []string{"yes", "no"}
						}
						do(Event{Kind: Answered, Task: k.ID, Text: rapid.SampledFrom(words).Draw(t, "word")})
						asked = true
						break
					}
				}
				if asked {
					continue
				}
				for a := range working {
					delete(working, a)
					old = append(old, a)
					kind := Succeed
					if rapid.IntRange(0, 5).Draw(t, "fails") == 0 {
						kind = Fail
					}
					do(Event{Kind: kind, Task: a.task, Attempt: a.n, Text: "x"})
					break
				}
			}
		}
		ends[r.State]++
		if len(working) > 0 && r.State != RunCancelled {
			t.Fatalf("over, and still at work on %v", working)
		}
		for _, k := range r.Tasks {
			if !k.over() {
				t.Fatalf("run %s, task %s is %s", r.State, k.ID, k.State)
			}
			if r.State == RunDone && k.State != Done && k.State != Skipped {
				t.Fatalf("done, but %s is %s", k.ID, k.State)
			}
			if k.State == Skipped && r.State == RunDone && (k.Action == nil || len(k.Action.Only) == 0) {
				t.Fatalf("done, but %s was skipped", k.ID)
			}
		}
	})
	if len(ends) < 4 {
		t.Errorf("the runs ended only as %v", ends)
	}
}

func TestDryRun(t *testing.T) {
	p := example(t)
	r, err := New("r1", p, 1, Test, "", "", noon)
	if err != nil {
		t.Fatal(err)
	}
	f := Forecast(r, noon, func(machine, word string) (Chosen, error) {
		if machine == "mail" {
			return Chosen{}, fmt.Errorf("machine mail has no recovery point")
		}
		return Chosen{Point: "p-" + machine, Time: noon.Add(-time.Minute), Pending: 4096}, nil
	}, map[string]time.Duration{"db": 40 * time.Second, "web1": 10 * time.Second, "web2": 20 * time.Second})
	if f.LossSeconds != 60 || f.LossBytes != 3*4096 || len(f.Problems) != 1 || !strings.Contains(f.Problems[0], "mail") || f.Seconds < 60 || f.Gates != 1 {
		t.Errorf("forecast %+v", f)
	}
	if len(f.Steps) != 9 || f.Steps[1].Point != "p-db" || f.Steps[1].Seconds != 40 {
		t.Errorf("steps %+v", f.Steps)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("testdata/site.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		for _, m := range Modes {
			if _, err := New("r", p, 1, m, "", "", noon); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// The example that operators copy is a plan.
func TestDocumentedPlan(t *testing.T) {
	b, err := os.ReadFile("../../docs/ops/plans.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(b), "```yaml\n")
	example, _, found := strings.Cut(example, "```")
	if p, err := Parse([]byte(example)); err != nil || !found || len(p.Stages) != 2 {
		t.Errorf("docs/ops/plans.md: %v\n%s", err, example)
	}
}
