package process

import (
	"maps"
	"slices"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// table says who owns which partition. It is one value in the bucket
// streams.Shares, changed only by compare-and-set, so all servers agree on it.
type table struct {
	Generation uint64                   `json:"generation"` // counts changes
	Members    map[string]member        `json:"members"`    // by instance
	Partitions [streams.Partitions]spot `json:"partitions"`
}

// member is a process server of the pool.
type member struct {
	bus.Holder
	Standby bool `json:"standby,omitempty"`
}

// workers are those who may get partitions: who stands by does only where there is nobody
// else.
func workers(live map[string]member) map[string]member {
	w := maps.Clone(live)
	maps.DeleteFunc(w, func(_ string, m member) bool { return m.Standby })
	if len(w) == 0 {
		return live
	}
	return w
}

// spot is one partition. Next is the member it moves to when Owner has committed
// what it holds and lets go.
type spot struct {
	Owner string `json:"owner,omitempty"`
	Next  string `json:"next,omitempty"`
}

// holder is who has the partition in the end.
func (s spot) holder() string {
	if s.Next != "" {
		return s.Next
	}
	return s.Owner
}

func (t table) clone() table {
	t.Members = maps.Clone(t.Members)
	if t.Members == nil {
		t.Members = map[string]member{}
	}
	return t
}

// plan shares the partitions between the live members: each gets as many as every
// other or one more, what is free goes to somebody at once, and what a living
// member owns moves only as far as balance asks. It decides without I/O, and two
// callers who see the same get the same.
func plan(t table, live map[string]member) (table, bool) {
	old := t
	t = t.clone()
	t.Members = maps.Clone(live)
	work := workers(live)
	ids := slices.Sorted(maps.Keys(work))
	if len(ids) == 0 {
		return old, false
	}
	count := map[string]int{}
	for i := range t.Partitions {
		s := &t.Partitions[i]
		if _, ok := work[s.Next]; !ok {
			s.Next = ""
		}
		if _, ok := live[s.Owner]; !ok {
			s.Owner, s.Next = s.Next, ""
		}
		if _, ok := work[s.holder()]; ok {
			count[s.holder()]++
		}
	}
	least := func() string {
		return slices.MinFunc(ids, func(a, b string) int { return count[a] - count[b] }) // the first of equals
	}
	for i := range t.Partitions {
		s := &t.Partitions[i]
		if _, ok := work[s.holder()]; ok {
			continue
		}
		to := least()
		if count[to]++; s.Owner == "" {
			s.Owner = to
		} else {
			s.Next = to // from one who stands by, and commits what it has before
		}
	}
	most := func() string { return slices.MaxFunc(ids, func(a, b string) int { return count[a] - count[b] }) }
	for to, from := least(), most(); count[from]-count[to] > 1; to, from = least(), most() {
		i := slices.IndexFunc(t.Partitions[:], func(s spot) bool { return s.holder() == from })
		s := &t.Partitions[i]
		if s.Next = to; s.Owner == to {
			s.Next = "" // it was to move, now it stays
		}
		count[from]--
		count[to]++
	}
	changed := t.Partitions != old.Partitions || !slices.Equal(slices.Sorted(maps.Keys(live)), slices.Sorted(maps.Keys(old.Members)))
	if !changed {
		return old, false
	}
	t.Generation++
	return t, true
}

// let hands over the partitions that me was asked to give away and has left.
func let(t table, me string, left []int) (table, bool) {
	t, changed := t.clone(), false
	for _, n := range left {
		if s := &t.Partitions[n]; s.Owner == me && s.Next != "" {
			s.Owner, s.Next, changed = s.Next, "", true
		}
	}
	if changed {
		t.Generation++
	}
	return t, changed
}
