package control

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/policy"
)

// What is known of a machine that is re-protected is as real as of one at home: its RPO is
// that of its points here, and grows when there come no more.
func TestReprotectedMachineHasHealth(t *testing.T) {
	t.Parallel()
	w := newLifeSite(t)
	w.up()
	health1 := func() api.Machine {
		t.Helper()
		all, err := w.s.Machines(t.Context(), api.Query{Machine: "web"})
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0]
	}
	w.ask(life.Start, order(), life.FailedOver)
	w.ask(life.Commit, api.LifeRequest{}, life.Committed)
	if m := health1(); m.Health != health.NotApplicable {
		t.Errorf("nobody protects it, and it is %s", m.Health)
	}
	w.ask(life.Reprotect, api.LifeRequest{}, life.Ready)
	w.vault.Point(t, "p3", "web", "crash", time.Now())
	w.s.state.point(must(w.vault.Vault.Point(t.Context(), "p3"))(t))
	if m := health1(); m.Health != health.Healthy || m.RPO == nil || *m.RPO > 60 || m.LatestPoint.ID != "p3" {
		t.Errorf("re-protected it is %s, %v, %+v", m.Health, m.RPO, m.Issues)
	}
	w.policy(w.s, func(p *policy.Policy) {
		p.PointInterval, p.RPO = policy.Duration(time.Second), policy.Duration(time.Second)
	})
	w.eventually("its points are too old", func() bool {
		m := health1()
		return health.Rank(m.Health) >= health.Rank(health.Warning) && len(m.Issues) == 1 && m.Issues[0].Code == "rpo-exceeded" && strings.Contains(m.Issues[0].Remedy, "keeper")
	})
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
