package web

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
)

func (w *Web) jobRoutes(m *http.ServeMux) {
	w.show(m, "/jobs", w.jobs)
	w.show(m, "/jobs/{id}", w.job)
	w.do(m, "/jobs/{id}/cleanup", "failover.cleanup", func(a *ask) (string, error) {
		id := a.r.PathValue("id")
		_, err := a.Cleanup(a, id)
		return "/jobs/" + url.PathEscape(id) + "?did=cleanup", err
	})
}

func (w *Web) jobs(a *ask) (*view, error) {
	all, err := a.Jobs(a, api.Query{Limit: 200})
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	return &view{page: "jobs", section: "jobs", title: "Jobs", data: all}, nil
}

// jobPage is a job and how long its stages took.
type jobPage struct {
	*failover.Job
	Steps   []jobStep
	Percent float64
	Test    bool
	Wait    bool // for cleanup
}

type jobStep struct {
	failover.Stage
	Took    time.Duration
	Current bool
	Tone    string
}

func (w *Web) job(a *ask) (*view, error) {
	j, err := a.Job(a, a.r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	p := &jobPage{Job: j, Test: j.Kind != failover.RealFailover, Wait: j.State.Waiting()}
	for i, s := range j.Stages {
		t := jobStep{Stage: s, Current: i == len(j.Stages)-1, Tone: "ok"}
		switch {
		case !t.Current:
			t.Took = j.Stages[i+1].At.Sub(s.At)
		case s.State.Running():
			t.Took, t.Tone = time.Since(s.At), "busy"
		}
		if s.State == failover.Failed || s.State == failover.Interrupted {
			t.Tone = tone(s.State)
		}
		p.Steps = append(p.Steps, t)
	}
	if g := j.Progress; g != nil {
		p.Percent = share(g.Done, g.Total)
	}
	title := "Test failover of "
	if !p.Test {
		title = "Failover of "
	}
	return &view{page: "job", section: "jobs", title: title + j.Request.Machine, data: p}, nil
}
