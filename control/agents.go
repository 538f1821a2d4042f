package control

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/producers/markers"
)

const (
	// agentSilent is after how long an agent that says nothing has no share of the
	// site's rate any more, and is no micro service. Agents speak every 15 seconds.
	agentSilent = 50 * time.Second
	// divideEvery is how often the site's rate is divided anew.
	divideEvery = 2 * time.Second
	// maxSpoken bounds the micro services that control answers for.
	maxSpoken = 2000
)

// agents is what agents said of themselves, and their shares of the site's rate.
type agents struct {
	mu    sync.Mutex
	heard map[string]*heard
	rate  int64 // of the site, as it was divided last; 0: no bound
	// hushed says that control stops: no service is made any more.
	hushed bool
}

// heard is one agent.
type heard struct {
	at      time.Time
	needs   *markers.Needs // nil: it has only asked
	want    policy.Want
	share   int64 // of the site's rate; 0: no bound
	told    int64 // share that it was told
	spoken  bool  // its micro service is made, or being made
	service micro.Service
}

func newAgents() *agents { return &agents{heard: map[string]*heard{}} }

// ask notes that an agent has just started. Until the next division it has a quarter
// of what would be its even share: nobody knows what it wants.
func (a *agents) ask(machine string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.heard[machine]
	if h == nil {
		h = &heard{}
		a.heard[machine] = h
		if a.rate > 0 {
			h.share = max(1, a.rate/int64(len(a.heard))/4)
		}
	}
	h.at, h.want = now, policy.Want{Hungry: true}
}

// say notes what an agent says of itself. It reports whether it must be told its
// share again.
func (a *agents) say(n *markers.Needs, now time.Time) (again bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.heard[n.Machine]
	if h == nil {
		h = &heard{}
		a.heard[n.Machine] = h
		again = a.rate > 0
	}
	if old := h.needs; old != nil && old.Since == n.Since && now.After(h.at) {
		since := now.Sub(h.at)
		h.want.Speed = int64(float64(n.SentBytes-min(old.SentBytes, n.SentBytes)) / since.Seconds())
		// A twentieth of the time: less is how messages happen to fall.
		h.want.Hungry = n.Waited-old.Waited > since/20
	} else {
		h.want = policy.Want{Hungry: true}
	}
	h.needs, h.at = n, now
	// Its own bound may be lower than its share, but not higher.
	return again || h.share > 0 && (n.Rate == 0 || n.Rate > h.told)
}

// share is what a machine may send of the site's rate; 0: no bound.
func (a *agents) share(machine string) int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.heard[machine]
	if h == nil {
		if a.rate == 0 {
			return 0
		}
		return max(1, a.rate/int64(len(a.heard)+1)/4)
	}
	h.told = h.share
	return h.share
}

// divide divides the site's rate between the agents that speak, and returns whom to
// tell, those first who get less: so that together they never have more.
func (a *agents) divide(rate int64, now time.Time) (tell []string, silent []micro.Service) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, h := range a.heard {
		if now.Sub(h.at) > agentSilent {
			if h.service != nil {
				silent = append(silent, h.service)
			}
			delete(a.heard, name)
		}
	}
	if rate == 0 && a.rate == 0 {
		return nil, silent
	}
	a.rate = rate
	names := slices.Sorted(maps.Keys(a.heard))
	wants := make([]policy.Want, len(names))
	for i, n := range names {
		wants[i] = a.heard[n].want
	}
	shares := make([]int64, len(names))
	if rate > 0 {
		shares = policy.Divide(rate, wants)
	}
	for i, n := range names {
		h := a.heard[n]
		h.share = shares[i]
		// Small changes are not worth a message, unless they would add up.
		if h.share == h.told || h.share > h.told && h.told > 0 && h.share-h.told < h.told/20 {
			h.share = cmp.Or(h.told, h.share)
			continue
		}
		tell = append(tell, n)
	}
	slices.SortFunc(tell, func(x, y string) int {
		return cmp.Compare(change(a.heard[x]), change(a.heard[y]))
	})
	return tell, silent
}

// change is by how much an agent's share grows when it is told; no bound is the most.
func change(h *heard) int64 {
	if h.share == 0 {
		return 1 << 62
	}
	if h.told == 0 {
		return h.share - 1<<62
	}
	return h.share - h.told
}

// all returns what every agent that speaks has said last.
func (a *agents) all() map[string]*markers.Needs {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]*markers.Needs{}
	for name, h := range a.heard {
		if h.needs != nil {
			out[name] = h.needs
		}
	}
	return out
}

// ration divides the site's rate again and again while control runs.
func (s *Service) ration() {
	for s.sleep(divideEvery) {
		p := s.rules.Load().policyOf("")
		tell, silent := s.agents.divide(p.SiteRate(time.Now()), time.Now())
		for _, n := range tell {
			s.tell(n)
		}
		for _, m := range silent {
			_ = m.Stop() // fails only when the connection is gone, and the service with it
		}
	}
}

// said takes what an agent says of itself with its question.
func (s *Service) said(machine string, m *nats.Msg) {
	n, err := markers.DecodeNeeds(m.Data)
	if err != nil || n.Machine != machine {
		s.log.Warn("what an agent says of itself is not understood", "machine", machine, "err", err)
		return
	}
	if s.agents.say(n, time.Now()) {
		s.tell(machine)
	}
	s.state.says(n, time.Now())
	s.speakFor(n)
}

// version is what micro wants of one.
var version = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// speakFor makes an agent visible to `nats micro`. Agents cannot do that themselves:
// whoever answers for services could answer for those of others, too.
func (s *Service) speakFor(n *markers.Needs) {
	if !s.agents.claim(n.Machine) {
		return
	}
	v := "0.0.0"
	if t := strings.TrimPrefix(n.Version, "v"); version.MatchString(t) {
		v = t
	}
	machine := n.Machine
	svc, err := micro.AddService(s.bus.Conn, micro.Config{
		Name: "leeward-agent", Version: v, Description: "protects the disks of machine " + machine + "; control answers for it",
		Metadata:     map[string]string{"machine": machine, "host": n.Host, "kernel": n.Kernel},
		StatsHandler: func(*micro.Endpoint) any { return s.agents.of(machine) },
	})
	if err == nil {
		err = svc.AddGroup("leeward.agent."+machine).AddEndpoint("stats", micro.HandlerFunc(func(r micro.Request) {
			if err := r.RespondJSON(s.agents.of(machine)); err != nil {
				s.log.Debug("a request for numbers was not answered", "err", err)
			}
		}))
	}
	if err != nil {
		s.log.Debug("an agent is not shown as a micro service", "machine", machine, "err", err)
		return
	}
	if !s.agents.attach(machine, svc) {
		_ = svc.Stop() // control stops, or the agent is forgotten already
	}
}

// claim reports whether the caller is to make a machine's micro service.
func (a *agents) claim(machine string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.heard[machine]
	if a.hushed || h == nil || h.spoken || len(a.heard) > maxSpoken {
		return false
	}
	h.spoken = true
	return true
}

func (a *agents) attach(machine string, svc micro.Service) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.heard[machine]
	if a.hushed || h == nil {
		return false
	}
	h.service = svc
	return true
}

// of is what a machine's agent has said last, nil if nothing.
func (a *agents) of(machine string) *markers.Needs {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.heard[machine]; h != nil {
		return h.needs
	}
	return nil
}

// hush takes the agents' micro services away, when control stops. The lock is not
// held meanwhile: a service that answers takes it, too.
func (s *Service) hush() {
	a := s.agents
	a.mu.Lock()
	a.hushed = true
	var all []micro.Service
	for _, h := range a.heard {
		if h.service != nil {
			all = append(all, h.service)
			h.service = nil
		}
	}
	a.mu.Unlock()
	for _, svc := range all {
		_ = svc.Stop() // fails only when the connection is gone, and the service with it
	}
}
