package control

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// desk is the part of the service that keeps and carries out what operators decide.
type desk struct {
	book    *book.Book // when ready
	rules   atomic.Pointer[rules]
	guides  *guides
	runs    *runs
	agents  *agents
	lives   *lives
	editing sync.Mutex // read and then write: of groups, policies, pins
}

func (d *desk) open(s *Service) {
	d.rules.Store(new(rules))
	d.guides, d.runs, d.agents, d.lives = newGuides(), newRuns(s), newAgents(), newLives(s)
}

// rules is what operators decided of groups and policies, as it was read last. It
// is never changed.
type rules struct {
	policies []policy.Policy
	groups   []policy.Group
}

// policyOf returns the policy of a machine.
func (r *rules) policyOf(machine string) policy.Policy {
	group := ""
	if g := policy.GroupOf(r.groups, machine); g != nil {
		group = g.Name
	}
	return policy.For(r.policies, machine, group)
}

// written reports whether somebody wrote the policy, which the default need not be.
func (r *rules) written(name string) bool {
	return slices.ContainsFunc(r.policies, func(p policy.Policy) bool { return p.Name == name })
}

func (r *rules) group(name string) *policy.Group {
	if i := slices.IndexFunc(r.groups, func(g policy.Group) bool { return g.Name == name }); i >= 0 {
		return &r.groups[i]
	}
	return nil
}

// followBook reads the book and follows it.
func (s *Service) followBook(ctx context.Context) error {
	b, err := book.Open(ctx, s.bus.JS)
	if err != nil {
		return err
	}
	s.book = b
	if err := s.recall(ctx); err != nil {
		return err
	}
	if err := s.lives.load(ctx); err != nil {
		return err
	}
	if err := s.readRules(ctx); err != nil {
		return err
	}
	stop, err := b.Watch(ctx, s.memory.due) // of any kind
	if err != nil {
		return err
	}
	s.stops = append(s.stops, stop)
	stop, err = b.Watch(ctx, func() {
		if err := s.readRules(s.base); err != nil && s.base.Err() == nil {
			s.log.Error("cannot read groups and policies", "err", err)
		}
	}, book.Group, book.Policy)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, stop)
	sub, err := s.bus.Conn.Subscribe(streams.PolicyAsks, s.asked)
	if err != nil {
		return err
	}
	s.stops = append(s.stops, func() { _ = sub.Unsubscribe() }) // only fails on a closed connection
	return nil
}

func (s *Service) readRules(ctx context.Context) error {
	policies, err := book.List[policy.Policy](ctx, s.book, book.Policy)
	if err != nil {
		return err
	}
	groups, err := book.List[policy.Group](ctx, s.book, book.Group)
	if err != nil {
		return err
	}
	r := new(rules)
	for _, p := range policies {
		r.policies = append(r.policies, p.Value)
	}
	for _, g := range groups {
		r.groups = append(r.groups, g.Value)
	}
	s.rules.Store(r)
	s.guides.wake()
	s.tellAll()
	return nil
}

// thresholds says when a machine's numbers become issues.
func (s *Service) thresholds(machine string) health.Thresholds {
	t := s.cfg.Health
	p := s.rules.Load().policyOf(machine)
	if s.rules.Load().written(p.Name) {
		t.RPO = time.Duration(p.RPO)
	}
	t.App = 2 * time.Duration(p.AppInterval)
	return t
}

// guides lead the barriers of the groups, one each.
type guides struct {
	mu      sync.Mutex
	running map[string]context.CancelFunc
	changed chan struct{} // closed and replaced when the rules change
	last    map[string]groupState
}

// groupState is what became of a group's newest barrier.
type groupState struct {
	at      time.Time
	trouble string
	failed  int // in a row
}

func newGuides() *guides {
	return &guides{running: map[string]context.CancelFunc{}, changed: make(chan struct{}), last: map[string]groupState{}}
}

func (g *guides) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *guides) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

func (g *guides) state(group string) groupState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last[group]
}

// guide starts a guide for every group and ends those of groups that are gone, until
// control stops.
func (s *Service) guide() {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		for _, cancel := range s.guides.running {
			cancel()
		}
	}()
	for s.base.Err() == nil {
		changed := s.guides.wait()
		r := s.rules.Load()
		for _, g := range r.groups {
			if s.guides.running[g.Name] == nil {
				ctx, cancel := context.WithCancel(s.base)
				s.guides.running[g.Name] = cancel
				wg.Go(func() { s.guideGroup(ctx, g.Name) })
			}
		}
		for name, cancel := range s.guides.running {
			if r.group(name) == nil {
				cancel()
				delete(s.guides.running, name)
			}
		}
		select {
		case <-changed:
		case <-s.base.Done():
		}
	}
}

const (
	appPatience = 3 * time.Minute // for hooks to make applications ready
	appRetry    = 5 * time.Minute // until an application-consistent point is tried again
)

// guideGroup makes points of a group, one after the other. Who joins or leaves does so
// between two barriers: each takes the members as they are when it begins.
func (s *Service) guideGroup(ctx context.Context, name string) {
	next, lastApp := time.Now(), time.Time{}
	for ctx.Err() == nil {
		changed := s.guides.wait()
		r := s.rules.Load()
		g := r.group(name)
		if g == nil {
			return
		}
		at, members := next, s.lives.atHome(g.Members)
		if len(members) == 0 {
			at = time.Now().Add(time.Hour)
		}
		t := time.NewTimer(max(time.Until(at), 0))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-changed:
			t.Stop()
			continue
		case <-t.C:
		}
		p := policy.For(r.policies, "", name)
		plan := markers.Plan{
			ID: markers.NewID(rand.Text()), Group: name, Members: members, Consistency: wire.Crash,
			Limit: time.Duration(p.FreezeLimit), Every: time.Duration(p.PointInterval), Patience: markers.DefaultPatience,
		}
		if !r.written(p.Name) {
			plan.Limit = 10 * time.Second // the agents' own limits hold
		}
		if p.AppInterval > 0 && time.Since(lastApp) >= time.Duration(p.AppInterval) {
			plan.Consistency = wire.App
			plan.Patience.Close = appPatience
		}
		began := time.Now()
		m, err := markers.Lead(ctx, s.bus.Conn, s.bus.JS, plan)
		if ctx.Err() != nil {
			return
		}
		if plan.Consistency == wire.App {
			lastApp = began
			if err != nil { // crash-consistent ones first, and this again before long
				lastApp = began.Add(min(time.Duration(p.AppInterval), appRetry) - time.Duration(p.AppInterval))
			}
		}
		next = began.Add(s.guided(name, plan, m, err))
	}
}

// guided notes what became of a barrier, and says when the next one is due after the
// beginning of this one.
func (s *Service) guided(name string, plan markers.Plan, m *wire.Marker, err error) time.Duration {
	s.guides.mu.Lock()
	st := s.guides.last[name]
	st.at = time.Now().UTC()
	if err == nil {
		st.failed, st.trouble = 0, ""
	} else {
		st.failed, st.trouble = st.failed+1, err.Error()
	}
	s.guides.last[name] = st
	s.guides.mu.Unlock()
	if err == nil {
		s.log.Info("point of a group is cut", "group", name, "point", m.ID, "machines", len(m.Members),
			"frozen_ms", float64(m.Frozen)/1e6, "skew_ms", float64(m.Skew)/1e6)
		return plan.Every
	}
	s.log.Warn("no point of a group", "group", name, "err", err, "in_a_row", st.failed)
	blame := plan.Members[0]
	if f, ok := errors.AsType[*markers.Failure](err); ok && f.Machine != "" {
		blame = f.Machine
	}
	s.publish(s.base, "", &wire.Event{
		Time: time.Now().UnixNano(), Machine: blame, Kind: health.GroupAborted, Severity: wire.Warning,
		What: clip("no point of group " + name + ": " + err.Error()),
		Try:  "see that leeward-agent runs on " + blame + ", or take it out: leeward group remove " + name + " " + blame,
	})
	// Members cut alone meanwhile; trying often would only disturb them.
	return min(plan.Every<<min(st.failed-1, 6), max(plan.Every, time.Minute))
}

func clip(s string) string {
	if len(s) > wire.MaxText {
		return strings.ToValidUTF8(s[:wire.MaxText], "")
	}
	return s
}
