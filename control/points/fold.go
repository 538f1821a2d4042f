package points

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Ask is a question to the vault: does it hold this cut?
type Ask struct {
	Point string
	Disk  vault.DiskID
	At    vault.Position
	// Decisive is set when a receipt says that the disk is at or past the cut, so
	// that "no" means never.
	Decisive bool
}

// Abandoned says that a marker will never become a point.
type Abandoned struct {
	Point    string
	Group    string
	Machine  string // the member that is to blame
	Disk     string
	Time     time.Time // of the cut
	Reason   string    // one sentence for people
	Expected bool      // a disk went on in a new epoch, as after a crash of its agent
}

// Decisions is what a step of the fold wants done.
type Decisions struct {
	Ask     []Ask
	List    []*vault.Point // complete; Listed is left for the caller to set
	Abandon []Abandoned
}

func (d *Decisions) add(e Decisions) {
	d.Ask = append(d.Ask, e.Ask...)
	d.List = append(d.List, e.List...)
	d.Abandon = append(d.Abandon, e.Abandon...)
}

// remembered is how many decided markers the fold knows again when they are
// delivered once more. It only saves work: the caller asks the vault's catalogue
// before it feeds a marker.
const remembered = 4096

// Fold holds the markers that are not decided yet. The zero Fold is not usable.
type Fold struct {
	heads   map[vault.DiskID]vault.Position // newest receipt of each disk
	pending map[string]*pending
	waiting map[vault.DiskID]map[string]bool // disk -> pending markers that need it
	decided map[string]bool
	order   []string // of decided, oldest first
	round   int      // of Look
}

// New returns an empty fold.
func New() *Fold {
	return &Fold{
		heads:   map[vault.DiskID]vault.Position{},
		pending: map[string]*pending{},
		waiting: map[vault.DiskID]map[string]bool{},
		decided: map[string]bool{},
	}
}

type pending struct {
	marker   *wire.Marker
	cuts     map[vault.DiskID]*cut
	complete bool // listed by a decision, waiting for Listed
	due      int  // round of Look in which its turn comes
	gap      int  // rounds until the turn after that
}

type cut struct {
	at    vault.Position
	size  uint64
	asked bool // the question is on its way
	found *vault.CutInfo
}

// Marker feeds a marker.
func (f *Fold) Marker(m *wire.Marker) Decisions {
	if f.decided[m.ID] || f.pending[m.ID] != nil {
		return Decisions{}
	}
	p := &pending{marker: m, cuts: map[vault.DiskID]*cut{}, due: f.round + 2, gap: 1}
	for _, k := range m.Members {
		for _, d := range k.Disks {
			id := vault.DiskID{Machine: k.Machine, Disk: d.Disk}
			if p.cuts[id] != nil {
				return f.abandon(m, id, "the marker names disk "+id.String()+" twice", false)
			}
			p.cuts[id] = &cut{at: vault.Position{Epoch: d.Epoch, Number: d.Number}, size: d.Size}
		}
	}
	if len(p.cuts) == 0 {
		return f.abandon(m, vault.DiskID{}, "the marker names no disk", false)
	}
	f.pending[m.ID] = p
	for id := range p.cuts {
		if f.waiting[id] == nil {
			f.waiting[id] = map[string]bool{}
		}
		f.waiting[id][m.ID] = true
	}
	var d Decisions
	p.each(func(id vault.DiskID, c *cut) { d.add(f.ask(p, id, c, false)) })
	return d
}

// Receipt feeds a receipt.
func (f *Fold) Receipt(r *wire.Receipt) Decisions {
	id := vault.DiskID{Machine: r.Machine, Disk: r.Disk}
	at := vault.Position{Epoch: r.Epoch, Number: r.Number}
	if !reached(at, f.heads[id]) || at == f.heads[id] {
		return Decisions{}
	}
	f.heads[id] = at
	var d Decisions
	for _, point := range slices.Sorted(maps.Keys(f.waiting[id])) {
		p := f.pending[point]
		d.add(f.ask(p, id, p.cuts[id], false))
	}
	return d
}

// Recheck asks for every cut that is not confirmed, whatever the receipts say.
// Receipts may be lost with the broker's disk; the vault knows what it holds.
func (f *Fold) Recheck() Decisions {
	var d Decisions
	for _, point := range slices.Sorted(maps.Keys(f.pending)) {
		p := f.pending[point]
		p.each(func(id vault.DiskID, c *cut) { d.add(f.ask(p, id, c, true)) })
	}
	return d
}

// maxGap is the most rounds of Look between two turns of a marker.
const maxGap = 10

// Look is a Recheck in rounds, which the caller makes every few seconds. It asks for
// about limit cuts at most: of the markers whose turn it is, the oldest first. The first
// turn of a marker comes after at least one whole round, the next ones ever more rarely:
// a marker whose receipt got lost is soon decided, and one that waits for long costs
// little. What is complete and not listed is to be listed again at its turn.
func (f *Fold) Look(limit int) Decisions {
	f.round++
	var due []string
	for point, p := range f.pending {
		if p.due <= f.round {
			due = append(due, point)
		}
	}
	slices.Sort(due) // names of points begin with their time
	var d Decisions
	for _, point := range due {
		if len(d.Ask)+len(d.List) >= limit {
			break
		}
		p := f.pending[point]
		p.due, p.gap = f.round+p.gap, min(2*p.gap, maxGap)
		if p.complete {
			d.List = append(d.List, p.point())
			continue
		}
		p.each(func(id vault.DiskID, c *cut) { d.add(f.ask(p, id, c, true)) })
	}
	return d
}

// Answer feeds the vault's answer to a: the cut, or nil if the vault does not hold
// it. An error of the vault is no answer; see Failed.
func (f *Fold) Answer(a Ask, info *vault.CutInfo) Decisions {
	p, c := f.find(a)
	if c == nil || c.found != nil {
		return Decisions{}
	}
	c.asked = false
	if info != nil {
		if reason := mismatch(p.marker, a, c, info); reason != "" {
			return f.abandon(p.marker, a.Disk, reason, false)
		}
		c.found = info
		if !p.confirmed() {
			return Decisions{}
		}
		p.complete = true
		return Decisions{List: []*vault.Point{p.point()}}
	}
	if a.Decisive {
		head := f.heads[a.Disk]
		if head.Epoch == c.at.Epoch {
			return f.abandon(p.marker, a.Disk, fmt.Sprintf("the vault holds disk %s up to number %d of epoch %d, but no cut at number %d",
				a.Disk, head.Number, head.Epoch, c.at.Number), false)
		}
		return f.abandon(p.marker, a.Disk, fmt.Sprintf("disk %s went on in epoch %d before its cut (number %d of epoch %d) reached the vault",
			a.Disk, head.Epoch, c.at.Number, c.at.Epoch), true)
	}
	return f.ask(p, a.Disk, c, false)
}

// Failed says that the vault could not be asked. The cut is asked for again on
// the next receipt of the disk or the next Look or Recheck.
func (f *Fold) Failed(a Ask) {
	if _, c := f.find(a); c != nil {
		c.asked = false
	}
}

// Listed says that the vault lists the point: the marker is decided.
func (f *Fold) Listed(point string) { f.forget(point) }

// Unlisted returns the complete points that are not listed yet, for another try.
func (f *Fold) Unlisted() []*vault.Point {
	var all []*vault.Point
	for _, point := range slices.Sorted(maps.Keys(f.pending)) {
		if p := f.pending[point]; p.complete {
			all = append(all, p.point())
		}
	}
	return all
}

// Decided reports whether the marker was listed or abandoned not long ago.
func (f *Fold) Decided(point string) bool { return f.decided[point] }

// Pending counts the markers that are not decided.
func (f *Fold) Pending() int { return len(f.pending) }

// Waiting counts the undecided markers that need a disk.
func (f *Fold) Waiting(id vault.DiskID) int { return len(f.waiting[id]) }

// reached reports whether a disk that stands at head is at or past at.
func reached(head, at vault.Position) bool {
	return head.Epoch > at.Epoch || head.Epoch == at.Epoch && head.Number >= at.Number
}

func (f *Fold) find(a Ask) (*pending, *cut) {
	p := f.pending[a.Point]
	if p == nil {
		return nil, nil
	}
	c := p.cuts[a.Disk]
	if c == nil || c.at != a.At {
		return nil, nil
	}
	return p, c
}

// ask decides whether the vault should be asked for c now. A question on its way
// is never doubled: if its answer was not decisive, Answer asks again.
func (f *Fold) ask(p *pending, id vault.DiskID, c *cut, force bool) Decisions {
	sure := reached(f.heads[id], c.at)
	if c.found != nil || c.asked || !sure && !force {
		return Decisions{}
	}
	c.asked = true
	return Decisions{Ask: []Ask{{Point: p.marker.ID, Disk: id, At: c.at, Decisive: sure}}}
}

func mismatch(m *wire.Marker, a Ask, c *cut, info *vault.CutInfo) string {
	switch {
	case info.Disk != a.Disk || info.At != a.At:
		return fmt.Sprintf("asked for %s at %v, the vault answered for %s at %v", a.Disk, a.At, info.Disk, info.At)
	case info.Point != m.ID || info.Group != m.Group:
		return fmt.Sprintf("the cut of disk %s belongs to point %s of group %s", a.Disk, info.Point, info.Group)
	case info.Size != c.size:
		return fmt.Sprintf("the marker says disk %s has %d bytes, its cut says %d", a.Disk, c.size, info.Size)
	}
	return ""
}

func (f *Fold) abandon(m *wire.Marker, id vault.DiskID, reason string, expected bool) Decisions {
	f.forget(m.ID)
	machine := id.Machine
	if machine == "" && len(m.Members) > 0 {
		machine = m.Members[0].Machine
	}
	return Decisions{Abandon: []Abandoned{{
		Point: m.ID, Group: m.Group, Machine: machine, Disk: id.Disk,
		Time: time.Unix(0, m.Time).UTC(), Reason: reason, Expected: expected,
	}}}
}

func (f *Fold) forget(point string) {
	if p := f.pending[point]; p != nil {
		for id := range p.cuts {
			delete(f.waiting[id], point)
			if len(f.waiting[id]) == 0 {
				delete(f.waiting, id)
			}
		}
		delete(f.pending, point)
	}
	if f.decided[point] {
		return
	}
	f.decided[point] = true
	f.order = append(f.order, point)
	if len(f.order) > remembered {
		delete(f.decided, f.order[0])
		f.order = f.order[1:]
	}
}
