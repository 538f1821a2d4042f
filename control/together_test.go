package control

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// shop is two machines in a group, with agents that cut together, hold their disks, and
// say what they have not sent when they are fenced.
type shop struct {
	*lifeSite
	unsent map[string]*atomic.Uint64
}

func newShop(t *testing.T) *shop {
	p := &shop{lifeSite: newLifeSite(t), unsent: map[string]*atomic.Uint64{}}
	p.vault.Point(t, "d1", "db", "crash", time.Now().Add(-time.Hour))
	for _, m := range []string{"db", "web"} {
		p.agent(m)
		n := &atomic.Uint64{}
		p.unsent[m] = n
		lease, err := bus.AcquireLease(t.Context(), p.bus.JS, m, "sda", bus.ThisProcess("agent of "+m), bus.LeaseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = lease.Release(context.Background()) }) // the bus goes too
		sub, err := p.bus.Conn.Subscribe(streams.PolicySet(m), func(msg *nats.Msg) {
			s, err := markers.DecodeSettings(msg.Data)
			if err != nil || s.Fenced == "" {
				return
			}
			b, err := (&markers.Quiet{Machine: m, Fence: s.Fence, Bytes: n.Load()}).Encode()
			if err == nil {
				err = p.bus.Conn.Publish(streams.PolicyAsk(m), b)
			}
			if err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sub.Unsubscribe() })
	}
	p.up()
	p.eventually("both agents are there", func() bool { return p.s.online("db") && p.s.online("web") })
	if _, err := p.s.ChangeGroup(p.as("ann"), api.GroupChange{Group: "shop", Create: true, Add: []string{"web", "db"}}); err != nil {
		t.Fatal(err)
	}
	p.eventually("the group is known", func() bool { return p.s.rules.Load().group("shop") != nil })
	return p
}

// start asks for the failover of the group until it is taken, and goes on, whatever is
// killed, until both machines rest.
func (p *shop) start(r api.LifeRequest) (db, web *life.Life) {
	p.Helper()
	asked := false
	for end := time.Now().Add(2 * patience); time.Now().Before(end); {
		if over(p.gone) {
			p.up()
			p.eventually("both agents are there", func() bool { return over(p.gone) || p.s.online("db") && p.s.online("web") })
			asked = false
			continue
		}
		if !asked {
			ctx, cancel := p.untilGone(p.as("ann"))
			_, err := p.s.AskLife(ctx, life.Start, r)
			cancel()
			if asked = err == nil; asked {
				continue
			}
			select {
			case <-p.gone: // it was killed meanwhile
			case <-time.After(30 * time.Second):
				p.Fatal(err)
			}
			continue
		}
		db, web = p.s.lives.get("db"), p.s.lives.get("web")
		if !db.Phase.Working() && !web.Phase.Working() && !over(p.gone) {
			return db, web
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-p.gone:
		}
	}
	p.Fatalf("db is %s, web is %s", p.s.lives.get("db").Phase, p.s.lives.get("web").Phase)
	return nil, nil
}

func planned(id string) api.LifeRequest {
	r := api.LifeRequest{Group: "shop", Confirm: "shop"}
	r.ID, r.Planned, r.Target, r.Options = id, true, "qemu", failover.Options{Serial: "hello"}
	return r
}

// A planned failover of a group has one final point, of all of its machines, wherever
// control is killed.
func TestGroupGoesTogether(t *testing.T) {
	t.Parallel()
	p := newShop(t)
	p.mu.Lock()
	p.kill = true
	p.mu.Unlock()
	db, web := p.start(planned("one"))
	if db.Phase != life.FailedOver || web.Phase != life.FailedOver || db.Point == "" || db.Point != web.Point || *db.Loss != 0 || *web.Loss != 0 {
		t.Fatalf("db %+v\nweb %+v", db, web)
	}
	k, err := p.vault.Vault.Point(t.Context(), db.Point)
	if err != nil || len(k.Machines) != 2 || k.Group != "shop" {
		t.Fatalf("the point is %+v, %v", k, err)
	}
	for _, m := range k.Machines {
		if at := p.vault.Head(vault.DiskID{Machine: m.Machine, Disk: "sda"}).Position; at != m.Disks[0].At {
			t.Errorf("%s was cut at %s, and the vault has %s", m.Machine, m.Disks[0].At, at)
		}
	}
	p.mu.Lock()
	killed, copies := len(p.killed), len(p.copies)
	p.mu.Unlock()
	if killed < 8 || copies != 2 {
		t.Errorf("control was killed %d times, %d copies run", killed, copies)
	}
}

// What one of them loses keeps all at home.
func TestGroupStaysTogether(t *testing.T) {
	t.Parallel()
	p := newShop(t)
	p.unsent["web"].Store(4096)
	db, web := p.start(planned("two"))
	if db.Phase != life.Protected || web.Phase != life.Protected || !strings.Contains(web.Error, "4096 bytes changed") || !strings.Contains(db.Error, "together or not at all: machine web") {
		t.Fatalf("db %+v\nweb %+v", db, web)
	}
	if p.fenced() != "" || len(p.copies) != 0 {
		t.Errorf("%q, copies %v", p.fenced(), p.copies)
	}
	p.eventually("the group cuts points again", func() bool {
		k := latest(p.s, "shop", 2)
		return k != nil && k.Time.After(web.Since)
	})
	// A command that fails on one keeps all at home, too.
	p.unsent["web"].Store(0)
	r := planned("three")
	r.Quiesce = `test "$LEEWARD_PLAN" = web`
	db, web = p.start(r)
	if db.Phase != life.Protected || web.Phase != life.Protected || !strings.Contains(fmt.Sprint(db.Error, web.Error), "the command that stops the applications failed") {
		t.Fatalf("db %+v\nweb %+v", db, web)
	}
	// When nothing is in the way they go.
	r = planned("four")
	r.Quiesce = "true"
	if db, web = p.start(r); db.Phase != life.FailedOver || db.Point != web.Point {
		t.Fatalf("db %+v\nweb %+v", db, web)
	}
}
