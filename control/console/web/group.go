package web

import (
	"net/url"
	"slices"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
)

// subject is what is failed over: a machine, or all of a group at once.
type subject struct {
	Name, Path string
	Group      bool
	Members    []string
	Lives      []*life.Life // of the members
}

// subject reads from the address what is meant.
func (a *ask) subject() (*subject, error) {
	s := &subject{Name: a.r.PathValue("machine")}
	if s.Members = []string{s.Name}; s.Name != "" {
		s.Path = "/machines/" + url.PathEscape(s.Name)
	} else {
		s.Name, s.Group = a.r.PathValue("group"), true
		s.Path = "/groups/" + url.PathEscape(s.Name)
		g, err := a.Client.Group(a, s.Name)
		if err != nil {
			return nil, err
		}
		if s.Members = g.Members; len(s.Members) == 0 {
			return nil, api.Errorf(api.CodeRefused, "put machines into it", "group %s has no machine", s.Name)
		}
	}
	for _, m := range s.Members {
		l, err := a.Life(a, m)
		if err != nil {
			return nil, err
		}
		s.Lives = append(s.Lives, l)
	}
	return s, nil
}

// section is where it stands in the navigation.
func (s *subject) section() string {
	if s.Group {
		return "rules"
	}
	return "machines"
}

// request asks for a step of the subject.
func (s *subject) request(o life.Order) api.LifeRequest {
	if s.Group {
		return api.LifeRequest{Group: s.Name, Order: o}
	}
	return api.LifeRequest{Machine: s.Name, Order: o}
}

// takes reports whether every member can take a step now, and why not if one cannot.
func (s *subject) takes(k life.Kind) error {
	for _, l := range s.Lives {
		if _, err := l.Clone().Step(life.Event{Kind: k}); err != nil {
			return err
		}
	}
	return nil
}

// fenced reports whether a member's source is fenced now.
func (s *subject) fenced() bool {
	return slices.ContainsFunc(s.Lives, func(l *life.Life) bool { return l.Phase.Fenced() })
}

// pointsOf lists the points of a machine, or those that all of a group are in.
func (a *ask) pointsOf(s *subject) ([]api.Point, error) {
	points, err := a.Points(a, api.Query{Machine: s.Members[0]})
	if err != nil || !s.Group {
		return points, err
	}
	return slices.DeleteFunc(points, func(p api.Point) bool {
		return slices.ContainsFunc(s.Members, func(m string) bool {
			return !slices.ContainsFunc(p.Machines, func(k api.PointMachine) bool { return k.Machine == m })
		})
	}), nil
}

// groupPage is a group and where its members stand.
type groupPage struct {
	*api.Group
	On       *subject
	Machines []*api.Machine
	Start    bool // it can be failed over now
	Steps    []step
	Points   int
}

// notTogether are steps that need something for each machine: where its disks are at home.
var notTogether = []life.Kind{life.Failback, life.Disable, life.Enable}

func (w *Web) group(a *ask) (*view, error) {
	on, err := a.subject()
	if err != nil {
		return nil, err
	}
	p := &groupPage{On: on, Start: on.takes(life.Start) == nil}
	if p.Group, err = a.Client.Group(a, on.Name); err != nil {
		return nil, err
	}
	for _, name := range on.Members {
		m, err := a.Client.Machine(a, name)
		if err != nil {
			return nil, err
		}
		p.Machines = append(p.Machines, m)
	}
	points, err := a.pointsOf(on)
	if err != nil {
		return nil, err
	}
	p.Points = len(points)
	for _, s := range steps {
		if !slices.Contains(notTogether, s.Kind) && on.takes(s.Kind) == nil && a.may(s.Verb) {
			p.Steps = append(p.Steps, s)
		}
	}
	return &view{page: "group", section: "rules", title: "Group " + on.Name, data: p}, nil
}
