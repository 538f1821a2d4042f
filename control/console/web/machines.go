package web

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
)

func (w *Web) machineRoutes(m *http.ServeMux) {
	w.show(m, "/machines", w.machines)
	w.show(m, "/machines/{machine}", w.machine)
	w.part(m, "/machines/{machine}/timeline", "line", w.machine)
	m.HandleFunc("GET /machines/{machine}/history", w.history)
}

func (w *Web) machines(a *ask) (*view, error) {
	all, err := a.Machines(a, api.Query{})
	if err != nil {
		return nil, err
	}
	return &view{page: "machines", section: "machines", title: "Machines", data: all}, nil
}

// machinePage is all about one machine.
type machinePage struct {
	*api.Machine
	Life   *life.Life
	Line   *timeline
	Newest []api.Point // the newest first
	App    *api.Point  // the newest application-consistent one
	Events []api.Event
	Steps  []step // what can be done in its phase
	Size   uint64
}

// step is something that can be done to a machine in its phase.
type step struct {
	Kind       life.Kind
	Name, Verb string
	Danger     bool
}

// steps are what the phases of package life take, in the order in which they are shown.
var steps = []step{
	{life.Commit, "Commit", "failover.commit", false}, {life.Change, "Change the recovery point", "failover.change-point", true},
	{life.Reprotect, "Re-protect", "failover.reprotect", false}, {life.Failback, "Fail back", "failover.failback", true},
	{life.Complete, "Complete the migration", "failover.complete", true}, {life.Cancel, "Cancel", "failover.cancel", true},
	{life.Enable, "Protect again", "machine.enable", false}, {life.Disable, "End protection", "machine.disable", true},
}

const shownPoints = 12

func (w *Web) machine(a *ask) (*view, error) {
	name := a.r.PathValue("machine")
	m, err := a.Machine(a, name)
	if err != nil {
		return nil, err
	}
	p := &machinePage{Machine: m}
	if p.Life, err = a.Life(a, name); err != nil {
		return nil, err
	}
	if p.Newest, err = a.Points(a, api.Query{Machine: name, Limit: shownPoints}); err != nil {
		return nil, err
	}
	slices.Reverse(p.Newest)
	app, err := a.Points(a, api.Query{Machine: name, Consistency: "app", Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(app) > 0 {
		p.App = &app[0]
	}
	if !a.living { // thousands of points are drawn, not so often
		all, err := a.Points(a, api.Query{Machine: name})
		if err != nil {
			return nil, err
		}
		p.Line = lineOf(all, time.Now())
	}
	if p.Events, err = a.happened(api.Query{Machine: name}, 8); err != nil {
		return nil, err
	}
	for _, d := range m.Disks {
		p.Size += d.SizeBytes
	}
	for _, s := range steps {
		if _, err := p.Life.Clone().Step(life.Event{Kind: s.Kind}); err == nil && a.may(s.Verb) {
			p.Steps = append(p.Steps, s)
		}
	}
	return &view{page: "machine", section: "machines", title: name, data: p, script: "chart"}, nil
}

// history is what the charts show: columns of numbers, null where nothing was known.
func (w *Web) history(rw http.ResponseWriter, r *http.Request) {
	a := w.signedIn(rw, r)
	if a == nil {
		return
	}
	h, err := a.History(a, r.PathValue("machine"))
	if err != nil {
		w.fail(rw, r, a.who, err)
		return
	}
	var out struct {
		Time    []int64    `json:"time"` // seconds since 1970
		RPO     []*float64 `json:"rpo"`
		Churn   []*float64 `json:"churn"`
		Backlog []*float64 `json:"backlog"`
	}
	for _, s := range h.Samples {
		out.Time = append(out.Time, s.Time.Unix())
		out.RPO, out.Churn, out.Backlog = append(out.RPO, s.RPO), append(out.Churn, s.Churn), append(out.Backlog, s.Backlog)
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(out) // who went away needs no answer
}
