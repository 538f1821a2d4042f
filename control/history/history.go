package history

import (
	"math"
	"sync"
	"time"
)

// Bounds of what is kept.
const (
	MaxMachines = 2048
	Fine        = 10 * time.Second
	Coarse      = 5 * time.Minute
	fineSlots   = 360
	coarseSlots = 288
)

// Values of one look at a machine. NaN is what was not known.
type Values struct {
	RPO     float64 // seconds
	Sent    uint64  // bytes that its agent gave to the bus, a counter
	Since   int64   // when that counter began; another one is not compared with it
	Said    bool    // its agent said so
	Backlog float64 // bytes
}

// Sample is what is kept of one look.
type Sample struct {
	Time                time.Time
	RPO, Churn, Backlog float64 // seconds, bytes a second, bytes; NaN if not known
}

// packed is a Sample in 16 bytes.
type packed struct {
	at                  uint32 // seconds since 1970; 0: none
	rpo, churn, backlog float32
}

type ring struct {
	slots []packed
	next  int
}

func (r *ring) add(p packed) {
	r.slots[r.next] = p
	r.next = (r.next + 1) % len(r.slots)
}

func (r *ring) list() (out []packed) {
	for i := range r.slots {
		if p := r.slots[(r.next+i)%len(r.slots)]; p.at != 0 {
			out = append(out, p)
		}
	}
	return out
}

type machine struct {
	fine, coarse ring
	last         Values
	lastAt       time.Time
	sum          packed // of the coarse sample that is being made; at is when it began
	n            int
}

// History is safe for use by several goroutines.
type History struct {
	mu       sync.Mutex // guards machines
	machines map[string]*machine
}

// New makes an empty history.
func New() *History { return &History{machines: map[string]*machine{}} }

// Add notes a look at a machine.
func (h *History) Add(name string, at time.Time, v Values) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[name]
	if m == nil {
		if len(h.machines) >= MaxMachines {
			return
		}
		m = &machine{fine: ring{slots: make([]packed, fineSlots)}, coarse: ring{slots: make([]packed, coarseSlots)}}
		h.machines[name] = m
	}
	p := packed{at: uint32(at.Unix()), rpo: float32(v.RPO), churn: float32(math.NaN()), backlog: float32(v.Backlog)}
	if d := at.Sub(m.lastAt).Seconds(); v.Said && m.last.Said && v.Since == m.last.Since && v.Sent >= m.last.Sent && d > 0 {
		p.churn = float32(float64(v.Sent-m.last.Sent) / d)
	}
	m.last, m.lastAt = v, at
	m.fine.add(p)
	if m.n == 0 {
		m.sum, m.n = p, 1
		return
	}
	m.sum.rpo, m.sum.backlog = worst(m.sum.rpo, p.rpo), worst(m.sum.backlog, p.backlog)
	if m.sum.churn != m.sum.churn {
		m.sum.churn = p.churn
	} else if p.churn == p.churn {
		m.sum.churn += (p.churn - m.sum.churn) / float32(m.n+1)
	}
	m.n++
	if p.at-m.sum.at >= uint32(Coarse.Seconds()) {
		m.coarse.add(m.sum)
		m.n = 0
	}
}

// worst is the greater of two numbers, or the one that is known.
func worst(a, b float32) float32 {
	if a != a || b > a {
		return b
	}
	return a
}

// Forget drops what is kept of machines that are not known any more.
func (h *History) Forget(known func(name string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.machines {
		if !known(name) {
			delete(h.machines, name)
		}
	}
}

// Of returns what is kept of a machine, the oldest first: coarse samples up to where the
// fine ones begin.
func (h *History) Of(name string) []Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.machines[name]
	if m == nil {
		return nil
	}
	fine := m.fine.list()
	var all []packed
	for _, p := range m.coarse.list() {
		if len(fine) == 0 || p.at+uint32(Coarse.Seconds()) <= fine[0].at {
			all = append(all, p)
		}
	}
	out := make([]Sample, 0, len(all)+len(fine))
	for _, p := range append(all, fine...) {
		out = append(out, Sample{Time: time.Unix(int64(p.at), 0).UTC(), RPO: float64(p.rpo), Churn: float64(p.churn), Backlog: float64(p.backlog)})
	}
	return out
}
