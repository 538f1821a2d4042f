package web

import (
	"cmp"
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/control/policy"
)

func (w *Web) planRoutes(m *http.ServeMux) {
	w.show(m, "/plans", w.plans)
	w.show(m, "/plans/{name}", w.plan)
	w.show(m, "/plan-editor", w.planEditor)
	w.do(m, "/plan-editor", "plan.apply", w.applyPlan)
	w.show(m, "/plans/{name}/run", w.planRun)
	w.do(m, "/plans/{name}/run", "plan.run", w.runPlan)
	w.do(m, "/plans/{name}/delete", "plan.delete", func(a *ask) (string, error) {
		return "/plans?did=plan-rm", a.DeletePlan(a, a.r.PathValue("name"))
	})
	w.show(m, "/runs/{id}", w.run)
	w.do(m, "/runs/{id}/answer", "run.answer", func(a *ask) (string, error) {
		id := a.r.PathValue("id")
		_, err := a.Answer(a, api.Answer{Run: id, Task: a.r.PostForm.Get("task"), Answer: a.r.PostForm.Get("answer")})
		return "/runs/" + url.PathEscape(id) + "?did=answer", err
	})
	w.do(m, "/runs/{id}/cancel", "run.cancel", func(a *ask) (string, error) {
		id := a.r.PathValue("id")
		_, err := a.CancelRun(a, id)
		return "/runs/" + url.PathEscape(id) + "?did=cancel", err
	})
	w.do(m, "/drills", "drill.set", w.setDrill)
	w.do(m, "/drills/{name}/run", "drill.run", func(a *ask) (string, error) {
		d, err := a.RunDrill(a, a.r.PathValue("name"))
		if err != nil {
			return "", err
		}
		if d.State.Run != "" {
			return "/runs/" + url.PathEscape(d.State.Run), nil
		}
		return "/plans", nil
	})
	w.do(m, "/drills/{name}/delete", "drill.delete", func(a *ask) (string, error) {
		return "/plans?did=drill-rm", a.DeleteDrill(a, a.r.PathValue("name"))
	})
	w.show(m, "/reports/{id}", w.report)
	m.HandleFunc("GET /reports/{id}/{machine}/screen", w.screen)
	m.HandleFunc("GET /reports/{id}/signed", w.signed)
}

// plansPage is plans, their runs, drills and reports.
type plansPage struct {
	Plans   []api.Plan
	Runs    []plan.Run
	Drills  []api.Drill
	Reports []api.ReportRef
}

const shownRuns = 15

func newest[T any](all []T) []T {
	all = slices.Clone(all)
	slices.Reverse(all)
	return all[:min(len(all), shownRuns)]
}

func (w *Web) plans(a *ask) (*view, error) {
	p := &plansPage{}
	var err error
	if p.Plans, err = a.Plans(a); err != nil {
		return nil, err
	}
	runs, err := a.Runs(a)
	if err != nil {
		return nil, err
	}
	if p.Drills, err = a.Drills(a); err != nil {
		return nil, err
	}
	reports, err := a.Reports(a)
	if err != nil {
		return nil, err
	}
	p.Runs, p.Reports = newest(runs), newest(reports)
	return &view{page: "plans", section: "plans", title: "Plans and drills", data: p}, nil
}

// planPage is a plan with its runs.
type planPage struct {
	api.Plan
	Machines int
	Runs     []plan.Run
	Modes    []string
}

func (a *ask) planOf(name string) (*api.Plan, error) {
	all, err := a.Plans(a)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(p api.Plan) bool { return p.Name == name })
	if i < 0 {
		return nil, api.Errorf(api.CodeNotFound, "leeward plan ls", "there is no plan %.80s", name)
	}
	return &all[i], nil
}

func (w *Web) plan(a *ask) (*view, error) {
	k, err := a.planOf(a.r.PathValue("name"))
	if err != nil {
		return nil, err
	}
	runs, err := a.Runs(a)
	if err != nil {
		return nil, err
	}
	p := &planPage{Plan: *k, Machines: len(k.Value.Machines())}
	p.Runs = newest(slices.DeleteFunc(runs, func(r plan.Run) bool { return r.Plan != k.Name }))
	for _, m := range plan.Modes {
		if k.Value.ReadyFor(m) == nil {
			p.Modes = append(p.Modes, m)
		}
	}
	return &view{page: "plan", section: "plans", title: "Plan " + k.Name, data: p, still: true}, nil
}

// editor is a document that is written as text.
type editor struct {
	Title, About, Action, Back, Text, Problem string
}

const newPlan = `schema: leeward.plan.v1
name: NAME
about: what this plan brings up
stages:
  - name: first
    machines:
      - machine: MACHINE
        port: 22          # proof of life: this port accepts
`

func planForm(text, problem string) *view {
	return &view{page: "editor", section: "plans", title: "Edit a plan", still: true, data: editor{
		Title: "Edit a plan", About: "Writing it makes a new version; runs keep the version they began with.", Action: "/plan-editor", Back: "/plans", Text: text, Problem: problem,
	}}
}

func (w *Web) planEditor(a *ask) (*view, error) {
	name := a.r.URL.Query().Get("plan")
	if name == "" {
		return planForm(newPlan, ""), nil
	}
	p, err := a.planOf(name)
	if err != nil {
		return nil, err
	}
	b, err := yaml.Marshal(p.Value)
	if err != nil {
		return nil, err
	}
	return planForm(string(b), ""), nil
}

func (w *Web) applyPlan(a *ask) (string, error) {
	text := a.r.PostForm.Get("text")
	p, err := plan.Parse([]byte(text))
	if err == nil {
		_, err = a.ApplyPlan(a, *p)
	}
	if err != nil {
		return "", &again{planForm(text, err.Error()), http.StatusBadRequest}
	}
	return "/plans/" + url.PathEscape(p.Name) + "?did=plan", nil
}

// runPage asks whether a run is meant, and says what it would do.
type runPage struct {
	Plan, Mode, Point, RequestID string
	Forecast                     *plan.DryRun
	Confirm                      bool
}

func (w *Web) planRun(a *ask) (*view, error) {
	if err := a.must("plan.run"); err != nil {
		return nil, err
	}
	q := a.r.URL.Query()
	p := &runPage{Plan: a.r.PathValue("name"), Mode: cmp.Or(q.Get("mode"), plan.Test), Point: q.Get("point"), RequestID: rand.Text()}
	p.Confirm = p.Mode != plan.Test
	var err error
	if p.Forecast, err = a.Forecast(a, api.RunRequest{Plan: p.Plan, Mode: p.Mode, Point: p.Point}); err != nil {
		return nil, err
	}
	return &view{page: "forecast", section: "plans", title: "Run plan " + p.Plan, data: p, still: true}, nil
}

func (w *Web) runPlan(a *ask) (string, error) {
	f := a.r.PostForm
	q := api.RunRequest{ID: f.Get("request"), Plan: a.r.PathValue("name"), Mode: f.Get("mode"), Point: strings.TrimSpace(f.Get("point"))}
	if q.Mode != plan.Test && f.Get("confirm") != q.Plan {
		return "", api.Errorf(api.CodeRefused, "type the plan's name", "a run of plan %s in mode %s is not confirmed", q.Plan, q.Mode)
	}
	r, err := a.RunPlan(a, q)
	if err != nil {
		return "", err
	}
	return "/runs/" + url.PathEscape(r.ID), nil
}

// livingRun is a run and what may be answered.
type livingRun struct {
	*plan.Run
	Done, All int
}

func (w *Web) run(a *ask) (*view, error) {
	r, err := a.Client.Run(a, a.r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	p := &livingRun{Run: r}
	for _, t := range r.Tasks {
		if t.State == plan.Skipped {
			continue
		}
		p.All++
		if t.State == plan.Done || t.State == plan.Ignored {
			p.Done++
		}
	}
	return &view{page: "run", section: "plans", title: "Run of " + r.Plan, data: p}, nil
}

// answers are what a task that asks may be answered with.
func answers(t plan.Task) []string {
	if t.Action != nil && t.Action.Ask != "" && t.Error == "" {
		return []string{"yes", "no"}
	}
	return []string{"retry", "continue", "stop"}
}

func (w *Web) setDrill(a *ask) (string, error) {
	f := a.r.PostForm
	every, err := time.ParseDuration(strings.TrimSpace(f.Get("every")))
	if err != nil {
		return "", api.Errorf(api.CodeUsage, "write a duration like 168h", "every is %q", f.Get("every"))
	}
	d := drill.Drill{Name: strings.TrimSpace(f.Get("name")), Plan: f.Get("plan"), Every: policy.Duration(every), At: strings.TrimSpace(f.Get("at")), Paused: f.Get("paused") != ""}
	_, err = a.SetDrill(a, d)
	return "/plans?did=drill", err
}

func (w *Web) report(a *ask) (*view, error) {
	r, err := a.Report(a, a.r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return &view{page: "report", section: "plans", title: "Report of drill " + r.Report.Drill, data: r, still: true}, nil
}

// screen is the picture of a machine's screen in a report.
func (w *Web) screen(rw http.ResponseWriter, r *http.Request) {
	a := w.signedIn(rw, r)
	if a == nil {
		return
	}
	k, err := a.Report(a, r.PathValue("id"))
	if err != nil {
		w.fail(rw, r, a.who, err)
		return
	}
	i := slices.IndexFunc(k.Report.Machines, func(m drill.Machine) bool { return m.Machine == r.PathValue("machine") && len(m.Screen) > 0 })
	if i < 0 {
		w.fail(rw, r, a.who, api.Errorf(api.CodeNotFound, "", "there is no picture of machine %.80s in this report", r.PathValue("machine")))
		return
	}
	rw.Header().Set("Content-Type", "image/png")
	_, _ = rw.Write(k.Report.Machines[i].Screen) // who went away needs no answer
}
