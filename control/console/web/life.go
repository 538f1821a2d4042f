package web

import (
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
)

// askPage asks whether a step is meant.
type askPage struct {
	On      *subject
	Disks   []api.Disk // of a machine
	Step    step
	Phase   life.Phase
	Text    string
	Confirm bool     // the name must be typed
	Choices []choice // of a recovery point
}

// askTexts say what a step does.
var askTexts = map[life.Kind]string{
	life.Commit:    "The machine stays as it is now. Older recovery points stay, but the failover cannot be cancelled any more.",
	life.Change:    "The machine that runs is ended, and comes up again from the point that you choose. What it wrote since it was failed over is lost.",
	life.Reprotect: "What the machine writes at the recovery site is sent to the vault, so that it has recovery points again and can be brought home.",
	life.Failback:  "The machine at the recovery site makes a final point and stops. Its disks are written at home, where what stands on them now is lost.",
	life.Complete:  "The machine stays where it runs for good. Its source stays fenced; nothing leads home any more.",
	life.Enable:    "The machine's agent may write again, and new recovery points are made.",
	life.Disable:   "Nothing that the machine's agent sends is taken any more. Its recovery points stay, unless you drop them.",
}

func stepOf(kind string) (step, error) {
	i := slices.IndexFunc(steps, func(s step) bool { return string(s.Kind) == kind })
	if i < 0 {
		return step{}, api.Errorf(api.CodeNotFound, "leeward failover --help", "nothing is called %.40q", kind)
	}
	return steps[i], nil
}

func (w *Web) asking(a *ask) (*view, error) {
	s, err := stepOf(a.r.PathValue("kind"))
	if err != nil {
		return nil, err
	}
	if err := a.must(s.Verb); err != nil {
		return nil, err
	}
	p := &askPage{Step: s, Text: askTexts[s.Kind]}
	if p.On, err = a.subject(); err != nil {
		return nil, err
	}
	l := p.On.Lives[0]
	if s.Kind == life.Failback {
		m, err := a.Client.Machine(a, l.Machine)
		if err != nil {
			return nil, err
		}
		p.Disks = m.Disks
	}
	if err := p.On.takes(s.Kind); err != nil {
		return nil, api.Errorf(api.CodeRefused, "look at the machine's page: it says what can be done now", "%w", err)
	}
	p.Phase = l.Phase
	switch s.Kind {
	case life.Cancel:
		p.Confirm = p.On.fenced()
		if undo := l.Phase.Undo(); undo != "" {
			p.Text = strings.ToUpper(undo[:1]) + undo[1:] + "."
		}
	case life.Change:
		points, err := a.pointsOf(p.On)
		if err != nil {
			return nil, err
		}
		p.Choices, p.Confirm = choicesOf(points, l.Point, time.Now()), true
	case life.Complete, life.Disable, life.Failback:
		p.Confirm = true
	}
	return &view{page: "ask", section: p.On.section(), title: s.Name + ": " + p.On.Name, data: p, still: true}, nil
}

func (w *Web) asked(a *ask) (string, error) {
	s, err := stepOf(a.r.PathValue("kind"))
	if err != nil {
		return "", err
	}
	if err := a.must(s.Verb); err != nil {
		return "", err
	}
	on, err := a.subject()
	if err != nil {
		return "", err
	}
	f, q := a.r.PostForm, on.request(life.Order{})
	q.Confirm = f.Get("confirm")
	q.Point, q.DropHistory = f.Get("point"), f.Get("drop") != ""
	for k, v := range f {
		if disk, ok := strings.CutPrefix(k, "home."); ok && strings.TrimSpace(v[0]) != "" {
			if q.Home == nil {
				q.Home = map[string]string{}
			}
			q.Home[disk] = strings.TrimSpace(v[0])
		}
	}
	if s.Kind == life.Failback && q.Confirm != on.Name {
		return "", api.Errorf(api.CodeRefused, "type the machine's name", "failback of %s is not confirmed", on.Name)
	}
	if _, err := a.AskLife(a, s.Kind, q); err != nil {
		return "", err
	}
	return on.Path + "?did=life", nil
}
