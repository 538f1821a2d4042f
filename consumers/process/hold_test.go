package process

import (
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Gaps of many disks at once leave room for what is missing, and those links are kept that
// are nearest to it, in whatever order they come.
func TestHeldLeavesRoom(t *testing.T) {
	r := newRig(t)
	s := makeServer(t, r.b, r.v, small(), 0)
	const each = 64 << 10
	var disks []*disk
	for i := range 8 {
		d := newDisk(s, vault.DiskID{Machine: fmt.Sprint("web", i), Disk: "sda"}, &part{})
		disks = append(disks, d)
		for n := range uint64(300) {
			if err := s.reserve(t.Context(), d, each); err != nil {
				t.Fatal(err)
			}
			d.hold(&link{Link: optimize.Link{Change: &wire.Change{Epoch: 1, Number: 3 + n*7%300}}, size: each})
		}
	}
	sum := int64(0)
	for i, d := range disks {
		sum += d.heldBytes
		if d.heldBytes != int64(len(d.held))*each || d.heldBytes > s.cfg.perDisk()/2 || len(d.held) > maxHeld {
			t.Errorf("disk %d holds %d links, %d bytes", i, len(d.held), d.heldBytes)
		}
		for j, l := range d.held {
			if l.Change.Number != uint64(3+j) {
				t.Fatalf("disk %d: held link %d is number %d, want those nearest to the gap", i, j, l.Change.Number)
			}
		}
	}
	if got := s.held.Load(); got != sum || sum > s.cfg.MemoryBytes/2 || s.Stats().MemoryBytes != sum {
		t.Errorf("%d bytes are held, %d counted, %d of %d in memory", sum, got, s.Stats().MemoryBytes, s.cfg.MemoryBytes)
	}
	for i, d := range disks {
		if d.letGo(); d.heldBytes != 0 {
			t.Errorf("disk %d holds %d bytes of nothing", i, d.heldBytes)
		}
	}
	if got, left := s.held.Load(), s.Stats().MemoryBytes; got != 0 || left != 0 {
		t.Errorf("%d bytes are held of nothing, %d in memory", got, left)
	}
}
