package web

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
)

func (w *Web) jobRoutes(m *http.ServeMux) {
	w.show(m, "/jobs", w.jobs)
	w.show(m, "/jobs/{id}", w.job)
	w.do(m, "/jobs/{id}/cleanup", "failover.cleanup", func(a *ask) (string, error) {
		id := a.r.PathValue("id")
		j, err := a.BeginCleanup(a, id)
		if err == nil && j.State != failover.Cleaned {
			return "/jobs/" + url.PathEscape(id) + "?did=cleaning", nil
		}
		return "/jobs/" + url.PathEscape(id) + "?did=cleanup", err
	})
	w.do(m, "/jobs/{id}/note", "job.note", func(a *ask) (string, error) {
		id := a.r.PathValue("id")
		_, err := a.Note(a, id, strings.ReplaceAll(a.r.PostForm.Get("notes"), "\r\n", "\n"))
		return "/jobs/" + url.PathEscape(id) + "?did=note", err
	})
	m.HandleFunc("GET /jobs/{id}/screen", w.jobScreen)
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
	Wait    bool   // for cleanup
	Serial  string // the end of what it said
	Spoken  int64  // bytes that it said in all
	Picture bool
	Copied  float64 // of its disks, in percent
}

// serialLines is how much of a serial log is shown.
const serialLines = 60

// serialText makes the end of a serial log readable: without what moves a terminal's cursor
// and colours it.
func serialText(s string) string {
	s = escapes.ReplaceAllString(s, "")
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ReplaceAll(s, "\r\n", "\n"))
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-serialLines):], "\n")
}

// escapes are sequences for terminals: CSI, OSC and those of two bytes.
var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])`)

// jobScreen is the picture of a machine's screen.
func (w *Web) jobScreen(rw http.ResponseWriter, r *http.Request) {
	a := w.signedIn(rw, r)
	if a == nil {
		return
	}
	e, err := a.Evidence(a, api.EvidenceRequest{Job: r.PathValue("id"), Screen: true})
	if err == nil && len(e.Screen) == 0 {
		err = api.Errorf(api.CodeNotFound, "", "there is no picture of job %.80s", r.PathValue("id"))
	}
	if err != nil {
		w.fail(rw, r, a.who, err)
		return
	}
	kind := http.DetectContentType(e.Screen) // QEMU's are PNG, Azure's are BMP
	if !strings.HasPrefix(kind, "image/") {
		kind = "image/png" // whatever it is, it is shown as a picture or not at all
	}
	rw.Header().Set("Content-Type", kind)
	_, _ = rw.Write(e.Screen) // who went away needs no answer
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
	if h := j.Hydration; h != nil {
		p.Copied = share(h.Done, h.Total)
	}
	if j.Directory != "" && j.Request.Target != failover.Files {
		e, err := a.Evidence(a, api.EvidenceRequest{Job: j.ID})
		if err != nil {
			return nil, err
		}
		p.Serial, p.Spoken, p.Picture = serialText(e.Serial), e.SerialBytes, e.ScreenBytes > 0
	}
	title := "Test failover of "
	if !p.Test {
		title = "Failover of "
	}
	return &view{page: "job", section: "jobs", title: title + j.Request.Machine, data: p}, nil
}
