package control

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/notify"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Every change through the API is kept with who asked, also one that is refused, and
// nobody can take it back.
func TestAuditTrail(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	srv, err := serve(Default(), l.bus, s, s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(t.Context())
	c := api.NewClient(l.bus.Conn)
	c.Actor = "ann@desk"
	if _, err := c.ChangeGroup(t.Context(), api.GroupChange{Group: "shop", Create: true, Add: []string{"db"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Groups(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Actor = "bob@desk"
	if err := c.DeletePolicy(t.Context(), "gold"); api.AsError(err).Code != api.CodeNotFound {
		t.Fatal(err)
	}
	all, err := c.Records(t.Context(), api.Query{})
	if err != nil || len(all) != 2 {
		t.Fatalf("records %+v, %v", all, err)
	}
	if r := all[0]; r.Actor != "ann@desk" || r.Action != "group-change" || r.Object != "shop" || r.Error != "" || !strings.Contains(r.Request, `"db"`) || !strings.HasPrefix(r.Key, "_INBOX.") {
		t.Errorf("record %+v", r)
	}
	if r := all[1]; r.Actor != "bob@desk" || r.Action != "policy-delete" || r.Object != "gold" || r.Error == "" {
		t.Errorf("record %+v", r)
	}
	if one, err := c.Records(t.Context(), api.Query{Kind: "policy-delete", Since: time.Now().Add(-time.Hour)}); err != nil || len(one) != 1 {
		t.Errorf("of one action: %+v, %v", one, err)
	}
	st, err := l.bus.JS.Stream(t.Context(), streams.Audit)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("a record was deleted")
	}
	if err := st.Purge(t.Context()); err == nil {
		t.Error("the trail was purged")
	}
}

// Policies and groups go through the API as they go through YAML.
func TestPoliciesOverTheBus(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	srv, err := serve(Default(), l.bus, s, s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(t.Context())
	c := api.NewClient(l.bus.Conn)
	d, err := policy.Parse([]byte("schema: leeward.policies.v1\npolicies: [{name: gold, machines: [m], point_interval: 1s, retention: 'all=1h,daily=3'}]\ngroups: [{name: shop, members: [a, b]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ApplyPolicies(t.Context(), *d); err != nil {
		t.Fatal(err)
	}
	all, err := c.Policies(t.Context())
	if err != nil || len(all) != 2 || all[0].Name != policy.Default || all[1].Value.PointInterval != policy.MinInterval || all[1].Value.Retention.Daily != 3 || all[1].Version == 0 {
		t.Errorf("policies %+v, %v", all, err)
	}
	if g, err := c.Group(t.Context(), "shop"); err != nil || len(g.Members) != 2 {
		t.Errorf("group %+v, %v", g, err)
	}
}

func TestNotifications(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	got := make(chan notify.Message, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m notify.Message
		if err := json.NewDecoder(r.Body).Decode(&m); err == nil {
			got <- m
		}
	}))
	defer hook.Close()
	l.notifyEvery = 50 * time.Millisecond
	s, _ := l.start()
	if _, err := s.TestNotifications(l.as("ann")); api.AsError(err).Code != api.CodeRefused {
		t.Errorf("nobody to tell: %v", err)
	}
	if err := s.SetNotifications(l.as("ann"), notify.Config{Webhooks: []notify.Webhook{{URL: "nothing"}}}); api.AsError(err).Code != api.CodeUsage {
		t.Errorf("no address: %v", err)
	}
	if err := s.SetNotifications(l.as("ann"), notify.Config{Webhooks: []notify.Webhook{{URL: hook.URL}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.TestNotifications(l.as("ann")); err != nil || len(r.Sent) != 1 {
		t.Errorf("test: %+v, %v", r, err)
	}
	if m := <-got; m.Code != "test" || !strings.Contains(m.Cause, "ann") {
		t.Errorf("the test says %+v", m)
	}
	l.event(health.StoreFailed, wire.Critical)
	for deadline := time.After(patience); ; {
		select {
		case m := <-got:
			if m.Code == health.StoreFailed {
				if m.Level != health.Critical || m.Machine != "web" || m.Remedy == "" {
					t.Errorf("told %+v", m)
				}
				return
			}
		case <-deadline:
			t.Fatal("nobody was told")
		}
	}
}
