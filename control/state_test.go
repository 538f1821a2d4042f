package control

import (
	"fmt"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func listedPoint(id string, at time.Time, machines ...string) *vault.Point {
	p := &vault.Point{ID: id, Group: "g", Time: at, Consistency: "crash", Listed: at.Add(time.Second)}
	for _, m := range machines {
		p.Machines = append(p.Machines, vault.PointMachine{Machine: m, Host: m + ".example", Disks: []vault.PointDisk{{Disk: "sda", Size: 4096, At: vault.Position{Epoch: 2, Number: 9}, Note: "unfrozen"}}})
	}
	return p
}

func happened(kind string, at time.Time) *wire.Event {
	return &wire.Event{Time: at.UnixNano(), Machine: "web", Disk: "sda", Kind: kind, Severity: wire.Warning, What: "x"}
}

func codes(s *state, now time.Time) string {
	out := ""
	for _, m := range s.machinesView(now, "web", defaults, nil) {
		for _, i := range m.Issues {
			out += i.Code + " "
		}
	}
	return out
}

// Conditions begin with events and end with what disproves them, in any order of
// arrival, because a start reads everything again.
func TestConditions(t *testing.T) {
	point := func(at time.Time) func(*state) {
		return func(s *state) { s.point(listedPoint("p"+at.String(), at, "web")) }
	}
	event := func(kind string, at time.Time) func(*state) { return func(s *state) { s.event(happened(kind, at)) } }
	receipt := func(at time.Time) func(*state) {
		return func(s *state) {
			s.receipt(&wire.Receipt{Machine: "web", Disk: "sda", Epoch: 1, Number: 1, Time: at.UnixNano()})
		}
	}
	base := []func(*state){point(noon.Add(-time.Minute)), receipt(noon)}
	cases := []struct {
		name  string
		steps []func(*state)
		want  string
	}{
		{"nothing", nil, ""},
		{"resync runs", []func(*state){event(health.Resync, noon)}, "resync "},
		{"resync over", []func(*state){event(health.Resync, noon), point(noon.Add(time.Second))}, ""},
		{"resync over, read again", []func(*state){point(noon.Add(time.Second)), event(health.Resync, noon)}, ""},
		{"fenced again", []func(*state){event(health.Fenced, noon), point(noon.Add(time.Second)), event(health.Fenced, noon.Add(2*time.Second))}, "fenced "},
		{"store", []func(*state){event(health.StoreFailed, noon.Add(time.Second))}, "store-failed "},
		{"store, then progress", []func(*state){event(health.StoreFailed, noon.Add(time.Second)), receipt(noon.Add(2 * time.Second))}, ""},
		{"store, read again", []func(*state){receipt(noon.Add(2 * time.Second)), event(health.StoreFailed, noon.Add(time.Second))}, ""},
		{"store recovered", []func(*state){event(health.StoreFailed, noon.Add(time.Second)), event(storeRecovered, noon.Add(2*time.Second))}, ""},
		{"two aborted", []func(*state){event(health.PointAborted, noon), event(health.PointAborted, noon)}, ""},
		{"three aborted", []func(*state){event(health.PointAborted, noon), event(health.PointAborted, noon), event(health.PointAborted, noon)}, "point-aborted "},
		{"not a condition", []func(*state){event("tea", noon)}, ""},
	}
	for _, c := range cases {
		s := newState()
		for _, step := range append(base, c.steps...) {
			step(s)
		}
		if got := codes(s, noon.Add(3*time.Second)); got != c.want {
			t.Errorf("%s: issues are %q, want %q", c.name, got, c.want)
		}
	}
}

func TestStateViews(t *testing.T) {
	s := newState()
	s.point(listedPoint("b", noon.Add(time.Minute), "web", "db"))
	s.point(listedPoint("a", noon, "web"))
	s.point(listedPoint("a", noon, "web")) // again
	if got := fmt.Sprint(len(s.pointsOf("")), len(s.pointsOf("web")), len(s.pointsOf("db")), len(s.pointsOf("g")), len(s.pointsOf("x"))); got != "2 2 1 2 0" {
		t.Errorf("points by name: %s", got)
	}
	if s.points[0].ID != "a" {
		t.Error("points are not sorted by time")
	}
	m := s.machinesView(noon.Add(2*time.Minute), "web", defaults, nil)[0]
	if m.Points != 2 || *m.RPO != 60 || m.LatestPoint.ID != "b" || m.Host != "web.example" {
		t.Errorf("machine from points alone: %+v", m)
	}
	if d := m.Disks[0]; d.SizeBytes != 4096 || d.Epoch != 2 || d.Note != "unfrozen" || d.Held {
		t.Errorf("disk from points alone: %+v", d)
	}
	// An older receipt does not take a newer one back.
	s.receipt(&wire.Receipt{Machine: "web", Disk: "sda", Epoch: 3, Number: 5, Size: 8192, Time: noon.UnixNano()})
	s.receipt(&wire.Receipt{Machine: "web", Disk: "sda", Epoch: 3, Number: 4, Size: 8192, Time: noon.Add(-time.Second).UnixNano()})
	s.opened(vault.DiskID{Machine: "web", Disk: "sda"}, 3, &vault.Open{Capture: "trace", Time: noon})
	s.lease("web", "sda", noon, bus.Holder{Instance: "i"}, false)
	d := s.machinesView(noon.Add(time.Second), "web", defaults, nil)[0].Disks[0]
	if d.Number != 5 || d.Capture != "trace" || !d.Held || d.Instance != "i" {
		t.Errorf("disk: %+v", d)
	}
	if d := s.machinesView(noon.Add(time.Minute), "web", defaults, nil)[0].Disks[0]; d.Held {
		t.Error("a lease outlives its time")
	}
	if got := s.pointsView(api.Query{Machine: "web", Since: noon.Add(time.Second)}); len(got) != 1 || got[0].ID != "b" {
		t.Errorf("points since: %+v", got)
	}
	if got := s.pointsView(api.Query{Consistency: "app"}); len(got) != 0 {
		t.Errorf("app points: %+v", got)
	}
}

func TestRingIsBounded(t *testing.T) {
	r := ring{max: 3}
	for i := range 100 {
		r.add(api.Event{What: fmt.Sprint(i)})
		if len(r.all) > 2*r.max {
			t.Fatalf("%d events are kept", len(r.all))
		}
	}
	if got := r.newest(); len(got) != 3 || got[0].What != "97" || got[2].What != "99" {
		t.Errorf("newest: %+v", got)
	}
}

func TestConfigValidate(t *testing.T) {
	good := Default()
	good.Dir = "/x"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.Dir = "" }, func(c *Config) { c.Lookups = 0 }, func(c *Config) { c.Health.RPO = 0 },
	} {
		bad := good
		change(&bad)
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

func defaults(string) health.Thresholds { return health.Default() }
