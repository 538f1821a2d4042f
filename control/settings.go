package control

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
)

// asked is called by the subscription when an agent asks for its policy.
func (s *Service) asked(m *nats.Msg) {
	t := strings.Split(m.Subject, ".")
	if len(t) != 4 || streams.ValidName("machine", t[2]) != nil {
		return
	}
	if len(m.Data) > 0 {
		if q, err := markers.DecodeQuiet(m.Data); err == nil && q.Machine == t[2] {
			s.lives.heardQuiet(q)
			return
		}
		s.said(t[2], m)
		return
	}
	s.agents.ask(t[2], time.Now())
	s.tell(t[2])
}

// tellAll tells every agent its policy. Agents that are not there ask when they are.
func (s *Service) tellAll() {
	s.state.mu.Lock()
	names := slices.Collect(maps.Keys(s.state.machines))
	s.state.mu.Unlock()
	for _, g := range s.rules.Load().groups { // of whom nothing may have come yet
		names = append(names, g.Members...)
	}
	for _, l := range s.lives.list() {
		names = append(names, l.Machine)
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		s.tell(n)
	}
}

// tell tells one agent its policy. A word that is lost is said again within a minute.
func (s *Service) tell(machine string) {
	r := s.rules.Load()
	p := r.policyOf(machine)
	if !r.written(p.Name) {
		p = policy.Policy{Name: p.Name} // the agent's own settings hold
	}
	set := markers.Settings{
		Machine: machine, Policy: p.Name, PointInterval: time.Duration(p.PointInterval), AppInterval: time.Duration(p.AppInterval),
		FreezeLimit: time.Duration(p.FreezeLimit), Rate: least(p.Rate(time.Now()), s.agents.share(machine)), CompressAt: p.CompressAt, Capture: p.Capture,
	}
	if set.AppInterval == 0 && r.written(p.Name) {
		set.AppInterval = -1
	}
	if set.Rate == 0 {
		set.Rate = -1
	}
	if f := s.lives.fenceOf(machine); f != nil {
		set.Fenced, set.Fence, set.FenceHolder = clip(cmp.Or(f.Why, "it is fenced")), f.Generation, f.Holder
	}
	b, err := set.Encode()
	if err == nil {
		err = s.bus.Conn.Publish(streams.PolicySet(machine), b)
	}
	if err != nil {
		s.log.Warn("cannot tell an agent its policy", "machine", machine, "err", err)
	}
}

// least is the lower of two bounds, of which 0 is none.
func least(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// retell tells all agents again, for windows of throttling begin and end.
func (s *Service) retell() {
	for s.sleep(time.Minute) {
		s.tellAll()
	}
}
