package control

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/producers/markers"
)

// machinesView describes the machines, or the one that is named, sorted by name. copied
// has the machines that are protected at the recovery site.
func (s *state) machinesView(now time.Time, only string, t func(machine string) health.Thresholds, copied map[string]bool) []api.Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Machine{}
	for _, name := range slices.Sorted(maps.Keys(s.machines)) {
		if only == "" || only == name {
			out = append(out, s.machines[name].view(now, name, t(name), copied[name]))
		}
	}
	return out
}

func (m *machine) view(now time.Time, name string, t health.Thresholds, copied bool) api.Machine {
	f := m.facts
	v := api.Machine{
		Machine: name, Host: f.Host, OS: f.OS, Kernel: f.Kernel, CPUs: f.CPUs, MemoryBytes: f.Memory,
		Firmware: f.Firmware, NICs: f.NICs, Points: m.points, Issues: []health.Issue{}, Disks: []api.Disk{},
	}
	in := health.Machine{Name: name, Since: m.since, Copy: copied}
	needs := m.needs
	if now.Sub(m.needsAt) > agentSilent {
		needs = nil // it may be true no more
	}
	if needs != nil {
		v.Agent, in.Trouble = api.AgentOf(needs), needs.Trouble
	}
	if p := m.latest; p != nil {
		if m.factsAt == 0 {
			take(&v, pointMachine(p, name))
		}
		in.Point = p.Time
		in.App = m.latestApp
		age := now.Sub(p.Time).Seconds()
		v.RPO, v.LatestPoint = &age, &api.PointRef{ID: p.ID, Time: p.Time.UTC(), Consistency: p.Consistency}
	}
	for _, d := range slices.Sorted(maps.Keys(m.disks)) {
		k := m.disks[d]
		in.Disks = append(in.Disks, health.Disk{Name: d, Heartbeat: k.heartbeat, Receipt: k.received})
		x := k.view(now, d, m.latest, name)
		if i := needsOf(needs, d); i != nil {
			waits := i.Dirty + i.Left
			x.WaitingBytes, x.UnconfirmedBytes = &waits, &i.Unconfirmed
			v.Agent.WaitingBytes += waits
		}
		v.Disks = append(v.Disks, x)
	}
	for _, key := range slices.SortedFunc(maps.Keys(m.conditions), func(a, b [2]string) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
	}) {
		in.Conditions = append(in.Conditions, *m.conditions[key])
	}
	level, issues := health.Check(now, in, t)
	v.Health, v.Issues = level, append(v.Issues, issues...)
	return v
}

// needsOf finds a disk in what an agent says, nil if it is not there.
func needsOf(n *markers.Needs, disk string) *markers.DiskNeeds {
	if n == nil {
		return nil
	}
	if i := slices.IndexFunc(n.Disks, func(d markers.DiskNeeds) bool { return d.Disk == disk }); i >= 0 {
		return &n.Disks[i]
	}
	return nil
}

// take copies the facts of a recovery point, for a machine whose markers are gone.
func take(v *api.Machine, m *vault.PointMachine) {
	v.Host, v.OS, v.Kernel, v.CPUs, v.MemoryBytes, v.Firmware, v.NICs = m.Host, m.OS, m.Kernel, m.CPUs, m.Memory, m.Firmware, m.NICs
}

func pointMachine(p *vault.Point, name string) *vault.PointMachine {
	for i := range p.Machines {
		if p.Machines[i].Machine == name {
			return &p.Machines[i]
		}
	}
	return &vault.PointMachine{}
}

func (d *diskState) view(now time.Time, name string, latest *vault.Point, machine string) api.Disk {
	r := d.receipt
	v := api.Disk{
		Disk: name, SizeBytes: r.Size, Epoch: r.Epoch, Number: r.Number, LastReceipt: d.received,
		Held: d.held(now), Heartbeat: d.heartbeat, Instance: d.holder.Instance,
	}
	if r.Resend {
		v.Resend = cmp.Or(r.Reason, "links are missing")
	}
	if o := d.open; o != nil {
		v.Capture, v.Guarantee, v.Path = o.Capture, o.Guarantee, o.Path
	}
	if latest == nil {
		return v
	}
	for _, k := range pointMachine(latest, machine).Disks {
		if k.Disk != name {
			continue
		}
		v.Note = k.Note
		if v.SizeBytes == 0 {
			v.SizeBytes, v.Epoch, v.Number = k.Size, k.At.Epoch, k.At.Number
		}
	}
	return v
}

// pointsView describes the points that q chooses, the oldest first.
func (s *state) pointsView(q api.Query) []api.Point {
	out := []api.Point{}
	for _, p := range s.pointsOf(q.Machine) {
		if q.Consistency != "" && p.Consistency != q.Consistency || p.Time.Before(q.Since) {
			continue
		}
		out = append(out, api.PointOf(p))
	}
	return out
}

// pointsOf returns the points that include a machine, or are of a group, of that
// name; all for "".
func (s *state) pointsOf(name string) []*vault.Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" {
		return slices.Clone(s.points)
	}
	var out []*vault.Point
	for _, p := range s.points {
		if p.Group == name || slices.ContainsFunc(p.Machines, func(m vault.PointMachine) bool { return m.Machine == name }) {
			out = append(out, p)
		}
	}
	return out
}

// eventsView describes the events that q chooses, the oldest first.
func (s *state) eventsView(q api.Query) []api.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Concat(s.events.newest(), s.listings.newest())
	slices.SortStableFunc(all, func(a, b api.Event) int { return a.Time.Compare(b.Time) })
	return slices.DeleteFunc(all, func(e api.Event) bool {
		return q.Machine != "" && e.Machine != q.Machine || q.Kind != "" && e.Kind != q.Kind || e.Time.Before(q.Since)
	})
}
