package control

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/api/apitest"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/notify"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// served is a client of a service over a real bus, with everything that passes held
// against the schemas.
func (l *lab) served(s *Service) (*api.Client, *apitest.Watch) {
	l.Helper()
	srv, err := api.Serve(l.bus.Conn, s, "1.0.0", s.log)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := srv.Stop(context.Background()); err != nil {
			l.Error(err)
		}
	})
	w := apitest.Start(l.T, l.bus.Conn)
	c := api.NewClient(l.bus.Conn)
	c.Actor = "ann"
	return c, w
}

// got is a value that must be there.
func got[T any](v T, err error) func(l *lab, what string) T {
	return func(l *lab, what string) T {
		l.Helper()
		if err != nil {
			l.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

// What this control answers is as its schemas say: every endpoint is asked, over the bus,
// and most have something to tell.
func TestAnswersAreAsTheirSchemas(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	p, dir, hook := l.site(plan.Continue, 0)
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, _ := l.start()
	c, w := l.served(s)
	ctx := t.Context()
	l.event("resync", wire.Warning)
	l.eventually("the event is heard", func() bool {
		all, err := c.Events(ctx, api.Query{Machine: "web"})
		return err == nil && len(all) > 0
	})

	got(c.Status(ctx))(l, "status")
	got(c.Machines(ctx, api.Query{}))(l, "machines")
	got(c.Machine(ctx, "web"))(l, "machine")
	got(c.Point(ctx, "p-web"))(l, "point")
	got(c.Pin(ctx, "p-web", "before the move"))(l, "pin")
	got(c.Points(ctx, api.Query{}))(l, "points")
	got(c.Unpin(ctx, "p-web"))(l, "unpin")
	got(c.Trace(ctx, "p-web"))(l, "trace")
	got(c.Vault(ctx))(l, "vault")
	got(c.Streams(ctx))(l, "streams")
	got(c.History(ctx, "web"))(l, "history")
	got(c.Processes(ctx))(l, "process servers")
	got(c.Contracts(ctx))(l, "contracts")
	got(c.Contract(ctx, "machine.ls"))(l, "contract")

	got(c.ChangeGroup(ctx, api.GroupChange{Group: "shop", Create: true, Add: []string{"web", "db"}}))(l, "new group")
	got(c.Groups(ctx))(l, "groups")
	got(c.Group(ctx, "shop"))(l, "group")
	fast := policy.New("fast")
	fast.Groups, fast.Throttle = []string{"shop"}, []policy.Window{{Days: "mon-fri", From: "08:00", To: "18:00", Rate: 1 << 20}}
	got(c.ApplyPolicies(ctx, policy.Document{Policies: []policy.Policy{fast}}))(l, "apply policies")
	got(c.Policies(ctx))(l, "policies")
	got(c.Policy(ctx, "fast"))(l, "policy")
	for _, err := range []error{c.DeletePolicy(ctx, "fast"), c.DeleteGroup(ctx, "shop")} {
		if err != nil {
			t.Error(err)
		}
	}

	j := got(c.Test(ctx, failover.Request{Machine: "web", Target: "disk", Options: failover.Options{Out: filepath.Join(dir, "one.img")}}))(l, "test")
	for j.State.Running() {
		j = got(c.WatchJob(ctx, j.ID, j.Revision))(l, "job")
	}
	if _, err := c.Note(ctx, j.ID, strings.Repeat("x", failover.MaxNotes+1)); api.AsError(err).Code != api.CodeUsage {
		t.Errorf("a note that is too long: %v", err)
	}
	got(c.Note(ctx, j.ID, "the database wanted its licence"))(l, "note")
	if e := got(c.Evidence(ctx, api.EvidenceRequest{Job: j.ID, Screen: true}))(l, "evidence"); e.Job != j.ID {
		t.Errorf("the evidence is of %s", e.Job)
	}
	if j = got(c.Cleanup(ctx, j.ID))(l, "cleanup"); j.Notes != "the database wanted its licence" {
		t.Errorf("what was noted is %q", j.Notes)
	}
	if j = got(c.Job(ctx, j.ID))(l, "job"); j.State != failover.Cleaned || j.Notes == "" {
		t.Errorf("the history is %+v", j)
	}
	if _, err := c.Note(ctx, j.ID, "late"); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("noted after the cleanup: %v", err)
	}
	got(c.Jobs(ctx, api.Query{}))(l, "jobs")

	got(c.ApplyPlan(ctx, p))(l, "apply plan")
	got(c.Plans(ctx))(l, "plans")
	got(c.PlanVersions(ctx, "site"))(l, "versions")
	got(c.Forecast(ctx, api.RunRequest{Plan: "site", Mode: plan.Test}))(l, "forecast")
	run := got(c.RunPlan(ctx, api.RunRequest{Plan: "site", Mode: plan.Test}))(l, "run")
	l.eventually("the run asks", func() bool { return got(c.Run(ctx, run.ID))(l, "run").State == plan.RunAsking })
	got(c.Answer(ctx, api.Answer{Run: run.ID, Answer: "yes"}))(l, "answer")
	got(c.Runs(ctx))(l, "runs")
	got(c.CancelRun(ctx, got(c.RunPlan(ctx, api.RunRequest{Plan: "site", Mode: plan.Test}))(l, "another run").ID))(l, "cancel run")

	got(c.SetDrill(ctx, drill.Drill{Name: "weekly", Plan: "site", Every: policy.Duration(time.Hour)}))(l, "set drill")
	got(c.RunDrill(ctx, "weekly"))(l, "run drill")
	l.eventually("the drill reports", func() bool { return len(got(c.Reports(ctx))(l, "reports")) > 0 })
	got(c.Report(ctx, got(c.Reports(ctx))(l, "reports")[0].ID))(l, "report")
	got(c.Drills(ctx))(l, "drills")
	l.eventually("the drill is over", func() bool { return c.DeleteDrill(ctx, "weekly") == nil })
	for _, err := range []error{c.DeletePlan(ctx, "site"), c.SetNotifications(ctx, notify.Config{Level: "critical", Webhooks: []notify.Webhook{{URL: hook.URL}}})} {
		if err != nil {
			t.Error(err)
		}
	}
	got(c.Notifications(ctx))(l, "notifications")
	got(c.TestNotifications(ctx))(l, "test notifications")
	got(c.Records(ctx, api.Query{}))(l, "audit")
	l.lifts(s, c)
	// Those of a machine's life are in the test below, those of enrolment and of people in tests of the appliance.
	w.Want(func(name string) bool {
		noun, _, _ := strings.Cut(name, ".")
		return !ofLives(name) && !slices.Contains([]string{"token", "agent", "session", "user"}, noun)
	})
}

// ofLives reports whether an endpoint is of a machine's life.
func ofLives(name string) bool {
	return name == "machine.enable" || name == "machine.disable" || strings.HasPrefix(name, "failover.") &&
		!strings.HasPrefix(name, "failover.test") && !strings.HasPrefix(name, "failover.cleanup")
}

// lifts takes a fence away that nothing needs, and only such a one.
func (l *lab) lifts(s *Service, c *api.Client) {
	l.Helper()
	if err := s.lives.setFence(l.Context(), streams.Fence{Machine: "web", Generation: 7, Since: time.Now(), Why: "left over"}); err != nil {
		l.Fatal(err)
	}
	all := got(c.Fences(l.Context()))(l, "fences")
	if len(all) != 1 || all[0].Why != "left over" || all[0].Needed || all[0].Phase != life.Protected {
		l.Errorf("fences: %+v", all)
	}
	if _, err := c.LiftFence(l.Context(), api.FenceRequest{Machine: "web", Confirm: "db"}); api.AsError(err).Code != api.CodeRefused {
		l.Errorf("not confirmed: %v", err)
	}
	got(c.LiftFence(l.Context(), api.FenceRequest{Machine: "web", Confirm: "web"}))(l, "lift")
	if _, err := c.LiftFence(l.Context(), api.FenceRequest{Machine: "web", Confirm: "web"}); api.AsError(err).Code != api.CodeNotFound {
		l.Errorf("twice: %v", err)
	}
	kv, err := l.bus.JS.KeyValue(l.Context(), streams.Fences)
	if err != nil {
		l.Fatal(err)
	}
	if _, err := kv.Get(l.Context(), "web"); err == nil {
		l.Error("the fence stands in the bucket")
	}
}

// The same for a machine's life.
func TestLifeIsAsItsSchema(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.up()
	c, watch := w.served(w.s)
	ctx := t.Context()
	ask := func(kind life.Kind, r api.LifeRequest, want life.Phase) {
		t.Helper()
		r.Machine, r.Confirm = "web", "web"
		l := got(c.AskLife(ctx, kind, r))(w.lab, string(kind))[0]
		for l.Phase.Working() {
			l = *got(c.WatchLife(ctx, "web", l.Attempt))(w.lab, string(kind))
		}
		if l.Phase != want {
			t.Fatalf("%s leads to %s, not to %s: %s", kind, l.Phase, want, l.Error)
		}
	}
	r := order()
	r.Machine, r.Shutdown = "web", "true"
	if v := got(c.ValidateLife(ctx, r))(w.lab, "validate"); len(v.Checks) == 0 {
		t.Errorf("%+v", v)
	}
	ask(life.Start, r, life.FailedOver)
	if all := got(c.Fences(ctx))(w.lab, "fences"); len(all) != 1 || !all[0].Needed {
		t.Errorf("fences: %+v", all)
	}
	if _, err := c.LiftFence(ctx, api.FenceRequest{Machine: "web", Confirm: "web"}); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("a fence that is needed: %v", err)
	}
	r.Shutdown, r.Point = "", "p1"
	ask(life.Change, r, life.FailedOver)
	got(c.Jobs(ctx, api.Query{}))(w.lab, "jobs")
	ask(life.Commit, r, life.Committed)
	ask(life.Reprotect, r, life.Ready)
	got(c.Machines(ctx, api.Query{}))(w.lab, "machines")
	r.Home = map[string]string{"sda": "/dev/old"}
	ask(life.Failback, r, life.Returned)
	ask(life.Commit, r, life.Protected)
	ask(life.Start, r, life.FailedOver)
	ask(life.Cancel, r, life.Protected)
	ask(life.Disable, r, life.Disabled)
	ask(life.Enable, r, life.Protected)
	ask(life.Start, r, life.FailedOver)
	ask(life.Commit, r, life.Committed)
	ask(life.Complete, r, life.Migrated)
	got(c.Lives(ctx, api.Query{}))(w.lab, "lives")
	watch.Want(ofLives)
}
