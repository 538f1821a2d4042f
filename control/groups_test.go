package control

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// agent answers barriers for a machine with one disk in the lab's vault.
type agent struct {
	l       *lab
	machine string
	limits  chan time.Duration // of the freezes that were ordered
}

// vaultMu guards the lab's vault, which several agents write to.
var vaultMu sync.Mutex

func (a *agent) Prepare(context.Context, *markers.Order) error { return nil }
func (a *agent) Close(context.Context, *markers.Order) error   { return nil }
func (a *agent) Undo()                                         {}

func (a *agent) Freeze(_ context.Context, o *markers.Order) (time.Time, error) {
	select {
	case a.limits <- o.Limit:
	default:
	}
	return time.Now().Add(time.Minute), nil
}

func (a *agent) Thaw(_ context.Context, o *markers.Order) (*wire.Member, time.Duration, error) {
	id := vault.DiskID{Machine: a.machine, Disk: "sda"}
	vaultMu.Lock()
	at := a.l.vault.Write(a.l, id, o.Point, o.Group, false, map[int]byte{1: byte(time.Now().UnixNano()%250 + 1)})
	vaultMu.Unlock()
	b, err := wire.Encode(&wire.Receipt{Machine: a.machine, Disk: "sda", Epoch: at.Epoch, Number: at.Number, Size: vaulttest.Size, Time: time.Now().UnixNano()})
	if err == nil {
		_, err = a.l.bus.JS.Publish(a.l.Context(), streams.ReceiptsSubject(a.machine, "sda"), b)
	}
	return &wire.Member{Machine: a.machine, Disks: []wire.DiskCut{{Disk: "sda", Epoch: at.Epoch, Number: at.Number, Size: vaulttest.Size, Frozen: true}}}, 7 * time.Millisecond, err
}

// agent runs one until the test ends or stop is called.
func (l *lab) agent(machine string) (a *agent, stop func()) {
	l.Helper()
	a = &agent{l: l, machine: machine, limits: make(chan time.Duration, 100)}
	orders := make(chan *markers.Order, 64)
	sub, err := l.bus.Conn.Subscribe(streams.BarrierOrder(machine), func(m *nats.Msg) {
		if o, err := markers.DecodeOrder(m.Data); err == nil {
			orders <- o
		}
	})
	if err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case o := <-orders:
				if o.Stage == markers.Call {
					_ = markers.Join(ctx, l.bus.Conn, machine, o, orders, a) // what comes of it is control's to see
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = sub.Unsubscribe()
			cancel()
			<-done
		})
	}
	l.Cleanup(stop)
	return a, stop
}

// as is a context of an operator.
func (l *lab) as(name string) context.Context {
	return api.WithActor(l.Context(), api.Actor{Name: name})
}

func (l *lab) policy(s *Service, change func(*policy.Policy)) {
	l.Helper()
	p := policy.New(policy.Default)
	p.PointInterval = policy.MinInterval
	change(&p)
	if _, err := s.Apply(l.as("ann"), policy.Document{Policies: []policy.Policy{p}}); err != nil {
		l.Fatal(err)
	}
}

// latest returns the newest point of a group with so many machines.
func latest(s *Service, group string, machines int) *vault.Point {
	for _, p := range slices.Backward(s.state.pointsOf(group)) {
		if p.Group == group && len(p.Machines) == machines {
			return p
		}
	}
	return nil
}

func TestGroupCutsTogether(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	for _, m := range []string{"db", "web", "mail"} {
		l.agent(m)
	}
	l.policy(s, func(p *policy.Policy) { p.FreezeLimit = policy.Duration(5 * time.Second) })
	if _, err := s.ChangeGroup(l.as("ann"), api.GroupChange{Group: "shop", Create: true, Add: []string{"db", "web"}}); err != nil {
		t.Fatal(err)
	}
	l.eventually("a common point of two is listed", func() bool { return latest(s, "shop", 2) != nil })
	p := latest(s, "shop", 2)
	if p.Machines[0].Machine != "db" || p.Machines[1].Machine != "web" || p.Machines[0].Frozen != 7*time.Millisecond || p.Frozen != 7*time.Millisecond || p.Skew <= 0 {
		t.Errorf("point %+v", p)
	}
	// Who joins is in the next point, who leaves is not.
	if _, err := s.ChangeGroup(l.as("ann"), api.GroupChange{Group: "shop", Add: []string{"mail"}}); err != nil {
		t.Fatal(err)
	}
	l.eventually("a common point of three", func() bool { return latest(s, "shop", 3) != nil })
	if _, err := s.ChangeGroup(l.as("bob"), api.GroupChange{Group: "shop", Remove: []string{"web"}}); err != nil {
		t.Fatal(err)
	}
	before := latest(s, "shop", 3).Time
	l.eventually("a common point without the one that left", func() bool {
		p := latest(s, "shop", 2)
		return p != nil && p.Time.After(before) && p.Machines[1].Machine == "mail"
	})
	g, err := s.Group(t.Context(), "shop")
	if err != nil || strings.Join(g.Members, " ") != "db mail" || g.By != "bob" || g.LatestPoint == nil || g.LatestMembers < 2 || g.Policy != policy.Default {
		t.Errorf("group %+v, %v", g, err)
	}
	got, err := failover.Select(s.state.pointsOf(""), "web", failover.LatestMulti)
	if err != nil || len(got.Machines) < 2 || len(got.Machines) > 3 {
		t.Errorf("latest-multi of web is %+v, %v", got, err)
	}
	for what, c := range map[string]api.GroupChange{
		"twice":         {Group: "shop", Create: true},
		"two groups":    {Group: "other", Create: true, Add: []string{"db"}},
		"no group":      {Group: "nothing", Add: []string{"db"}},
		"not in it":     {Group: "shop", Remove: []string{"web"}},
		"bad name":      {Group: "a.b", Create: true},
		"of a machine":  {Group: "db", Create: true, Add: []string{"web"}},
		"named machine": {Group: "web", Create: true, Add: []string{"mail2"}},
	} {
		if g, err := s.ChangeGroup(l.as("ann"), c); err == nil {
			t.Errorf("%s: %+v", what, g)
		}
	}
}

// A member that is not there is blamed, the others are left alone, and when it comes
// back there are common points again.
func TestGroupMissesAMember(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	l.agent("db")
	l.policy(s, func(p *policy.Policy) { p.FreezeLimit = policy.Duration(5 * time.Second) })
	if _, err := s.ChangeGroup(l.as("ann"), api.GroupChange{Group: "shop", Create: true, Add: []string{"db", "web"}}); err != nil {
		t.Fatal(err)
	}
	l.eventually("the missing one is blamed", func() bool {
		g, err := s.Group(t.Context(), "shop")
		return err == nil && g.Failed > 0 && strings.Contains(g.Trouble, "web")
	})
	l.eventually("an event tells of it", func() bool {
		all, err := s.Events(t.Context(), api.Query{Kind: health.GroupAborted})
		return err == nil && len(all) > 0 && all[0].Machine == "web" && strings.Contains(all[0].Try, "leeward group remove shop web")
	})
	l.agent("web")
	l.eventually("a common point", func() bool { return latest(s, "shop", 2) != nil })
	if err := s.DeleteGroup(l.as("ann"), "shop"); err != nil {
		t.Fatal(err)
	}
	l.eventually("nobody leads the group any more", func() bool { return s.rules.Load().group("shop") == nil })
}

// A policy holds at once, for the group and for agents that listen.
func TestPolicyIsLive(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	a, _ := l.agent("db")
	told, err := l.bus.Conn.SubscribeSync(streams.PolicySet("db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.bus.Conn.Publish(streams.PolicyAsk("db"), nil); err != nil {
		t.Fatal(err)
	}
	next := func() *markers.Settings {
		m, err := told.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		set, err := markers.DecodeSettings(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	if set := next(); set.PointInterval != 0 || set.Machine != "db" {
		t.Errorf("before anybody wrote a policy: %+v", set)
	}
	if _, err := s.ChangeGroup(l.as("ann"), api.GroupChange{Group: "shop", Create: true, Add: []string{"db"}}); err != nil {
		t.Fatal(err)
	}
	p := policy.New("gold")
	p.Groups, p.PointInterval, p.FreezeLimit, p.RPO = []string{"shop"}, policy.MinInterval, policy.Duration(3*time.Second), policy.Duration(time.Hour)
	p.Throttle = []policy.Window{{From: "00:00", To: "24:00", Rate: 1 << 20}}
	if _, err := s.Apply(l.as("ann"), policy.Document{Policies: []policy.Policy{p}}); err != nil {
		t.Fatal(err)
	}
	l.eventually("the agent is told", func() bool {
		set := next()
		return set.PointInterval == time.Second && set.Rate == 1<<20 && set.Policy == "gold" && set.FreezeLimit == 3*time.Second
	})
	l.eventually("barriers have the new limit", func() bool {
		select {
		case d := <-a.limits:
			return d == 3*time.Second
		default:
			return false
		}
	})
	if got := s.thresholds("db").RPO; got != time.Hour {
		t.Errorf("health goes by an RPO of %v", got)
	}
	bad := p
	bad.Name, bad.Machines, bad.PointInterval = "other", nil, 0
	if _, err := s.Apply(l.as("ann"), policy.Document{Policies: []policy.Policy{bad}}); api.AsError(err).Code != api.CodeUsage {
		t.Errorf("a policy that cannot work: %v", err)
	}
	twin := p
	twin.Name = "twin"
	if _, err := s.Apply(l.as("ann"), policy.Document{Policies: []policy.Policy{twin}}); err == nil || !strings.Contains(err.Error(), "gold and twin") {
		t.Errorf("a group with two policies: %v", err)
	}
	if err := s.DeletePolicy(l.as("ann"), "gold"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeletePolicy(l.as("ann"), "gold"); api.AsError(err).Code != api.CodeNotFound {
		t.Errorf("removed twice: %v", err)
	}
}

func TestPinsNamesAndTidying(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	now := time.Now().UTC().Truncate(time.Second)
	for i, id := range []string{"p1", "p2", "p3", "p4"} {
		l.vault.Point(t, id, "web", "crash", now.Add(time.Duration(i-4)*time.Hour))
	}
	s, _ := l.start()
	if _, err := s.Pin(l.as("ann"), "p1", "before-upgrade"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(l.as("ann"), "p2", "before-upgrade"); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("one name for two points: %v", err)
	}
	if p, err := s.Pin(l.as("ann"), "p1", "golden"); err != nil || p.Name != "golden" || !p.Pinned {
		t.Errorf("named anew: %+v, %v", p, err)
	}
	if p, err := s.Point(t.Context(), "golden"); err != nil || p.ID != "p1" {
		t.Errorf("by its name: %v, %v", p, err)
	}
	if id, err := s.named(t.Context(), "web", "golden"); err != nil || id != "p1" {
		t.Errorf("for a failover: %s, %v", id, err)
	}
	if id, err := s.named(t.Context(), "mail", "golden"); err != nil || id != "golden" {
		t.Errorf("of another machine: %s, %v", id, err)
	}
	l.policy(s, func(p *policy.Policy) { p.Retention = vault.Retention{All: 90 * time.Minute} })
	l.eventually("the policy is read", func() bool { return s.rules.Load().written(policy.Default) })
	if _, err := s.tidyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, s, "web"); got != "p1 p3 p4" {
		t.Errorf("left: %s", got)
	}
	if _, err := s.Unpin(l.as("ann"), "golden"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unpin(l.as("ann"), "p1"); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("unpinned twice: %v", err)
	}
	if _, err := s.tidyOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, s, "web"); got != "p3 p4" {
		t.Errorf("left after unpinning: %s", got)
	}
	if _, err := s.Point(t.Context(), "p1"); !errors.Is(err, failover.ErrNoPoint) {
		t.Errorf("a point that is gone: %v", err)
	}
}
