package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/keeper"
	"github.com/leeward-dr/leeward/streams"
)

// site is the world around a control that dies and comes again: machines that were
// brought up outlive it, as keepers make them. Bus, book and vault are real.
type lifeSite struct {
	*lab
	mu     sync.Mutex
	copies map[string]string // job that runs: point, as the first disk's last block tells
	owner  map[string]string // job: machine
	export bool              // the copy writes into the vault
	dead   bool              // no proof of life
	killed map[string]bool   // where control was killed already
	kill   bool              // kill it at every place once
	tune   func(*Config)     // changes what a process is started with, may be nil

	s    *Service
	gone chan struct{} // closed when s was killed
	n    int           // processes so far
}

// fakeTarget is a target of one process. When that is dead it starts nothing.
type fakeTarget struct {
	site *lifeSite
	n    int
}

func (f *fakeTarget) Name() string                                    { return "fake" }
func (f *fakeTarget) Validate(context.Context, *target.Machine) error { return nil }

func (f *fakeTarget) Start(ctx context.Context, m *target.Machine, dir string) (target.Running, error) {
	w := f.site
	b := make([]byte, 1)
	if _, err := m.Disks[0].ReadAt(b, 7*4096); err != nil {
		return nil, err
	}
	kv, err := w.bus.JS.KeyValue(context.WithoutCancel(ctx), streams.Fences)
	if err == nil {
		_, err = kv.Get(context.WithoutCancel(ctx), m.Name)
	}
	if err != nil {
		w.Errorf("a copy of %s is started and its source is not fenced: %v", m.Name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.n != w.n {
		return nil, errors.New("this process is dead")
	}
	job := filepath.Base(filepath.Dir(dir))
	for other := range w.copies {
		if w.owner[other] == m.Name {
			w.Errorf("a copy of %s is started, and job %s keeps one already", m.Name, other)
		}
	}
	w.copies[job], w.owner[job] = string(b), m.Name
	return &fakeMachine{w, job}, nil
}

type fakeMachine struct {
	site *lifeSite
	job  string
}

func (m *fakeMachine) Probe(context.Context, target.Probe) (*target.Result, error) {
	m.site.mu.Lock()
	defer m.site.mu.Unlock()
	return &target.Result{Alive: !m.site.dead, Boot: time.Second}, nil
}

func (m *fakeMachine) Stop(context.Context) error {
	m.site.mu.Lock()
	defer m.site.mu.Unlock()
	delete(m.site.copies, m.job)
	return nil
}

func (m *fakeMachine) Wait(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func (w *lifeSite) set(b *bool, v bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	*b = v
	return nil
}

// The way home, of which only the order matters here.
func (w *lifeSite) Reprotect(ctx context.Context, h Homeward) error {
	kv, err := w.bus.JS.KeyValue(ctx, streams.Fences)
	if err != nil {
		return err
	}
	e, err := kv.Get(ctx, h.Machine)
	if err != nil {
		return err
	}
	if f, err := streams.DecodeFence(h.Machine, e.Value()); err != nil || f.Holder != h.Holder || h.Holder == "" || h.Job == "" {
		w.Errorf("the copy may not write: fence %+v, %v, homeward %+v", f, err, h)
	}
	return w.set(&w.export, true)
}
func (w *lifeSite) Unprotect(context.Context, Homeward) error { return w.set(&w.export, false) }
func (w *lifeSite) Return(_ context.Context, h Homeward) error {
	if h.Disks["sda"] != "/dev/old" {
		w.Errorf("homeward %+v", h)
	}
	return nil
}
func (w *lifeSite) Stay(context.Context, Homeward) error   { return nil }
func (w *lifeSite) Settle(context.Context, Homeward) error { return w.set(&w.export, false) }

func newLifeSite(t *testing.T) *lifeSite {
	w := &lifeSite{lab: newLab(t), copies: map[string]string{}, owner: map[string]string{}, killed: map[string]bool{}}
	w.vault.Point(t, "p1", "web", "crash", time.Now().Add(-time.Hour))
	w.vault.Point(t, "p2", "web", "crash", time.Now().Add(-time.Minute))
	return w
}

// up starts control, in place of one that was killed or stopped.
func (w *lifeSite) up() {
	w.Helper()
	w.mu.Lock()
	w.n++
	f := &fakeTarget{w, w.n}
	w.mu.Unlock()
	cfg := Default()
	cfg.Dir, cfg.TidyEvery, cfg.Home = w.dir, 0, w
	cfg.targets = func(r failover.Request, _ target.Progress) (target.Target, error) {
		if r.Options.Network != failover.Open && r.ID != "" && strings.HasPrefix(r.ID, "life/") && r.Options.Network != "" {
			w.Errorf("a failover is on the network %q", r.Options.Network)
		}
		return f, nil
	}
	cfg.adopt = func(dir string) (target.Running, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		job := filepath.Base(filepath.Dir(dir))
		if _, ok := w.copies[job]; !ok {
			return nil, keeper.ErrGone
		}
		return &fakeMachine{w, job}, nil
	}
	if w.tune != nil {
		w.tune(&cfg)
	}
	s, err := New(cfg, w.bus, w.vault.Vault, slog.New(slog.NewTextHandler(w.Output(), nil)))
	if err != nil {
		w.Fatal(err)
	}
	w.s, w.gone = s, make(chan struct{})
	gone := w.gone
	s.lives.dies = func(where string, l *life.Life) bool { return w.dies(s, gone, where, l) }
	if err := s.Start(w.Context()); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if !over(gone) {
			if err := s.Stop(context.Background()); err != nil {
				w.Error(err)
			}
		}
	})
	w.eventually("control is ready", func() bool { return over(s.Ready()) || over(gone) })
}

func over(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// dies kills a process once at each place: what it has on disk is what the next one
// finds, and nothing that it does from now on counts.
func (w *lifeSite) dies(s *Service, gone chan struct{}, where string, l *life.Life) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	place := where + " " + string(l.Phase)
	if over(gone) {
		return true
	}
	if !w.kill || w.killed[place] {
		return false
	}
	w.killed[place] = true
	w.n++
	left := filepath.Join(filepath.Dir(w.dir), fmt.Sprint("left-", w.n))
	// The process that dies may be replacing a file just now: then it is copied again.
	err := os.CopyFS(left, os.DirFS(w.dir))
	for n := 0; err != nil && n < 100; n++ {
		if err = os.RemoveAll(left); err == nil {
			err = os.CopyFS(left, os.DirFS(w.dir))
		}
	}
	if err != nil {
		w.Errorf("copy what a killed control leaves: %v", err)
	}
	w.dir = left
	s.cancel()
	close(gone)
	w.Logf("control is killed: %s", place)
	return true
}

// untilGone is a context that ends with the control that runs now, or when patience does.
func (w *lifeSite) untilGone(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	go func(gone chan struct{}) {
		select {
		case <-gone:
			cancel()
		case <-ctx.Done():
		}
	}(w.gone)
	return ctx, cancel
}

// ask asks for a step and goes on, whatever is killed, until the machine is where that
// leads.
func (w *lifeSite) ask(kind life.Kind, r api.LifeRequest, want life.Phase) *life.Life {
	w.Helper()
	r.Machine, r.Confirm = "web", "web"
	was := w.s.lives.get("web")
	from, before := was.Phase, was.Attempt
	var last error
	end := time.Now().Add(2 * patience)
	for time.Now().Before(end) {
		if over(w.gone) {
			w.up()
			continue
		}
		l := w.s.lives.get("web")
		if l.Attempt > before && l.Phase == want {
			return l
		}
		if l.Attempt == before {
			ctx, cancel := w.untilGone(w.as("ann"))
			_, last = w.s.AskLife(ctx, kind, r)
			cancel()
			if last != nil && !over(w.gone) {
				w.Fatalf("%s: %v", kind, last)
			}
			continue
		}
		if !l.Phase.Working() {
			w.Fatalf("%s led from %s to %s: %s", kind, from, l.Phase, l.Error)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-w.gone:
		}
	}
	w.Fatalf("%s leads from %s to %s, not to %s; %v", kind, from, w.s.lives.get("web").Phase, want, last)
	return nil
}

func (w *lifeSite) running() (points string, export bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.copies {
		points += p
	}
	return points, w.export
}

func (w *lifeSite) fenced() string {
	w.Helper()
	kv, err := w.bus.JS.KeyValue(w.Context(), streams.Fences)
	if err != nil {
		w.Fatal(err)
	}
	e, err := kv.Get(w.Context(), "web")
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return ""
	}
	if err != nil {
		w.Fatal(err)
	}
	f, err := streams.DecodeFence("web", e.Value())
	if err != nil {
		w.Fatal(err)
	}
	return "fenced " + f.Holder
}

func order() api.LifeRequest {
	r := api.LifeRequest{}
	r.Target, r.Options = "qemu", failover.Options{Serial: "hello"}
	return r
}

// The whole way out and home, with control killed after everything it keeps and after
// everything it does.
func TestLifeWithControlKilledEverywhere(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.kill = true
	w.up()
	check := func(copies string, export bool, fence string) {
		t.Helper()
		p, e := w.running()
		if f := w.fenced(); p != copies || e != export || f != fence {
			t.Errorf("%s: copies of points %q, exported %v, %q; want %q, %v, %q", w.s.lives.get("web").Phase, p, e, f, copies, export, fence)
		}
	}
	r := order()
	r.Point, r.Shutdown = failover.LatestProcessed, "echo off >>"+filepath.Join(t.TempDir(), "log")
	l := w.ask(life.Start, r, life.FailedOver)
	check("2", false, "fenced ")
	if l.Point != "p2" || l.By != "ann" || l.Generation != 1 {
		t.Errorf("life is %+v", l)
	}
	r.Point = "p1"
	w.ask(life.Change, r, life.FailedOver)
	check("1", false, "fenced ")
	w.ask(life.Commit, r, life.Committed)
	w.ask(life.Reprotect, r, life.Ready)
	check("1", true, "fenced copy-1-web")
	w.ask(life.Cancel, r, life.Committed)
	check("1", false, "fenced ")
	w.ask(life.Reprotect, r, life.Ready)
	r.Home = map[string]string{"sda": "/dev/old"}
	w.ask(life.Failback, r, life.Returned)
	w.ask(life.Cancel, r, life.Ready)
	w.ask(life.Failback, r, life.Returned)
	w.ask(life.Commit, r, life.Protected)
	check("", false, "")
	if l = w.s.lives.get("web"); l.Job != "" || len(l.Past) < 15 {
		t.Errorf("life is %+v", l)
	}
	w.ask(life.Start, order(), life.FailedOver)
	w.ask(life.Cancel, order(), life.Protected)
	check("", false, "")
	w.ask(life.Disable, order(), life.Disabled)
	check("", false, "fenced ")
	w.ask(life.Enable, order(), life.Protected)
	w.ask(life.Start, order(), life.FailedOver)
	w.ask(life.Commit, order(), life.Committed)
	w.ask(life.Complete, order(), life.Migrated)
	check("2", false, "fenced ")
	for _, p := range life.Phases() {
		if p == life.Draining || p == life.Down {
			continue // another test's
		}
		if !w.killed["kept "+string(p)] || p.Working() && !w.killed["done "+string(p)] {
			t.Errorf("control was never killed when a machine was %s: %v", p, w.killed)
		}
	}
}

// A failover that comes to nothing says so, holds the fence, and can be taken on with
// another point or undone. Health, jobs and tests see it.
func TestFailoverThatFails(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.dead = true
	w.up()
	l := w.ask(life.Start, order(), life.Down)
	if l.Job == "" || !strings.Contains(l.Error, "no proof of life") || w.fenced() != "fenced " {
		t.Errorf("life is %+v, fence %q", l, w.fenced())
	}
	m, err := w.s.Machines(t.Context(), api.Query{Machine: "web"})
	if err != nil || m[0].Health != health.Critical || m[0].Issues[0].Code != "failover-failed" || m[0].Life.Phase != life.Down {
		t.Errorf("machine %+v, %v", m, err)
	}
	if _, err := w.s.Cleanup(t.Context(), l.Job); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("the job of a failover was cleaned up: %v", err)
	}
	if err := w.set(&w.dead, false); err != nil {
		t.Fatal(err)
	}
	r := order()
	r.Point = "p1"
	if l = w.ask(life.Change, r, life.FailedOver); l.Point != "p1" {
		t.Errorf("life is %+v", l)
	}
	if use := fmt.Sprint(w.s.pointsInUse()); !strings.Contains(use, "p1") {
		t.Errorf("points in use: %s", use)
	}
	if m, err = w.s.Machines(t.Context(), api.Query{Machine: "web"}); err != nil || m[0].Health != health.NotApplicable || len(m[0].Issues) != 0 {
		t.Errorf("machine %+v, %v", m, err)
	}
	// Its keeper dies: nobody takes that for health.
	w.mu.Lock()
	clear(w.copies)
	w.mu.Unlock()
	if err := w.s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(w.gone)
	w.up()
	if m, err = w.s.Machines(t.Context(), api.Query{Machine: "web"}); err != nil || m[0].Health != health.Critical || m[0].Issues[0].Code != "copy-down" {
		t.Errorf("machine %+v, %v", m, err)
	}
	w.ask(life.Cancel, order(), life.Protected)
	if w.fenced() != "" {
		t.Error("it is protected and fenced")
	}
}

// What cannot be is refused before anything is done, and said by validate too.
func TestLifeRefused(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.vault.Point(t, "q1", "db", "crash", time.Now())
	w.up()
	ask := func(kind life.Kind, change func(*api.LifeRequest)) *api.Error {
		r := order()
		r.Machine, r.Confirm = "web", "web"
		if change != nil {
			change(&r)
		}
		_, err := w.s.AskLife(w.as("ann"), kind, r)
		if err == nil {
			t.Fatalf("%s was not refused", kind)
		}
		return api.AsError(err)
	}
	if _, err := w.s.ChangeGroup(w.as("ann"), api.GroupChange{Group: "shop", Create: true, Add: []string{"web", "db"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the group is known", func() bool { return w.s.rules.Load().group("shop") != nil })
	for name, e := range map[string]struct {
		got  *api.Error
		code api.Code
		want string
	}{
		"not confirmed": {ask(life.Start, func(r *api.LifeRequest) { r.Confirm = "wbe" }), api.CodeRefused, "not confirmed"},
		"no machine":    {ask(life.Start, func(r *api.LifeRequest) { r.Machine = "mail" }), api.CodeNotFound, "mail"},
		"no name":       {ask(life.Start, func(r *api.LifeRequest) { r.Machine = "" }), api.CodeUsage, "machine or a group"},
		"no group":      {ask(life.Start, func(r *api.LifeRequest) { r.Machine, r.Group = "", "front" }), api.CodeNotFound, "front"},
		"no proof":      {ask(life.Start, func(r *api.LifeRequest) { r.Options.Serial = "" }), api.CodeUsage, ""},
		"files":         {ask(life.Start, func(r *api.LifeRequest) { r.Target, r.Options.Out = "disk", "/x" }), api.CodeUsage, "disk"},
		"no common":     {ask(life.Start, func(r *api.LifeRequest) { r.Machine, r.Group, r.Confirm = "", "shop", "shop" }), api.CodeNotFound, "group shop"},
		"too early":     {ask(life.Commit, nil), api.CodeRefused, "protected"},
		"not failed":    {ask(life.Reprotect, nil), api.CodeRefused, "protected"},
	} {
		if e.got.Code != e.code || !strings.Contains(e.got.Message, e.want) {
			t.Errorf("%s: %+v", name, e.got)
		}
	}
	v, err := w.s.ValidateLife(t.Context(), api.LifeRequest{Machine: "web", Order: life.Order{Planned: true, Options: failover.Options{Serial: "x"}}})
	if err != nil || v.Good {
		t.Errorf("a planned failover without an agent is good: %+v, %v", v, err)
	}
	v, err = w.s.ValidateLife(t.Context(), api.LifeRequest{Machine: "web", Order: order().Order})
	if err != nil || !v.Good || len(v.Checks) != 6 {
		t.Errorf("validation %+v, %v", v, err)
	}
	// A planned failover without an agent comes to nothing, and nothing was done.
	r := order()
	r.Planned = true
	r.Machine, r.Confirm = "web", "web"
	if _, err := w.s.AskLife(w.as("ann"), life.Start, r); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is refused", func() bool {
		l := w.s.lives.get("web")
		return l.Phase == life.Protected && strings.Contains(l.Error, "no agent")
	})
	if w.fenced() != "" {
		t.Error("it is fenced")
	}
}

// A plan fails machines over as it tests them, also when control dies in the middle; a
// group's machines go to a point they have in common, and one alone can go, too.
func TestPlanAndGroupFailOver(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.up()
	p := plan.Plan{Schema: plan.Schema, Name: "site", Stages: []plan.Stage{{Name: "all", Machines: []plan.Machine{{Machine: "web", Point: "p1", Serial: "hello"}}}}}
	if _, err := w.s.ApplyPlan(w.as("ann"), p); err != nil {
		t.Fatal(err)
	}
	w.kill = true
	done := func(id, mode string) {
		t.Helper()
		run, err := w.s.RunPlan(w.as("ann"), api.RunRequest{ID: id, Plan: "site", Mode: mode, Confirm: "site"})
		if err != nil {
			t.Fatal(err)
		}
		w.eventually("the plan is done", func() bool {
			if over(w.gone) {
				w.up()
			}
			r, err := w.s.Run(t.Context(), run.ID)
			if err == nil && r.Over() && r.State != plan.RunDone {
				t.Fatalf("the run is %s: %+v", r.State, r.Tasks)
			}
			return err == nil && r.State == plan.RunDone
		})
	}
	done("r1", plan.Failover)
	if l := w.s.lives.get("web"); l.Phase != life.FailedOver || l.Point != "p1" || l.By != "ann" || l.Generation != 1 {
		t.Errorf("life is %+v", l)
	}
	w.kill = false
	if home := w.s.lives.atHome([]string{"db", "web"}); fmt.Sprint(home) != "[db]" {
		t.Errorf("the group's next point is of %v", home)
	}

	// The same plan brings them home, once it says where their disks are.
	if _, err := w.s.RunPlan(w.as("ann"), api.RunRequest{Plan: "site", Mode: plan.Failback}); api.AsError(err).Code != api.CodeUsage {
		t.Errorf("a failback to nowhere: %v", err)
	}
	p.Stages[0].Machines[0].Home = map[string]string{"sda": "/dev/old"}
	if _, err := w.s.ApplyPlan(w.as("ann"), p); err != nil {
		t.Fatal(err)
	}
	if _, err := w.s.RunPlan(w.as("ann"), api.RunRequest{Plan: "site", Mode: plan.Failback, Confirm: "sight"}); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("not confirmed: %v", err)
	}
	early, err := w.s.RunPlan(w.as("ann"), api.RunRequest{ID: "r2", Plan: "site", Mode: plan.Failback, Confirm: "site"})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("a machine that is not committed does not come home", func() bool {
		r, err := w.s.Run(t.Context(), early.ID)
		return err == nil && r.State == plan.RunFailed && strings.Contains(r.Error, "committed")
	})
	w.ask(life.Commit, order(), life.Committed)
	w.kill = true
	done("r3", plan.Failback)
	w.kill = false
	if l := w.s.lives.get("web"); l.Phase != life.Returned {
		t.Errorf("life is %+v", l)
	}
	w.ask(life.Commit, order(), life.Protected)

	if _, err := w.s.ChangeGroup(w.as("ann"), api.GroupChange{Group: "shop", Create: true, Add: []string{"web"}}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the group is known", func() bool { return w.s.rules.Load().group("shop") != nil })
	r := order()
	r.ID, r.Group, r.Confirm, r.Point = "g1", "shop", "shop", failover.LatestProcessed
	first, err := w.s.AskLife(w.as("ann"), life.Start, r)
	if err != nil || len(first) != 1 || first[0].Order.Point != "p2" {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := w.s.AskLife(w.as("ann"), life.Start, r)
	if err != nil || again[0].Generation != first[0].Generation {
		t.Errorf("asked twice: %+v, %v", again, err)
	}
	w.eventually("the group is failed over", func() bool { return w.s.lives.get("web").Phase == life.FailedOver })
	w.ask(life.Cancel, order(), life.Protected)
}

// Whoever disables replication and wants the history gone loses the machine's own points,
// but for pinned ones, and nobody else's.
func TestDisableDropsHistory(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.vault.Point(t, "q1", "db", "crash", time.Now())
	w.up()
	if _, err := w.s.Pin(w.as("ann"), "p1", "keep"); err != nil {
		t.Fatal(err)
	}
	r := order()
	r.DropHistory = true
	w.ask(life.Disable, r, life.Disabled)
	if got := ids(t, w.s, "web") + " " + ids(t, w.s, "db"); got != "p1 q1" {
		t.Errorf("left are %s", got)
	}
	if w.fenced() != "fenced " {
		t.Error("it is not fenced")
	}
	w.ask(life.Enable, order(), life.Protected)
	if w.fenced() != "" {
		t.Error("it is fenced")
	}
}
