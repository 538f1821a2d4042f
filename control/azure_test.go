package control

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
)

// mortal is the way to the cloud that one process has: when it is dead it has none.
type mortal struct {
	w     *lifeSite
	cloud *armtest.Cloud
	n     int
}

type deadError struct{ error }

func (deadError) NonRetriable() {}

func (m mortal) Do(req *http.Request) (*http.Response, error) {
	m.w.mu.Lock()
	dead := m.n != m.w.n
	m.w.mu.Unlock()
	if dead {
		return nil, deadError{errors.New("this process is dead")}
	}
	return m.cloud.Do(req)
}

// A machine is failed over to Azure, to another point, and for good, and another time it is
// cancelled, with control killed after everything it keeps and after everything it does:
// there is never more than one, never without a fence, and nothing is left.
func TestLifeInAzure(t *testing.T) {
	t.Parallel()
	s := azuritetest.Start(t)
	w := newLifeSite(t)
	cloud := armtest.New(t, s.Endpoint, azuritetest.Account, azuritetest.Key)
	w.kill = true
	w.tune = func(c *Config) {
		c.targets, c.adopt = nil, nil
		w.mu.Lock()
		defer w.mu.Unlock()
		c.Azure.Config = azure.Config{Place: azure.Place{
			Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region, Subnet: armtest.Subnet,
		}}.Tune(azure.Tuning{Transport: mortal{w, cloud, w.n}, Credential: armtest.Credential(), Pause: time.Millisecond})
	}
	w.up()
	r := order()
	r.Target, r.Options.Serial, r.Point = failover.Cloud, "booted", "p1"
	r.Options.Fixup = "off" // there is nothing to fix on its disk
	v, err := w.s.ValidateLife(w.as("ann"), api.LifeRequest{Machine: "web", Order: r.Order})
	if err != nil || !v.Good {
		t.Errorf("%+v, %v", v, err)
	}
	one := func() {
		t.Helper()
		if left := cloud.Left(t); len(left) != 4 || w.fenced() == "" { // a machine, its disk and the blob of that, its interface
			t.Errorf("%s: in the cloud there is %v; %q", w.s.lives.get("web").Phase, left, w.fenced())
		}
	}
	w.ask(life.Start, r, life.FailedOver)
	one()
	w.ask(life.Cancel, r, life.Protected)
	if left := cloud.Left(t); len(left) > 0 || w.fenced() != "" {
		t.Errorf("after a cancel there is %v, %q", left, w.fenced())
	}
	w.ask(life.Start, r, life.FailedOver)
	r.Point = "p2"
	w.ask(life.Change, r, life.FailedOver)
	one()
	if b := cloud.Download(t, cloud.Disks()[0]); b[7*4096] != '2' {
		t.Errorf("the disk in Azure is not that of the point: %q", b[7*4096])
	}
	w.ask(life.Commit, r, life.Committed)
	if _, err := w.s.AskLife(w.as("ann"), life.Reprotect, api.LifeRequest{Machine: "web"}); err == nil || !strings.Contains(err.Error(), "cannot be re-protected in Azure") {
		t.Errorf("re-protection of a machine in Azure: %v", err)
	}
	w.ask(life.Complete, r, life.Migrated)
	one()
	t.Logf("control was killed at %d places", len(w.killed))
}
