package points

import (
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
	"pgregory.net/rapid"
)

// world is a simple truth to hold the fold against: a vault that commits the
// chains of some disks, losing the tail of an epoch when its agent crashes.
type world struct {
	holds    map[Ask]*vault.CutInfo // what the vault holds now, keyed by Disk and At
	markers  map[string]*wire.Marker
	doomed   map[string]bool // markers with a cut that the vault never gets
	commits  []commit        // to come, in order for each disk
	messages []any           // *wire.Marker and *wire.Receipt that may be delivered now
	asks     []Ask
	listed   map[string]int
	gone     map[string]int
}

type commit struct {
	cut     *vault.CutInfo // nil: only the receipt
	receipt *wire.Receipt
}

func build(t *rapid.T) *world {
	w := &world{
		holds: map[Ask]*vault.CutInfo{}, markers: map[string]*wire.Marker{},
		doomed: map[string]bool{}, listed: map[string]int{}, gone: map[string]int{},
	}
	disks := []vault.DiskID{{Machine: "db", Disk: "sda"}, {Machine: "db", Disk: "sdb"}, {Machine: "web", Disk: "sda"}}
	at := map[vault.DiskID]vault.Position{}
	for _, d := range disks {
		at[d] = vault.Position{Epoch: 1, Number: 1}
	}
	lost := map[vault.DiskID]bool{} // the rest of this epoch is lost
	for i := range rapid.IntRange(1, 12).Draw(t, "markers") {
		id := fmt.Sprintf("p%d", i)
		m := &wire.Marker{ID: id, Group: "g", Consistency: wire.Crash}
		for _, d := range disks {
			if d.Machine == "web" && i%3 == 0 {
				continue
			}
			p := at[d]
			switch rapid.IntRange(0, 9).Draw(t, "fate") {
			case 0:
				lost[d] = true
			case 1:
				p, lost[d] = vault.Position{Epoch: p.Epoch + 1, Number: 1}, false
				w.commits = append(w.commits, commit{receipt: receipt(d, p)})
			}
			p.Number += uint64(rapid.IntRange(1, 4).Draw(t, "links"))
			at[d] = p
			addCut(m, d, p)
			if lost[d] {
				w.doomed[id] = true
				continue
			}
			info := &vault.CutInfo{Disk: d, At: p, Cut: vault.Cut{Point: id, Group: "g", Size: 4096, Consistency: "crash"}}
			w.commits = append(w.commits, commit{cut: info, receipt: receipt(d, p)})
		}
		w.markers[id] = m
		w.messages = append(w.messages, m)
	}
	for _, d := range disks { // in the end every disk goes on, so that every marker can be decided
		p := vault.Position{Epoch: at[d].Epoch + 1, Number: 1}
		w.commits = append(w.commits, commit{receipt: receipt(d, p)})
	}
	return w
}

func receipt(d vault.DiskID, p vault.Position) *wire.Receipt {
	return &wire.Receipt{Machine: d.Machine, Disk: d.Disk, Epoch: p.Epoch, Number: p.Number}
}

func addCut(m *wire.Marker, d vault.DiskID, p vault.Position) {
	cut := wire.DiskCut{Disk: d.Disk, Epoch: p.Epoch, Number: p.Number, Size: 4096}
	for i := range m.Members {
		if m.Members[i].Machine == d.Machine {
			m.Members[i].Disks = append(m.Members[i].Disks, cut)
			return
		}
	}
	m.Members = append(m.Members, wire.Member{Machine: d.Machine, Disks: []wire.DiskCut{cut}})
}

func (w *world) take(t *rapid.T, d Decisions) {
	w.asks = append(w.asks, d.Ask...)
	for _, p := range d.List {
		w.listed[p.ID]++
		for _, m := range p.Machines {
			for _, k := range m.Disks {
				at := Ask{Disk: vault.DiskID{Machine: m.Machine, Disk: k.Disk}, At: k.At}
				if c := w.holds[at]; c == nil || c.Point != p.ID {
					t.Fatalf("point %s listed, the vault does not hold its cut of %s at %v", p.ID, at.Disk, k.At)
				}
			}
		}
		n := 0
		for _, m := range w.markers[p.ID].Members {
			n += len(m.Disks)
		}
		for _, m := range p.Machines {
			n -= len(m.Disks)
		}
		if n != 0 {
			t.Fatalf("point %s has not the disks of its marker", p.ID)
		}
	}
	for _, a := range d.Abandon {
		w.gone[a.Point]++
		if !w.doomed[a.Point] {
			t.Fatalf("marker %s was abandoned though the vault gets every cut: %s", a.Point, a.Reason)
		}
	}
}

// step does one random thing that can happen next.
func (w *world) step(t *rapid.T, f *Fold) {
	switch k := rapid.IntRange(0, 6).Draw(t, "what"); {
	case k == 0 && len(w.commits) > 0:
		c := w.commits[0]
		w.commits = w.commits[1:]
		if c.cut != nil {
			w.holds[Ask{Disk: c.cut.Disk, At: c.cut.At}] = c.cut
		}
		w.messages = append(w.messages, c.receipt)
	case k <= 2 && len(w.messages) > 0:
		w.deliver(t, f, rapid.IntRange(0, len(w.messages)-1).Draw(t, "message"))
	case k == 3 && len(w.asks) > 0:
		i := rapid.IntRange(0, len(w.asks)-1).Draw(t, "ask")
		a := w.asks[i]
		w.asks = append(w.asks[:i], w.asks[i+1:]...)
		if rapid.IntRange(0, 4).Draw(t, "fail") == 0 {
			f.Failed(a)
			return
		}
		w.take(t, f.Answer(a, w.holds[Ask{Disk: a.Disk, At: a.At}]))
	case k == 4:
		w.take(t, f.Recheck())
	case k == 6:
		d := f.Look(rapid.IntRange(1, 4).Draw(t, "limit"))
		for _, p := range d.List {
			if w.listed[p.ID] == 0 {
				t.Fatalf("point %s is to be listed again and never was", p.ID)
			}
		}
		d.List = nil
		w.take(t, d)
	case k == 5 && len(w.listed) > 0:
		for _, p := range f.Unlisted() {
			f.Listed(p.ID)
		}
	}
}

func (w *world) deliver(t *rapid.T, f *Fold, i int) {
	switch m := w.messages[i].(type) {
	case *wire.Marker:
		w.take(t, f.Marker(m))
	case *wire.Receipt:
		w.take(t, f.Receipt(m))
	}
}

func TestFoldProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := build(t)
		f := New()
		for range rapid.IntRange(0, 150).Draw(t, "steps") {
			w.step(t, f)
		}
		for len(w.commits) > 0 { // the rest arrives
			c := w.commits[0]
			w.commits = w.commits[1:]
			if c.cut != nil {
				w.holds[Ask{Disk: c.cut.Disk, At: c.cut.At}] = c.cut
			}
			w.messages = append(w.messages, c.receipt)
		}
		for i := range w.messages {
			w.deliver(t, f, i)
		}
		for w.take(t, f.Recheck()); len(w.asks) > 0; {
			a := w.asks[0]
			w.asks = w.asks[1:]
			w.take(t, f.Answer(a, w.holds[Ask{Disk: a.Disk, At: a.At}]))
		}
		for id := range w.markers {
			if got, want := w.listed[id], w.gone[id]; got+want != 1 || (want == 1) != w.doomed[id] {
				t.Fatalf("marker %s (doomed %v) was listed %d times, abandoned %d times", id, w.doomed[id], got, want)
			}
		}
		for _, p := range f.Unlisted() {
			f.Listed(p.ID)
		}
		if f.Pending() != 0 || len(f.waiting) != 0 {
			t.Fatalf("%d markers and %d disks are left over", f.Pending(), len(f.waiting))
		}
	})
}

// Without Recheck a point is never listed before the receipts of all its disks.
func TestNoPointBeforeItsReceipts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := build(t)
		f := New()
		heads := map[vault.DiskID]vault.Position{}
		for _, c := range w.commits { // the vault holds everything, receipts are late
			if c.cut != nil {
				w.holds[Ask{Disk: c.cut.Disk, At: c.cut.At}] = c.cut
			}
			w.messages = append(w.messages, c.receipt)
		}
		for _, i := range rapid.Permutation(indices(len(w.messages))).Draw(t, "order") {
			if r, ok := w.messages[i].(*wire.Receipt); ok {
				id := vault.DiskID{Machine: r.Machine, Disk: r.Disk}
				if p := (vault.Position{Epoch: r.Epoch, Number: r.Number}); reached(p, heads[id]) {
					heads[id] = p
				}
			}
			w.deliver(t, f, i)
			for len(w.asks) > 0 {
				a := w.asks[0]
				w.asks = w.asks[1:]
				if !reached(heads[a.Disk], a.At) {
					t.Fatalf("asked for %s at %v before its receipt", a.Disk, a.At)
				}
				w.take(t, f.Answer(a, w.holds[Ask{Disk: a.Disk, At: a.At}]))
			}
		}
	})
}

func indices(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestDecidedIsBounded(t *testing.T) {
	f := New()
	for i := range remembered + 10 {
		f.Marker(&wire.Marker{ID: fmt.Sprintf("p%d", i), Group: "g"}) // names no disk: abandoned
	}
	if len(f.decided) != remembered || len(f.order) != remembered || f.Decided("p3") || !f.Decided("p4000") {
		t.Errorf("%d decided markers are remembered, want %d", len(f.decided), remembered)
	}
}
