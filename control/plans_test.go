package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/plan"
)

// site makes a plan of three stages over real points, its scripts writing to a log.
func (l *lab) site(onError string, retries int) (plan.Plan, string, *httptest.Server) {
	l.Helper()
	dir := l.TempDir()
	log := filepath.Join(dir, "log")
	for _, m := range []string{"db", "web", "mail"} {
		l.vault.Point(l, "p-"+m, m, "crash", time.Now().UTC().Add(-time.Minute))
	}
	calls := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		if calls == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	l.Cleanup(srv.Close)
	say := func(text string) *plan.Script { return &plan.Script{Run: "echo " + text + " $LEEWARD_MODE >>" + log} }
	return plan.Plan{
		Schema: plan.Schema, Name: "site", Target: plan.Target{Kind: "disk", Out: filepath.Join(dir, "out")},
		Stages: []plan.Stage{
			{Name: "data", Before: []plan.Action{{Name: "call", HTTP: &plan.HTTP{URL: srv.URL}, Retries: 1}}, Machines: []plan.Machine{{Machine: "db"}}, After: []plan.Action{{Name: "after data", Script: say("data")}}},
			{Name: "front", Machines: []plan.Machine{{Machine: "web"}}, After: []plan.Action{
				{Name: "bad", Script: &plan.Script{Run: "echo trouble; test -e " + dir + "/fixed"}, OnError: onError, Retries: retries},
				{Name: "never", Script: say("never"), Only: []string{plan.Failover}},
			}},
			{Name: "rest", Before: []plan.Action{{Name: "gate", Ask: "really?"}}, Machines: []plan.Machine{{Machine: "mail"}}, After: []plan.Action{{Name: "end", Script: say("end")}}},
		},
	}, dir, srv
}

func (l *lab) untilRun(s *Service, id string, want plan.RunState) *plan.Run {
	l.Helper()
	var run *plan.Run
	l.eventually(fmt.Sprintf("run %s is %s", id, want), func() bool {
		var err error
		if run, err = s.Run(l.Context(), id); err != nil {
			l.Fatal(err)
		}
		if run.Over() && run.State != want {
			l.Fatalf("run is %s: %s\n%+v", run.State, run.Error, run.Tasks)
		}
		return run.State == want
	})
	return run
}

// Three stages with scripts, a request, a gate, and one script that fails, under each
// rule, on a real vault with machines written to files.
func TestPlanWithEachRule(t *testing.T) {
	t.Parallel()
	for _, rule := range []string{plan.Stop, plan.Continue, plan.Ask} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			p, dir, _ := l.site(rule, 1)
			if err := os.MkdirAll(p.Target.Out, 0o755); err != nil {
				t.Fatal(err)
			}
			s, _ := l.start()
			if _, err := s.ApplyPlan(l.as("ann"), p); err != nil {
				t.Fatal(err)
			}
			f, err := s.Forecast(l.as("ann"), api.RunRequest{Plan: "site", Mode: plan.Test})
			if err != nil || len(f.Problems) != 0 || f.LossSeconds < 60 || f.Gates != 1 || len(f.Steps) != 9 {
				t.Errorf("forecast %+v, %v", f, err)
			}
			run, err := s.RunPlan(l.as("ann"), api.RunRequest{ID: "r1", Plan: "site", Mode: plan.Test})
			if err != nil || run.ID != "r1" || run.By != "ann" {
				t.Fatalf("%+v, %v", run, err)
			}
			if again, err := s.RunPlan(l.as("ann"), api.RunRequest{ID: "r1", Plan: "site", Mode: plan.Test}); err != nil || again.Started != run.Started {
				t.Errorf("asked twice: %+v, %v", again, err)
			}
			switch rule {
			case plan.Stop:
				run = l.untilRun(s, "r1", plan.RunFailed)
				if run.Tasks[4].Attempts != 2 || !strings.Contains(run.Error, "trouble") || run.Tasks[7].State != plan.Skipped {
					t.Errorf("run %+v", run)
				}
				return
			case plan.Ask:
				l.untilRun(s, "r1", plan.RunAsking)
				if _, err := s.Answer(l.as("bob"), api.Answer{Run: "r1", Answer: "maybe"}); api.AsError(err).Code != api.CodeRefused {
					t.Errorf("no answer: %v", err)
				}
				if err := os.WriteFile(filepath.Join(dir, "fixed"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Answer(l.as("bob"), api.Answer{Run: "r1", Answer: "retry"}); err != nil {
					t.Fatal(err)
				}
			}
			l.eventually("the gate asks", func() bool {
				run, err := s.Run(t.Context(), "r1")
				return err == nil && run.Tasks[6].State == plan.Asking
			})
			if _, err := s.Answer(l.as("bob"), api.Answer{Run: "r1", Task: "rest/before/1", Answer: "yes"}); err != nil {
				t.Fatal(err)
			}
			end := plan.RunDone
			if rule == plan.Continue {
				end = plan.RunWarnings
			}
			run = l.untilRun(s, "r1", end)
			if run.Tasks[0].Attempts != 2 || run.Tasks[6].By != "bob" || run.Tasks[5].State != plan.Skipped {
				t.Errorf("run %+v", run)
			}
			log, err := os.ReadFile(filepath.Join(dir, "log"))
			if err != nil || string(log) != "data test\nend test\n" {
				t.Errorf("the scripts wrote %q, %v", log, err)
			}
			for _, m := range []string{"db", "web", "mail"} {
				if _, err := os.Stat(filepath.Join(p.Target.Out, m)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Control dies while a script runs and while a person is asked: the next one goes on.
func TestPlanOutlivesControl(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	dir := t.TempDir()
	s, stop := l.start()
	p := plan.Plan{Schema: plan.Schema, Name: "p", Stages: []plan.Stage{{Name: "one", Before: []plan.Action{
		{Name: "slow", Script: &plan.Script{Run: "echo begun >>" + dir + "/log; test -e " + dir + "/go || sleep 600"}},
		{Name: "gate", Ask: "go on?"},
	}}}}
	if _, err := s.ApplyPlan(l.as("ann"), p); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RunPlan(l.as("ann"), api.RunRequest{ID: "r1", Plan: "p"}); err != nil {
		t.Fatal(err)
	}
	begun := func(n int) func() bool {
		return func() bool {
			b, err := os.ReadFile(dir + "/log")
			return err == nil && strings.Count(string(b), "begun") == n || err != nil && !errors.Is(err, os.ErrNotExist)
		}
	}
	l.eventually("the script runs", begun(1))
	stop()
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, stop = l.start()
	l.eventually("the script runs again", begun(2))
	run := l.untilRun(s, "r1", plan.RunAsking)
	if run.Tasks[0].Attempts != 2 {
		t.Errorf("tasks %+v", run.Tasks)
	}
	stop()
	s, _ = l.start()
	if _, err := s.Answer(l.as("bob"), api.Answer{Run: "r1", Answer: "yes"}); err != nil {
		t.Fatal(err)
	}
	l.untilRun(s, "r1", plan.RunDone)
	if _, err := s.Answer(l.as("bob"), api.Answer{Run: "r1", Answer: "yes"}); err == nil {
		t.Error("an answer to a run that is done")
	}
}

// A script that is cancelled or too slow is ended with everything it started.
func TestScriptsAreEnded(t *testing.T) {
	t.Parallel()
	run := &plan.Run{ID: "r", Plan: "p", Mode: plan.Test}
	dir := t.TempDir()
	task := &plan.Task{Stage: "s", Action: &plan.Action{Script: &plan.Script{Run: "(sleep 600; echo >" + dir + "/late) & echo begun; echo now >" + dir + "/begun; wait"}}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	defer whenThere(filepath.Join(dir, "begun"), cancel)()
	began := time.Now()
	out, err := perform(ctx, run, task)
	if err == nil || !strings.Contains(err.Error(), "begun") || time.Since(began) > 2*patience { // of ten minutes
		t.Errorf("%q, %v after %v", out, err, time.Since(began))
	}
	task.Action.Script.Run = "head -c 100000 /dev/zero | tr '\\0' x; echo end"
	if out, err = perform(t.Context(), run, task); err != nil || len(out) > 2*maxOutput || !strings.HasSuffix(out, "end") {
		t.Errorf("%d bytes kept, %v", len(out), err)
	}
}
