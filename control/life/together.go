package life

import (
	"fmt"
	"slices"
)

// Together makes the planned failovers of several machines one: they have one final point,
// and either all are fenced with nothing lost, or all stay protected.
type Together struct {
	ID      string   `json:"id"` // of this failover; the same for all members
	Group   string   `json:"group"`
	Members []string `json:"members"`
}

// Leads reports whether a machine leads the others: it has the final point made.
func (t *Together) Leads(machine string) bool { return machine == slices.Min(t.Members) }

// way are the phases of a failover in their order.
var way = []Phase{Checking, Draining, Fencing, Stopping, Bringing, FailedOver}

// Reached reports whether all members have come to a phase, or beyond it. The error says
// which one never will, because it left the way: its failover failed or was cancelled.
// A member that was not asked yet is only late; for how long is the caller's to judge.
func (t *Together) Reached(at Phase, of func(machine string) *Life) (all bool, late []string, err error) {
	for _, m := range t.Members {
		l := of(m)
		if l.Order.Together == nil || l.Order.Together.ID != t.ID {
			late = append(late, m)
			continue
		}
		i := slices.Index(way, l.Phase)
		if l.Phase == Down { // it was fenced with the others; how it came up is its own affair
			i = len(way)
		}
		if i < 0 {
			return false, nil, fmt.Errorf("machine %s of group %s is %s: %s", m, t.Group, l.Phase, l.Error)
		}
		if i < slices.Index(way, at) {
			late = append(late, m)
		}
	}
	return len(late) == 0, late, nil
}
