package control

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
)

// untilReport waits for the newest report of a drill other than not.
func (l *lab) untilReport(s *Service, name, not string) (*drill.Signed, api.Drill) {
	l.Helper()
	var d api.Drill
	l.eventually("drill "+name+" reports", func() bool {
		all, err := s.Drills(l.Context(), api.Query{})
		if err != nil {
			l.Fatal(err)
		}
		i := slices.IndexFunc(all, func(d api.Drill) bool { return d.Drill.Name == name })
		d = all[i]
		return d.State.Run == "" && d.State.Report != "" && d.State.Report != not
	})
	r, err := s.Report(l.Context(), d.State.Report)
	if err != nil {
		l.Fatal(err)
	}
	return r, d
}

// A drill begins by itself, brings its plan's machines up, reports with a signature,
// removes what it left, and does it again; what it finds is not always good.
func TestDrill(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p, dir, _ := l.site(plan.Continue, 0)
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, stop := l.start()
	p.Stages = p.Stages[:1]
	p.Stages[0].After = nil
	if _, err := s.SetDrill(l.as("ann"), drill.Drill{Name: "weekly", Plan: "site", Every: policy.Duration(time.Hour)}); api.AsError(err).Code != api.CodeNotFound {
		t.Errorf("without its plan: %v", err)
	}
	if _, err := s.ApplyPlan(l.as("ann"), p); err != nil {
		t.Fatal(err)
	}
	before, err := s.Machines(t.Context(), api.Query{Machine: "db"})
	if err != nil || len(before) != 1 || !before[0].TestRecommended {
		t.Errorf("a machine that was never tested: %+v, %v", before, err)
	}
	if _, err := s.SetDrill(l.as("ann"), drill.Drill{Name: "weekly", Plan: "site", Every: policy.Duration(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	r, d := l.untilReport(s, "weekly", "")
	if err := r.Verify(r.Key); err != nil || !r.Report.Passed || len(r.Report.Machines) != 1 || r.Report.Machines[0].Point != "p-db" || r.Report.Vault != l.vault.ID() {
		t.Fatalf("report %+v, %v", r, err)
	}
	if !d.State.Passed || d.State.Failed != 0 || d.Next.Sub(d.State.Last) != time.Hour {
		t.Errorf("drill %+v", d)
	}
	for _, j := range s.engine.Jobs() {
		if j.State != failover.Cleaned {
			t.Errorf("job %s was left %s", j.ID, j.State)
		}
	}
	l.eventually("an event tells of it", func() bool {
		all, err := s.Events(t.Context(), api.Query{Kind: kindDrill})
		return err == nil && len(all) == 1 && all[0].Machine == "db" && all[0].Severity == "info"
	})

	// Nobody answers a drill. Control restarts in between: the key that signs is the same.
	p.Stages[0].Before = []plan.Action{{Name: "gate", Ask: "really?"}}
	if _, err := s.ApplyPlan(l.as("ann"), p); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RunDrill(l.as("ann"), "weekly"); err != nil {
		t.Fatal(err)
	}
	stop()
	s, _ = l.start()
	r2, d := l.untilReport(s, "weekly", r.Report.ID)
	if err := r2.Verify(r.Key); err != nil || r2.Report.Passed || !strings.Contains(r2.Report.Why, "nobody to answer") {
		t.Fatalf("report %+v, %v", r2.Report, err)
	}
	if d.State.Passed || d.State.Failed != 1 {
		t.Errorf("drill %+v", d)
	}

	// The plan is gone: that is a report too.
	if err := s.DeletePlan(l.as("ann"), "site"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RunDrill(l.as("ann"), "weekly"); err == nil {
		t.Error("a drill of a plan that is gone began")
	}
	r3, _ := l.untilReport(s, "weekly", r2.Report.ID)
	if r3.Report.Passed || !strings.Contains(r3.Report.Why, "no such document") {
		t.Errorf("report %+v", r3.Report)
	}
	refs, err := s.Reports(t.Context(), api.Query{})
	if err != nil || len(refs) != 3 || !refs[0].Passed || refs[2].Passed {
		t.Errorf("reports %+v, %v", refs, err)
	}
	if err := s.DeleteDrill(l.as("ann"), "weekly"); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Drills(t.Context(), api.Query{}); err != nil || len(all) != 0 {
		t.Errorf("drills %+v, %v", all, err)
	}
}
