package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/streams"
)

// bringer brings a machine up for a run. id is the same when an attempt is repeated
// after a crash of control; it returns what to tell of it.
type bringer func(ctx context.Context, r *plan.Run, m *plan.Machine, ids []string) (string, error)

// runs carries out runs of plans. A run is written to the book after every step and
// before what the step wants is begun.
type runs struct {
	s     *Service
	bring map[string]bringer // by mode

	mu     sync.Mutex
	active map[string]*activeRun
}

type activeRun struct {
	run   *plan.Run
	tasks map[string]context.CancelFunc
}

func newRuns(s *Service) *runs {
	r := &runs{s: s, active: map[string]*activeRun{}}
	r.bring = map[string]bringer{plan.Test: r.bringTest, plan.Failover: r.bringFailover, plan.Failback: r.bringFailback}
	return r
}

// resume goes on with the runs that an earlier process left.
func (r *runs) resume() {
	all, err := book.List[plan.Run](r.s.base, r.s.book, book.Run)
	if err != nil {
		r.s.log.Error("cannot read the runs of plans; those on their way stand still", "err", err)
		return
	}
	for _, e := range all {
		if e.Value.Over() {
			continue
		}
		run := e.Value
		r.mu.Lock()
		r.active[run.ID] = &activeRun{run: &run, tasks: map[string]context.CancelFunc{}}
		r.mu.Unlock()
		r.s.log.Info("run of a plan goes on", "run", run.ID, "plan", run.Plan)
		if _, err := r.step(run.ID, plan.Event{Kind: plan.Begin}); err != nil {
			r.s.log.Error("run of a plan cannot go on", "run", run.ID, "err", err)
		}
	}
}

// begin starts a run.
func (r *runs) begin(run *plan.Run) (*plan.Run, error) {
	r.mu.Lock()
	r.active[run.ID] = &activeRun{run: run, tasks: map[string]context.CancelFunc{}}
	r.mu.Unlock()
	return r.step(run.ID, plan.Event{Kind: plan.Begin})
}

// step takes a run through an event: decide, keep, then do.
func (r *runs) step(id string, e plan.Event) (*plan.Run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.active[id]
	if a == nil {
		return nil, api.Errorf(api.CodeRefused, "leeward plan runs", "run %s is not on its way", id)
	}
	e.At = time.Now().UTC()
	next := clone(a.run)
	effects, err := next.Step(e)
	if err != nil {
		return nil, api.Errorf(api.CodeRefused, "leeward plan status "+id, "%w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.s.base), publishTime)
	defer cancel()
	if _, err := r.s.book.Put(ctx, book.Run, id, next, next.By, book.Any); err != nil {
		// What is not kept is not begun. An attempt that ended is reported again later.
		return nil, fmt.Errorf("keep run %s: %w", id, err)
	}
	a.run = next
	for _, f := range effects {
		if f.End != "" {
			if end := a.tasks[f.End]; end != nil {
				end()
			}
			continue
		}
		r.start(a, f)
	}
	r.changed(next)
	if next.Over() {
		delete(r.active, id)
	}
	return clone(next), nil
}

// changed tells of runs that end or ask.
func (r *runs) changed(run *plan.Run) {
	r.s.log.Info("run of a plan", "run", run.ID, "plan", run.Plan, "state", string(run.State))
}

func clone(r *plan.Run) *plan.Run {
	c := *r
	c.Tasks = slices.Clone(r.Tasks)
	return &c
}

// start does a task in the background. The caller holds the lock.
func (r *runs) start(a *activeRun, f plan.Effect) {
	i := slices.IndexFunc(a.run.Tasks, func(t plan.Task) bool { return t.ID == f.Start })
	t, run := a.run.Tasks[i], clone(a.run)
	ctx, cancel := context.WithCancel(r.s.base)
	if d := t.Timeout(); d > 0 {
		ctx, cancel = context.WithTimeoutCause(r.s.base, d, fmt.Errorf("not done within %v", d))
	}
	a.tasks[t.ID] = cancel
	r.s.wg.Go(func() {
		defer cancel()
		result, err := r.do(ctx, run, &t)
		if r.s.base.Err() != nil {
			return // control stops: whoever comes next begins this attempt again
		}
		e := plan.Event{Kind: plan.Succeed, Task: t.ID, Attempt: f.Attempt, Text: result}
		if err != nil {
			if c := context.Cause(ctx); c != nil {
				err = fmt.Errorf("%w (%v)", c, err)
			}
			e.Kind, e.Text = plan.Fail, err.Error()
		}
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			_, err := r.step(run.ID, e)
			if _, gone := errors.AsType[*api.Error](err); err == nil || gone {
				return
			}
			r.s.log.Error("cannot keep what became of a step; trying again", "run", run.ID, "task", t.ID, "err", err)
			if !r.s.sleep(wait) {
				return
			}
		}
	})
}

func (r *runs) do(ctx context.Context, run *plan.Run, t *plan.Task) (string, error) {
	if t.Machine == nil {
		return perform(ctx, run, t)
	}
	bring := r.bring[run.Mode]
	if bring == nil {
		return "", fmt.Errorf("plans cannot run as %s here", run.Mode)
	}
	var ids []string
	for n := t.Attempts; n > 0; n-- {
		ids = append(ids, fmt.Sprintf("%s/%s/%d", run.ID, t.ID, n))
	}
	return bring(ctx, run, t.Machine, ids)
}

// bringTest brings a machine up by a test failover. An earlier attempt whose machine
// lives, because control died before it could say so, is taken for this one.
func (r *runs) bringTest(ctx context.Context, run *plan.Run, m *plan.Machine, ids []string) (string, error) {
	for _, j := range r.s.engine.Jobs() {
		if slices.Contains(ids, j.Request.ID) && j.State == failover.Alive {
			return "job " + j.ID, nil
		}
	}
	req := failover.Request{
		ID: ids[0], Machine: m.Machine, Point: cmp.Or(m.Point, run.Point), Target: cmp.Or(run.Target.Kind, "qemu"),
		Options: failover.Options{Serial: m.Serial, Port: m.Port, TimeoutSecs: int(time.Duration(m.Timeout).Seconds())},
	}
	if req.Target == "disk" {
		req.Options.Out = run.Target.Out + "/" + m.Machine
	}
	j, err := r.s.Test(ctx, req)
	if err != nil {
		return "", err
	}
	for j.State.Running() {
		if j, err = r.s.engine.Watch(ctx, j.ID, j.Revision); err != nil {
			return "", fmt.Errorf("job %s: %w", j.ID, err)
		}
	}
	if j.State != failover.Alive {
		return "", fmt.Errorf("job %s is %s: %s", j.ID, j.State, j.Error)
	}
	return "job " + j.ID, nil
}

// bringFailover brings a machine up by a failover. One that an earlier attempt began is
// gone on with; one that failed is tried again from its point.
func (r *runs) bringFailover(ctx context.Context, run *plan.Run, m *plan.Machine, ids []string) (string, error) {
	ctx = api.WithActor(ctx, api.Actor{Name: run.By})
	req := api.LifeRequest{Machine: m.Machine, Confirm: m.Machine, Order: life.Order{
		ID: ids[0], Point: cmp.Or(m.Point, run.Point), Target: cmp.Or(run.Target.Kind, "qemu"),
		Options: failover.Options{Serial: m.Serial, Port: m.Port, TimeoutSecs: int(time.Duration(m.Timeout).Seconds())},
	}}
	l, kind := r.s.lives.get(m.Machine), life.Start
	if slices.Contains(ids, l.Order.ID) && l.Phase != life.Protected {
		kind = ""
		if l.Phase == life.Down {
			kind, req.Point = life.Change, l.Point
		}
	}
	if kind != "" {
		if _, err := r.s.AskLife(ctx, kind, req); err != nil {
			return "", err
		}
		l = r.s.lives.get(m.Machine)
	}
	for l.Phase.Working() {
		var err error
		if l, err = r.s.lives.watch(ctx, m.Machine, l.Attempt); err != nil {
			return "", fmt.Errorf("machine %s: %w", m.Machine, err)
		}
	}
	if l.Phase != life.FailedOver && l.Phase != life.Committed {
		return "", fmt.Errorf("machine %s is %s: %s", m.Machine, l.Phase, l.Error)
	}
	return "job " + l.Job, nil
}

// bringFailback brings a machine home, by way of re-protecting it if that is not done. A
// machine that is home already is left; to commit is for people, as after a failover.
func (r *runs) bringFailback(ctx context.Context, run *plan.Run, m *plan.Machine, _ []string) (string, error) {
	ctx = api.WithActor(ctx, api.Actor{Name: run.By})
	asked := map[life.Kind]bool{}
	for {
		l := r.s.lives.get(m.Machine)
		kind := life.Kind("")
		switch {
		case l.Phase.Working():
			if _, err := r.s.lives.watch(ctx, m.Machine, l.Attempt); err != nil {
				return "", fmt.Errorf("machine %s: %w", m.Machine, err)
			}
			continue
		case l.Phase == life.Returned:
			return "home from point " + l.Point, nil
		case l.Phase == life.Committed:
			kind = life.Reprotect
		case l.Phase == life.Ready:
			kind = life.Failback
		}
		if kind == "" || asked[kind] {
			return "", fmt.Errorf("machine %s is %s: %s", m.Machine, l.Phase, cmp.Or(l.Error, "only one that was failed over and committed can come home"))
		}
		asked[kind] = true
		req := api.LifeRequest{Machine: m.Machine, Confirm: m.Machine, Order: life.Order{Home: m.Home}}
		if _, err := r.s.AskLife(ctx, kind, req); err != nil {
			return "", err
		}
	}
}

// Plans implements api.Manager.
func (s *Service) Plans(ctx context.Context, _ api.Query) ([]api.Plan, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	return book.List[plan.Plan](ctx, s.book, book.Plan)
}

// PlanVersions implements api.Manager.
func (s *Service) PlanVersions(ctx context.Context, name string) ([]api.Plan, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := book.Versions[plan.Plan](ctx, s.book, book.Plan, name)
	return all, noPlan(err)
}

func noPlan(err error) error {
	if errors.Is(err, book.ErrNotFound) {
		return api.Errorf(api.CodeNotFound, "leeward plan ls", "%w", err)
	}
	return err
}

// ApplyPlan implements api.Manager.
func (s *Service) ApplyPlan(ctx context.Context, p plan.Plan) (*api.Plan, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	if err := p.Validate(); err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%w", err)
	}
	if _, err := s.book.Put(ctx, book.Plan, p.Name, p, api.ActorOf(ctx).Name, book.Any); err != nil {
		return nil, err
	}
	e, err := book.Get[plan.Plan](ctx, s.book, book.Plan, p.Name)
	return &e, err
}

// DeletePlan implements api.Manager.
func (s *Service) DeletePlan(ctx context.Context, name string) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	return noPlan(s.book.Delete(ctx, book.Plan, name))
}

// newRun makes a run of the newest version of a plan, which is not begun.
func (s *Service) newRun(ctx context.Context, r api.RunRequest) (*plan.Run, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	e, err := book.Get[plan.Plan](ctx, s.book, book.Plan, r.Plan)
	if err != nil {
		return nil, noPlan(err)
	}
	id := r.ID
	if id == "" {
		id = strings.ToLower("run-" + rand.Text()[:10])
	}
	if err := streams.ValidName("request id", id); err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%w", err)
	}
	run, err := plan.New(id, &e.Value, e.Version, cmp.Or(r.Mode, plan.Test), r.Point, api.ActorOf(ctx).Name, time.Now().UTC())
	if err == nil {
		err = e.Value.ReadyFor(run.Mode)
	}
	if err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%w", err)
	}
	return run, nil
}

// Forecast implements api.Manager.
func (s *Service) Forecast(ctx context.Context, r api.RunRequest) (*plan.DryRun, error) {
	run, err := s.newRun(ctx, r)
	if err != nil {
		return nil, err
	}
	boots := map[string]time.Duration{}
	for _, j := range s.engine.Jobs() {
		if j.Result != nil && j.Result.Alive {
			boots[j.Request.Machine] = time.Duration(j.Result.RTOSeconds * float64(time.Second))
		}
	}
	all := s.state.pointsOf("")
	f := plan.Forecast(run, time.Now().UTC(), func(machine, word string) (plan.Chosen, error) {
		id, err := s.named(ctx, machine, word)
		if err != nil {
			return plan.Chosen{}, err
		}
		p, err := failover.Select(all, machine, id)
		if err != nil {
			return plan.Chosen{}, err
		}
		pending, err := s.pendingBytes(ctx, machine)
		return plan.Chosen{Point: p.ID, Time: p.Time, Consistency: p.Consistency, Pending: pending}, err
	}, boots)
	if s.runs.bring[run.Mode] == nil {
		f.Problems = append(f.Problems, fmt.Sprintf("plans cannot run as %s here", run.Mode))
	}
	return f, nil
}

// pendingBytes estimates what of a machine is on the bus and not in the vault.
func (s *Service) pendingBytes(ctx context.Context, machine string) (uint64, error) {
	total := uint64(0)
	for _, d := range s.state.disksOf(machine) {
		_, n, err := s.waitingChanges(ctx, machine, d)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// RunPlan implements api.Manager.
func (s *Service) RunPlan(ctx context.Context, r api.RunRequest) (*plan.Run, error) {
	run, err := s.newRun(ctx, r)
	if err != nil {
		return nil, err
	}
	if s.runs.bring[run.Mode] == nil && slices.ContainsFunc(run.Tasks, func(t plan.Task) bool { return t.Machine != nil }) {
		return nil, api.Errorf(api.CodeRefused, "use --mode test", "plans cannot run as %s here", run.Mode)
	}
	if run.Mode != plan.Test && r.Confirm != r.Plan {
		return nil, api.Errorf(api.CodeRefused, "repeat it with the name "+r.Plan+" as confirmation", "plan %s as %s is not confirmed", r.Plan, run.Mode)
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	if r.ID != "" {
		if old, err := s.Run(ctx, r.ID); err == nil {
			return old, nil
		}
	}
	return s.runs.begin(run)
}

// Runs implements api.Manager.
func (s *Service) Runs(ctx context.Context, q api.Query) ([]plan.Run, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := book.List[plan.Run](ctx, s.book, book.Run)
	if err != nil {
		return nil, err
	}
	out := []plan.Run{}
	for _, e := range all {
		if !e.Value.Started.Before(q.Since) {
			out = append(out, e.Value)
		}
	}
	slices.SortStableFunc(out, func(a, b plan.Run) int { return a.Started.Compare(b.Started) })
	return out, nil
}

// Run implements api.Manager.
func (s *Service) Run(ctx context.Context, id string) (*plan.Run, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	e, err := book.Get[plan.Run](ctx, s.book, book.Run, id)
	if errors.Is(err, book.ErrNotFound) {
		return nil, api.Errorf(api.CodeNotFound, "leeward plan runs", "%w", err)
	}
	return &e.Value, err
}

// Answer implements api.Manager.
func (s *Service) Answer(ctx context.Context, a api.Answer) (*plan.Run, error) {
	run, err := s.Run(ctx, a.Run)
	if err != nil {
		return nil, err
	}
	task := a.Task
	if task == "" {
		var asking []string
		for _, t := range run.Tasks {
			if t.State == plan.Asking {
				asking = append(asking, t.ID)
			}
		}
		if len(asking) > 1 {
			return nil, api.Errorf(api.CodeUsage, "", "run %s asks about %s: say which with --task", a.Run, strings.Join(asking, ", "))
		}
		task = strings.Join(asking, "")
	}
	return s.runs.step(a.Run, plan.Event{Kind: plan.Answered, Task: task, Text: a.Answer, By: api.ActorOf(ctx).Name})
}

// CancelRun implements api.Manager.
func (s *Service) CancelRun(ctx context.Context, id string) (*plan.Run, error) {
	if _, err := s.Run(ctx, id); err != nil {
		return nil, err
	}
	return s.runs.step(id, plan.Event{Kind: plan.Cancel, Text: "cancelled by " + api.ActorOf(ctx).Name})
}
