package web

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
)

// overview is everything at one glance.
type overview struct {
	*api.Status
	Headline  string
	Tone      string
	Slices    []slice // of the ring of health
	Worst     []api.Machine
	Tested    int // machines with a good test
	Untested  []string
	Away      []api.Machine // machines that are not protected at home
	Jobs      []failover.Job
	Processes []api.ProcessServer
	Map       []node
	Issues    []health.Issue
}

// slice is a part of the ring, in percent of it.
type slice struct {
	Tone, Name   string
	Count        int
	Size, Offset float64
}

// node is a box of the map of the infrastructure; Edge is the tone of what leads on.
type node struct {
	Name, Path, Tone, Edge, Number, About string
}

func (w *Web) overview(a *ask) (*view, error) {
	st, err := a.Status(a)
	if err != nil {
		return nil, err
	}
	o := &overview{Status: st, Issues: st.Issues}
	machines := []api.Machine{}
	if st.Ready {
		if machines, err = a.Machines(a, api.Query{}); err != nil {
			return nil, err
		}
		if o.Processes, err = a.Client.Processes(a); err != nil {
			return nil, err
		}
	}
	jobs, err := a.Jobs(a, api.Query{})
	if err != nil {
		return nil, err
	}
	for _, j := range slices.Backward(jobs) {
		if j.State.Running() || j.State.Waiting() {
			o.Jobs = append(o.Jobs, j)
		}
	}
	o.count(machines)
	o.headline()
	o.infrastructure(machines)
	return &view{page: "overview", section: "overview", title: "Overview", data: o}, nil
}

func (o *overview) count(machines []api.Machine) {
	offset := 0.0
	for _, k := range []struct {
		level health.Level
		name  string
	}{{health.Critical, "critical"}, {health.Warning, "warning"}, {health.Healthy, "healthy"}, {health.NotApplicable, "not applicable"}} {
		if n := o.ByHealth[string(k.level)]; n > 0 {
			s := slice{Tone: tone(k.level), Name: k.name, Count: n, Size: share(n, o.Machines), Offset: -offset}
			offset += s.Size
			o.Slices = append(o.Slices, s)
		}
	}
	for _, m := range machines {
		switch {
		case m.Points == 0:
		case m.TestRecommended:
			o.Untested = append(o.Untested, m.Machine)
		default:
			o.Tested++
		}
		if m.Life != nil && m.Life.Phase != "protected" {
			o.Away = append(o.Away, m)
		}
		if m.RPO != nil && m.Health != health.NotApplicable {
			o.Worst = append(o.Worst, m)
		}
	}
	slices.SortFunc(o.Worst, func(x, y api.Machine) int { return cmp.Compare(*y.RPO, *x.RPO) })
	o.Worst = o.Worst[:min(len(o.Worst), 5)]
}

// headline says in one sentence whether somebody has to get up.
func (o *overview) headline() {
	bad, warn := o.ByHealth[string(health.Critical)], o.ByHealth[string(health.Warning)]
	switch {
	case !o.Ready:
		o.Tone, o.Headline = "busy", "Control has just started and reads the vault and the streams. Nothing is known yet."
	case o.Machines == 0:
		o.Tone, o.Headline = "off", "No machine is protected yet."
	case bad > 0:
		o.Tone, o.Headline = "bad", plural(bad, "machine")+" of "+plural(o.Machines, "machine")+" cannot be relied on now."
	case warn > 0:
		o.Tone, o.Headline = "warn", plural(warn, "machine")+" of "+plural(o.Machines, "machine")+" should be looked at."
	case len(o.Away) > 0:
		o.Tone, o.Headline = "ok", "All is well; "+plural(len(o.Away), "machine")+" does not run at home."
		if len(o.Away) > 1 {
			o.Headline = "All is well; " + plural(len(o.Away), "machine") + " do not run at home."
		}
	case o.Machines == 1:
		o.Tone, o.Headline = "ok", "The machine is protected."
	default:
		o.Tone, o.Headline = "ok", "All "+plural(o.Machines, "machine")+" are protected."
	}
}

// infrastructure draws the way of the bytes. An edge is as bad as what keeps them from
// going on.
func (o *overview) infrastructure(machines []api.Machine) {
	silent, trouble, lag, store := 0, false, 0.0, ""
	for _, m := range machines {
		if m.Agent == nil && m.Health != health.NotApplicable {
			silent++
		}
		trouble = trouble || m.Agent != nil && m.Agent.Trouble != ""
	}
	for _, p := range o.Processes {
		lag, store = max(lag, p.LagSeconds), cmp.Or(store, p.Store)
	}
	agents := node{Name: "Machines", Path: "/machines", Tone: "ok", Edge: "ok", Number: plural(len(machines)-silent, "agent"), About: bytesText(float64(o.WaitingBytes)) + " wait on them"}
	switch {
	case len(machines) == 0:
		agents.Tone, agents.Edge, agents.Number, agents.About = "off", "off", "none", "no agent was heard of"
	case silent > 0:
		agents.Tone, agents.Edge, agents.About = "bad", "bad", plural(silent, "agent")+" silent"
	}
	bus := node{Name: "NATS JetStream", Path: "/site", Tone: "ok", Edge: "ok", Number: bytesText(float64(o.BacklogBytes)), About: plural(int(o.BacklogMessages), "message") + " not in the vault"}
	if trouble {
		bus.Tone, agents.Edge = "warn", "warn"
		bus.About = "takes nothing now"
	}
	process := node{Name: "Process servers", Path: "/site", Tone: "ok", Edge: "ok", Number: plural(len(o.Processes), "server"), About: "the oldest change waits " + spanText(lag)}
	switch {
	case o.Ready && len(o.Processes) == 0:
		process.Tone, bus.Edge, process.Number, process.About = "bad", "bad", "none", "nobody answers: changes stay on the bus"
	case lag > 60:
		process.Tone, bus.Edge = "warn", "warn"
	}
	vault := node{Name: "Vault", Path: "/vault", Tone: "ok", Edge: "ok", Number: plural(o.Points, "point"), About: plural(o.PendingMarkers, "point") + " on the way"}
	if store != "" {
		vault.Tone, process.Edge, vault.About = "bad", "bad", "refuses writes"
	}
	target := node{Name: "Recovery site", Path: "/jobs", Tone: "off", Number: plural(o.JobsRunning+o.JobsWaiting, "job"), About: "nothing runs there"}
	switch {
	case o.JobsRunning > 0:
		target.Tone, target.About = "busy", plural(o.JobsRunning, "machine")+" coming up"
	case o.JobsWaiting > 0:
		target.Tone, target.About = "warn", plural(o.JobsWaiting, "test")+" to clean up"
	case len(o.Away) > 0:
		target.Tone, target.About, target.Number = "ok", "instead of home", plural(len(o.Away), "machine")
	}
	o.Map = []node{agents, bus, process, vault, target}
}

func (w *Web) routes(m *http.ServeMux) {
	w.show(m, "/{$}", w.overview)
	w.machineRoutes(m)
	w.wizardRoutes(m)
	w.jobRoutes(m)
	w.planRoutes(m)
	w.ruleRoutes(m)
	w.siteRoutes(m)
	w.pushRoutes(m)
}
