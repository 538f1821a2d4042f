package control

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// state is what control knows, in memory. It decides nothing and does no I/O; all
// of it can be rebuilt from the vault and the streams.
type state struct {
	mu       sync.Mutex
	machines map[string]*machine
	points   []*vault.Point // by time, then id
	byID     map[string]*vault.Point
	events   ring // all but the listing of points, which would drown them
	listings ring
}

type machine struct {
	since      time.Time
	facts      wire.Facts
	factsAt    int64
	points     int
	latest     *vault.Point
	latestApp  time.Time // cut of the newest application-consistent one
	disks      map[string]*diskState
	conditions map[[2]string]*health.Condition // by kind and disk
	needs      *markers.Needs                  // what its agent said last, nil if nothing
	needsAt    time.Time
}

type diskState struct {
	receipt   wire.Receipt
	received  time.Time
	heartbeat time.Time
	released  bool // the agent gave the lease back
	holder    bus.Holder
	open      *vault.Open // of the epoch below
	openEpoch uint64
}

func newState() *state {
	return &state{
		machines: map[string]*machine{}, byID: map[string]*vault.Point{},
		events: ring{max: 2000}, listings: ring{max: 200},
	}
}

func (s *state) machine(name string, at time.Time) *machine {
	m := s.machines[name]
	if m == nil {
		m = &machine{since: at, disks: map[string]*diskState{}, conditions: map[[2]string]*health.Condition{}}
		s.machines[name] = m
	}
	if at.Before(m.since) {
		m.since = at
	}
	return m
}

func (m *machine) disk(name string) *diskState {
	d := m.disks[name]
	if d == nil {
		d = &diskState{}
		m.disks[name] = d
	}
	return d
}

// listed reports whether the vault lists a point.
func (s *state) listed(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id] != nil
}

// point takes in a listed point; the same one again changes nothing.
func (s *state) point(p *vault.Point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[p.ID] != nil {
		return
	}
	s.byID[p.ID] = p
	i, _ := slices.BinarySearchFunc(s.points, p, func(a, b *vault.Point) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	s.points = slices.Insert(s.points, i, p)
	for _, k := range p.Machines {
		m := s.machine(k.Machine, p.Time)
		m.points++
		if m.latest == nil || m.latest.Time.Before(p.Time) {
			m.latest = p
		}
		if p.Consistency == string(wire.App) && p.Time.After(m.latestApp) {
			m.latestApp = p.Time
		}
		for _, d := range k.Disks {
			m.disk(d.Disk)
		}
		m.settle(p.Time, len(p.Machines) > 1)
	}
}

// settle ends the conditions that a point cut after they began disproves.
// That no common point is made is only disproved by a common one.
func (m *machine) settle(cut time.Time, common bool) {
	for k, c := range m.conditions {
		if cut.After(c.Since) && (common || c.Kind != health.GroupAborted) {
			delete(m.conditions, k)
		}
	}
}

// marker notes the machines that a marker tells of.
func (s *state) marker(w *wire.Marker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range w.Members {
		m := s.machine(k.Machine, time.Unix(0, w.Time).UTC())
		if w.Time >= m.factsAt {
			m.facts, m.factsAt = k.Facts, w.Time
		}
		for _, d := range k.Disks {
			m.disk(d.Disk)
		}
	}
}

// receipt notes progress. It reports whether the disk's epoch is new, so that who
// protects it is worth a look.
func (s *state) receipt(r *wire.Receipt) (fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Unix(0, r.Time).UTC()
	m := s.machine(r.Machine, at)
	d := m.disk(r.Disk)
	if !at.Before(d.received) {
		d.receipt, d.received = *r, at
	}
	m.stored(r.Disk, at)
	return d.openEpoch != r.Epoch
}

// opened notes who protects a disk.
func (s *state) opened(id vault.DiskID, epoch uint64, o *vault.Open) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.machine(id.Machine, o.Time).disk(id.Disk)
	if epoch >= d.openEpoch {
		d.open, d.openEpoch = o, epoch
	}
}

// lease notes a renewal of an agent's hold on a disk, or that it gave it back.
func (s *state) lease(machine, disk string, at time.Time, h bus.Holder, released bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.machine(machine, at).disk(disk)
	d.released = released
	if !released {
		d.holder = h
	}
	if at.After(d.heartbeat) {
		d.heartbeat = at
	}
}

// says notes what the agent of a known machine says of itself.
func (s *state) says(n *markers.Needs, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.machines[n.Machine]; m != nil {
		m.needs, m.needsAt = n, at
	}
}

// event takes in an event and the condition that begins with it.
func (s *state) event(e *wire.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Kind == kindPoint {
		s.listings.add(api.EventOf(e))
		return
	}
	s.events.add(api.EventOf(e))
	switch e.Kind {
	case health.Resync, health.Fenced, health.Fork, health.PointAborted, health.GroupAborted, health.StoreFailed, health.Abandoned:
	case storeRecovered:
		s.recovered(time.Unix(0, e.Time).UTC())
		return
	default:
		return
	}
	at := time.Unix(0, e.Time).UTC()
	m := s.machine(e.Machine, at)
	key := [2]string{e.Kind, e.Disk}
	c := m.conditions[key]
	if c == nil {
		c = &health.Condition{Kind: e.Kind, Disk: e.Disk, Since: at}
		m.conditions[key] = c
	}
	c.Count++
	c.What, c.Try = e.What, e.Try
	// An old event read again after a start may be over already.
	if m.latest != nil {
		m.settle(m.latest.Time, len(m.latest.Machines) > 1)
	}
	for name, d := range m.disks {
		m.stored(name, d.received)
	}
}

// stored ends the complaint that the store fails, when the vault has progress of
// a disk after it.
func (m *machine) stored(disk string, at time.Time) {
	for k, c := range m.conditions {
		if c.Kind == health.StoreFailed && at.After(c.Since) && (c.Disk == "" || c.Disk == disk) {
			delete(m.conditions, k)
		}
	}
}

// storeRecovered is the kind of the event that a process server sends when the
// store takes writes again, of whatever disk.
const storeRecovered = "store-recovered"

func (s *state) recovered(at time.Time) {
	for _, m := range s.machines {
		for k, c := range m.conditions {
			if c.Kind == health.StoreFailed && at.After(c.Since) {
				delete(m.conditions, k)
			}
		}
	}
}

// held reports whether an agent holds the disk now.
func (d *diskState) held(now time.Time) bool {
	return !d.released && now.Sub(d.heartbeat) <= streams.LeaseTTL
}

// ring keeps the newest events.
type ring struct {
	max int
	all []api.Event
}

func (r *ring) add(e api.Event) {
	r.all = append(r.all, e)
	if len(r.all) >= 2*r.max { // amortised: copies once in max
		r.all = slices.Clone(r.all[len(r.all)-r.max:])
	}
}

func (r *ring) newest() []api.Event { return api.Newest(r.all, r.max) }

// forget takes out points that the vault lists no more.
func (s *state) forget(ids map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.points = slices.DeleteFunc(s.points, func(p *vault.Point) bool {
		if !ids[p.ID] {
			return false
		}
		delete(s.byID, p.ID)
		for _, k := range p.Machines {
			s.machine(k.Machine, p.Time).points--
		}
		return true
	})
}
