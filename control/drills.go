package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/streams/wire"
)

const (
	kindDrill   = "drill" // of the event that tells how a drill ended
	keepReports = 60      // of each drill
	drillKey    = "drill.key"
	maxPicture  = 8 << 20 // bytes of a picture that is read at all
)

// drillLoop carries out drills that are due, until control stops. Everything it does can
// be repeated: a drill's state names its run before the run is begun, and a report has
// the run's name.
func (s *Service) drillLoop() {
	for s.sleep(s.cfg.DrillEvery) {
		all, err := book.List[drill.Drill](s.base, s.book, book.Drill)
		if err != nil {
			s.log.Error("cannot read the drills", "err", err)
			continue
		}
		for _, e := range all {
			if err := s.drillStep(s.base, &e, time.Now()); err != nil && s.base.Err() == nil {
				s.log.Error("a drill cannot go on; trying again", "drill", e.Name, "err", err)
			}
		}
	}
}

func (s *Service) drillState(ctx context.Context, name string) (drill.State, uint64, error) {
	e, err := book.Get[drill.State](ctx, s.book, book.Drilled, name)
	if errors.Is(err, book.ErrNotFound) {
		return drill.State{}, book.New, nil
	}
	return e.Value, e.Version, err
}

// drillStep takes a drill one step further.
func (s *Service) drillStep(ctx context.Context, e *book.Entry[drill.Drill], now time.Time) error {
	st, seen, err := s.drillState(ctx, e.Name)
	if err != nil {
		return err
	}
	d := &e.Value
	if st.Run == "" {
		if d.Paused || now.Before(d.Next(st.Last, e.Changed, time.Local)) {
			return nil
		}
		return s.drillBegin(ctx, d, st, seen, now)
	}
	run, err := s.Run(ctx, st.Run)
	if err != nil && api.AsError(err).Code == api.CodeNotFound {
		return s.drillRefused(ctx, d, st, seen, now)
	}
	if err != nil {
		return err
	}
	switch {
	case run.State == plan.RunAsking:
		_, err := s.runs.step(run.ID, plan.Event{Kind: plan.Cancel, Text: "a drill has nobody to answer: let the question be asked only in a failover (only: [failover])"})
		return err
	case !run.Over():
		return nil
	}
	return s.drillEnd(ctx, d, st, seen, run)
}

// drillBegin begins a run. The state is kept first.
func (s *Service) drillBegin(ctx context.Context, d *drill.Drill, st drill.State, seen uint64, now time.Time) error {
	st.Run = strings.ToLower(fmt.Sprintf("drill-%s-%s", now.UTC().Format("20060102-150405"), rand.Text()[:6]))
	st.Last = now.UTC()
	if _, err := s.book.Put(ctx, book.Drilled, d.Name, st, "drill", seen); err != nil {
		return err
	}
	s.log.Info("drill begins", "drill", d.Name, "plan", d.Plan, "run", st.Run)
	_, err := s.RunPlan(api.WithActor(ctx, api.Actor{Name: "drill " + d.Name}), api.RunRequest{ID: st.Run, Plan: d.Plan, Mode: plan.Test})
	return err
}

// drillRefused begins a run that a crash of control kept from beginning, and reports one
// that cannot begin.
func (s *Service) drillRefused(ctx context.Context, d *drill.Drill, st drill.State, seen uint64, now time.Time) error {
	_, err := s.RunPlan(api.WithActor(ctx, api.Actor{Name: "drill " + d.Name}), api.RunRequest{ID: st.Run, Plan: d.Plan, Mode: plan.Test})
	if err == nil || api.AsError(err).Code == api.CodeFailed {
		return err // it began, or may begin in a moment
	}
	run := &plan.Run{ID: st.Run, Plan: d.Plan, Mode: plan.Test, State: plan.RunFailed, Error: err.Error(), Started: st.Last, Ended: now.UTC()}
	return s.drillEnd(ctx, d, st, seen, run)
}

// drillEnd reports, removes what the drill left, and tells.
func (s *Service) drillEnd(ctx context.Context, d *drill.Drill, st drill.State, seen uint64, run *plan.Run) error {
	var jobs []failover.Job
	for _, j := range s.engine.Jobs() {
		if strings.HasPrefix(j.Request.ID, run.ID+"/") {
			jobs = append(jobs, j)
		}
	}
	signed, err := s.report(ctx, d, run, jobs)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.State == failover.Cleaned {
			continue
		}
		if _, err := s.engine.Cleanup(ctx, j.ID); err != nil && !errors.Is(err, failover.ErrNoJob) {
			return fmt.Errorf("clean up after drill %s: %w", d.Name, err)
		}
	}
	st.Report, st.Passed, st.Run = run.ID, signed.Report.Passed, ""
	if st.Failed++; st.Passed {
		st.Failed = 0
	}
	if _, err := s.book.Put(ctx, book.Drilled, d.Name, st, "drill", seen); err != nil {
		return err
	}
	s.tellDrill(d, &signed.Report)
	return s.dropReports(ctx, d.Name)
}

// report returns the report of a run, made and kept by an earlier try or now.
func (s *Service) report(ctx context.Context, d *drill.Drill, run *plan.Run, jobs []failover.Job) (*drill.Signed, error) {
	e, err := book.Get[drill.Signed](ctx, s.book, book.Report, run.ID)
	if err == nil {
		return &e.Value, nil
	}
	if !errors.Is(err, book.ErrNotFound) {
		return nil, err
	}
	r := drill.NewReport(d, run, jobs, s.picture)
	r.Vault, r.Version = s.vault.ID(), s.cfg.Version
	key, err := s.signingKey()
	if err != nil {
		return nil, err
	}
	signed, err := drill.Sign(key, r)
	if err != nil {
		return nil, err
	}
	_, err = s.book.Put(ctx, book.Report, run.ID, signed, "drill", book.New)
	return signed, err
}

// picture reads the screen of a job.
func (s *Service) picture(j *failover.Job) []byte {
	if j.Result == nil || j.Result.Screen == "" {
		return nil
	}
	st, err := os.Stat(j.Result.Screen)
	if err == nil && st.Size() > maxPicture {
		err = fmt.Errorf("it has %d bytes", st.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(j.Result.Screen)
	}
	if err != nil {
		s.log.Warn("the report of a drill lacks a picture", "job", j.ID, "err", err)
	}
	return b
}

// signingKey reads the key that signs reports, and makes it at the first need.
func (s *Service) signingKey() (ed25519.PrivateKey, error) {
	name := filepath.Join(s.cfg.Dir, drillKey)
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		seed := make([]byte, ed25519.SeedSize)
		rand.Read(seed) // never fails
		b = []byte(hex.EncodeToString(seed) + "\n")
		err = failover.Replace(name, b)
	}
	if err != nil {
		return nil, fmt.Errorf("the key that signs reports of drills: %w", err)
	}
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is damaged: put the right one back, or remove it and reports are signed with a new key", name)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// tellDrill tells of a drill, at each machine of it.
func (s *Service) tellDrill(d *drill.Drill, r *drill.Report) {
	verdict, severity := "passed", wire.Info
	if !r.Passed {
		verdict, severity = "did not pass: "+r.Why, wire.Warning
	}
	s.log.Info("drill ended", "drill", d.Name, "report", r.ID, "passed", r.Passed, "why", r.Why)
	for _, m := range r.Machines {
		what := fmt.Sprintf("drill %s %s", d.Name, verdict)
		s.publish(s.base, fmt.Sprintf("drill-%s-%s", r.ID, m.Machine), &wire.Event{
			Time: r.Ended.UnixNano(), Machine: m.Machine, Kind: kindDrill, Severity: severity,
			What: what[:min(len(what), wire.MaxText)], Try: "leeward drill report " + r.ID,
		})
	}
}

// reports lists the reports of a drill, or all if name is empty, the oldest first.
func (s *Service) reports(ctx context.Context, name string) ([]drill.Signed, error) {
	all, err := book.List[drill.Signed](ctx, s.book, book.Report)
	if err != nil {
		return nil, err
	}
	out := []drill.Signed{}
	for _, e := range all {
		if name == "" || e.Value.Report.Drill == name {
			out = append(out, e.Value)
		}
	}
	slices.SortStableFunc(out, func(a, b drill.Signed) int { return a.Report.Started.Compare(b.Report.Started) })
	return out, nil
}

func (s *Service) dropReports(ctx context.Context, name string) error {
	all, err := s.reports(ctx, name)
	if err != nil {
		return err
	}
	for _, r := range all[:max(0, len(all)-keepReports)] {
		if err := s.book.Delete(ctx, book.Report, r.Report.ID); err != nil && !errors.Is(err, book.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Drills implements api.Manager.
func (s *Service) Drills(ctx context.Context, _ api.Query) ([]api.Drill, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := book.List[drill.Drill](ctx, s.book, book.Drill)
	if err != nil {
		return nil, err
	}
	out := []api.Drill{}
	for _, e := range all {
		st, _, err := s.drillState(ctx, e.Name)
		if err != nil {
			return nil, err
		}
		d := api.Drill{Drill: e.Value, State: st, Changed: e.Changed, By: e.By}
		if !e.Value.Paused {
			d.Next = e.Value.Next(st.Last, e.Changed, time.Local).UTC()
		}
		out = append(out, d)
	}
	return out, nil
}

// SetDrill implements api.Manager.
func (s *Service) SetDrill(ctx context.Context, d drill.Drill) (*api.Drill, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	if err := d.Validate(); err != nil {
		return nil, api.Errorf(api.CodeUsage, "", "%w", err)
	}
	if _, err := book.Get[plan.Plan](ctx, s.book, book.Plan, d.Plan); err != nil {
		return nil, noPlan(err)
	}
	if _, err := s.book.Put(ctx, book.Drill, d.Name, d, api.ActorOf(ctx).Name, book.Any); err != nil {
		return nil, err
	}
	return s.drillOf(ctx, d.Name)
}

func (s *Service) drillOf(ctx context.Context, name string) (*api.Drill, error) {
	all, err := s.Drills(ctx, api.Query{})
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Drill.Name == name {
			return &d, nil
		}
	}
	return nil, api.Errorf(api.CodeNotFound, "leeward drill ls", "there is no drill %s", name)
}

// DeleteDrill implements api.Manager. Reports stay.
func (s *Service) DeleteDrill(ctx context.Context, name string) error {
	d, err := s.drillOf(ctx, name)
	if err != nil {
		return err
	}
	if d.State.Run != "" {
		return api.Errorf(api.CodeRefused, "leeward plan cancel "+d.State.Run, "drill %s is on its way", name)
	}
	if err := s.book.Delete(ctx, book.Drilled, name); err != nil && !errors.Is(err, book.ErrNotFound) {
		return err
	}
	return s.book.Delete(ctx, book.Drill, name)
}

// RunDrill implements api.Manager.
func (s *Service) RunDrill(ctx context.Context, name string) (*api.Drill, error) {
	d, err := s.drillOf(ctx, name)
	if err != nil {
		return nil, err
	}
	if d.State.Run == "" {
		st, seen, err := s.drillState(ctx, name)
		if err != nil {
			return nil, err
		}
		if err := s.drillBegin(ctx, &d.Drill, st, seen, time.Now()); err != nil {
			return nil, err
		}
	}
	return s.drillOf(ctx, name)
}

// Reports implements api.Manager: without pictures.
func (s *Service) Reports(ctx context.Context, q api.Query) ([]api.ReportRef, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all, err := s.reports(ctx, "")
	if err != nil {
		return nil, err
	}
	out := []api.ReportRef{}
	for _, r := range all {
		x := r.Report
		if x.Started.Before(q.Since) {
			continue
		}
		ref := api.ReportRef{ID: x.ID, Drill: x.Drill, Plan: x.Plan, Started: x.Started, Ended: x.Ended, Passed: x.Passed, Why: x.Why, Machines: len(x.Machines)}
		for _, m := range x.Machines {
			if m.Alive {
				ref.Alive++
			}
		}
		out = append(out, ref)
	}
	return out, nil
}

// Report implements api.Manager.
func (s *Service) Report(ctx context.Context, id string) (*drill.Signed, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	e, err := book.Get[drill.Signed](ctx, s.book, book.Report, id)
	if errors.Is(err, book.ErrNotFound) {
		return nil, api.Errorf(api.CodeNotFound, "leeward drill reports", "%w", err)
	}
	return &e.Value, err
}
