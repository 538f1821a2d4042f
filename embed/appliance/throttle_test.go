package appliance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/policy"
)

// The site's rate is divided between agents that run, changed and lifted while they
// do, and every agent is a micro service.
func TestSiteThrottle(t *testing.T) {
	t.Parallel()
	q := squeeze(t)
	names, _ := q.machines(2)
	c := q.client
	c.Actor = "test"
	for _, m := range names {
		eventually(t, "a first point of "+m, func() bool { return q.latest(m, time.Unix(0, 0)) != nil })
	}
	rates := func() (all []int64) {
		for _, m := range names {
			x, err := c.Machine(t.Context(), m)
			if err != nil || x.Agent == nil {
				return nil
			}
			all = append(all, x.Agent.RateBytes)
		}
		return all
	}
	set := func(windows []policy.Window) {
		p := policy.New(policy.Default)
		p.RPO, p.SiteThrottle = policy.Duration(10*time.Minute), windows
		if _, err := c.ApplyPolicies(t.Context(), policy.Document{Schema: policy.Schema, Policies: []policy.Policy{p}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, rate := range []int64{8 << 20, 2 << 20, 0} {
		var windows []policy.Window
		if rate > 0 {
			windows = []policy.Window{{From: "00:00", To: "24:00", Rate: rate}}
		}
		set(windows)
		eventually(t, "the agents to have shares of the rate", func() bool {
			r := rates()
			if len(r) < 2 {
				return false
			}
			if rate == 0 {
				return r[0]+r[1] == 0
			}
			return r[0] > 0 && r[1] > 0 && r[0]+r[1] <= rate && r[0]+r[1] > rate*3/4
		})
	}

	b := connect(t, q.dir, "admin")
	defer b.Close()
	for _, m := range names {
		r, err := b.Conn.Request("leeward.agent."+m+".stats", nil, patience)
		var n struct{ Machine string }
		if err != nil || json.Unmarshal(r.Data, &n) != nil || n.Machine != m {
			t.Errorf("numbers of %s: %v, %v", m, r, err)
		}
	}
	r, err := b.Conn.Request(micro.APIPrefix+".INFO.leeward-agent", nil, patience)
	var i micro.Info
	if err != nil || json.Unmarshal(r.Data, &i) != nil || i.Metadata["machine"] == "" {
		t.Errorf("the micro service of an agent: %+v, %v", i, err)
	}
	var _ *api.Client = c
}
