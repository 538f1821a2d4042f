package control

import (
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/vaulttest"
)

// A machine is re-protected where it runs when a point is there that its own agent cut: not
// the one it began with, nor one of another agent.
func TestCutByItsOwnAgent(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	began, after := v.Point(t, "p1", "web", "crash", time.Now().Add(-time.Minute)), v.Point(t, "p2", "web", "crash", time.Now())
	w := wayHome{&Service{vault: v.Vault}}
	for _, c := range []struct {
		about  string
		holder string
		newer  bool
		want   bool
	}{{"its own", "test", true, true}, {"another's", "copy-1-web", true, false}, {"that it began with", "test", false, false}} {
		p := began
		if c.newer {
			p = after
		}
		got, err := w.cutBy(t.Context(), Homeward{Machine: "web", Point: began.ID, Holder: c.holder}, p, &p.Machines[0])
		if err != nil || got != c.want {
			t.Errorf("%s: %v, %v", c.about, got, err)
		}
	}
	j := &failover.Job{Request: failover.Request{Target: failover.Cloud, Options: failover.Options{Instance: "copy-1-web"}}}
	if goesOn(j, "copy-1-web") {
		t.Error("nothing was done to its disks, and an agent goes on")
	}
	j.Result = &failover.Result{Fixups: []string{"leeward-agent goes on as copy-1-web (/etc/systemd/system/leeward-agent.service.d/failover.conf is new)"}}
	if !goesOn(j, "copy-1-web") || goesOn(j, "copy-1") || goesOn(j, "copy-2-web") {
		t.Error("it is told of another agent")
	}
}
