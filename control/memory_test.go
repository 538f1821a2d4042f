package control

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// remembered waits until the vault has a record.
func (l *lab) remembered(kind, name string, gone bool) {
	l.Helper()
	l.eventually("the vault has "+kind+" "+name, func() bool {
		all, bad, err := l.vault.Records(l.Context())
		if err != nil || len(bad) > 0 {
			l.Fatal(err, bad)
		}
		return slices.ContainsFunc(all, func(r vault.Record) bool { return r.Kind == kind && r.Name == name && r.Gone == gone })
	})
}

// With the bus and control's directory lost, what operators decided and the history of
// jobs and runs come back from the vault; what they had removed does not.
func TestAllButTheVaultIsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vault.Point(t, "p1", "web", "crash", time.Now())
	s, stop := l.start()
	d, err := policy.Parse([]byte("schema: leeward.policies.v1\npolicies: [{name: gold, machines: [m], point_interval: 1s}, {name: tin, machines: [n]}]\ngroups: [{name: shop, members: [a, b]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(l.as("ann"), *d); err != nil {
		t.Fatal(err)
	}
	asks := plan.Plan{Schema: plan.Schema, Name: "asks", Stages: []plan.Stage{{Name: "one", Before: []plan.Action{{Name: "gate", Ask: "go on?"}}}}}
	if _, err := s.ApplyPlan(l.as("ann"), asks); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RunPlan(l.as("ann"), api.RunRequest{ID: "r1", Plan: "asks"}); err != nil {
		t.Fatal(err)
	}
	l.untilRun(s, "r1", plan.RunAsking)
	job, err := s.Test(l.as("ann"), failover.Request{Machine: "web", Target: "disk", Options: failover.Options{Out: filepath.Join(t.TempDir(), "out")}})
	if err != nil {
		t.Fatal(err)
	}
	for job.State.Running() {
		if job, err = s.WatchJob(t.Context(), job.ID, job.Revision); err != nil {
			t.Fatal(err)
		}
	}
	fence := streams.Fence{Machine: "web", Generation: 3, Why: "failed over"}
	for _, f := range []streams.Fence{fence, {Machine: "old", Generation: 1, Why: "failed over"}} {
		if err := s.lives.setFence(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	l.remembered("fence", "old", false)
	if err := s.lives.dropFence(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	l.remembered("policy", "tin", false)
	if err := s.DeletePolicy(l.as("ann"), "tin"); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]string{{"policy", "gold"}, {"group", "shop"}, {"plan", "asks"}, {"fence", "web"}, {"run", "r1"}, {"job", job.ID}} {
		l.remembered(r[0], r[1], false)
	}
	l.remembered("policy", "tin", true)
	l.remembered("fence", "old", true)
	stop()

	l.bus = streamstest.Start(t)
	if err := os.RemoveAll(l.dir); err != nil {
		t.Fatal(err)
	}
	s, stop = l.start()
	policies, err := s.Policies(t.Context(), api.Query{})
	if err != nil || len(policies) != 2 || policies[1].Name != "gold" || policies[1].Value.PointInterval != policy.MinInterval || policies[1].By != "ann" {
		t.Errorf("policies %+v, %v", policies, err)
	}
	if g, err := s.Group(t.Context(), "shop"); err != nil || len(g.Members) != 2 {
		t.Errorf("group %+v, %v", g, err)
	}
	if p, err := s.Plans(t.Context(), api.Query{}); err != nil || len(p) != 1 || p[0].Value.Stages[0].Before[0].Ask != "go on?" {
		t.Errorf("plans %+v, %v", p, err)
	}
	// A machine that was failed over may still not write at home.
	if f := s.lives.fenceOf("web"); f == nil || f.Generation != 3 {
		t.Errorf("fence %+v", f)
	}
	if f := s.lives.fenceOf("old"); f != nil {
		t.Errorf("a fence that was taken away is back: %+v", f)
	}
	// A run on its way is not begun again: nobody knows what it did last.
	if r, err := s.Run(t.Context(), "r1"); err != nil || r.State != plan.RunFailed || r.Error == "" {
		t.Errorf("run %+v, %v", r, err)
	}
	if j, err := s.Job(t.Context(), job.ID); err != nil || j.State != failover.Cleaned || j.Error == "" || j.Point != "p1" {
		t.Errorf("job %+v, %v", j, err)
	}
	if all, err := s.Machines(t.Context(), api.Query{}); err != nil || len(all) == 0 {
		t.Errorf("machines %+v, %v", all, err)
	}
	stop()

	// A second start with nothing lost brings nothing back, and writes nothing anew.
	before, _, err := l.vault.Records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, _ = l.start()
	if err := s.rememberOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, _, err := l.vault.Records(t.Context())
	if err != nil || len(after) != len(before) {
		t.Fatalf("%d records, then %d, %v", len(before), len(after), err)
	}
	for i := range after {
		if after[i].Version > before[i].Version+1 { // the states of the run and the job changed once, by the loss
			t.Errorf("%s %s is at version %d, was at %d", after[i].Kind, after[i].Name, after[i].Version, before[i].Version)
		}
	}
}

// Where another control wrote a version meanwhile, the book's document is the next one.
func TestTwoRemember(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	other := newMemory() // of a control that was replaced and does not know it
	first := vault.Record{Kind: "policy", Name: "gold", Value: []byte(`{"name":"old"}`)}
	for _, r := range other.missing([]vault.Record{first}) {
		if err := l.vault.PutRecord(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
	}
	l.policy(s, func(p *policy.Policy) { p.Name, p.Machines = "gold", []string{"m"} })
	l.eventually("the newer one counts", func() bool {
		all, _, err := l.vault.Records(t.Context())
		return err == nil && len(all) > 0 && slices.ContainsFunc(all, func(r vault.Record) bool {
			return r.Name == "gold" && r.Version == 2 && string(r.Value) != string(first.Value)
		})
	})
}
