package trace

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture"
)

// testLayout is that of kernel 6.18 on amd64.
var testLayout = layout{id: 2107, commitSize: 8, dataOff: 16, pageSize: 4096,
	sector: field{16, 8}, count: field{24, 4}, rwbs: field{34, 10}, minimum: 44}

// ring page pieces, little endian as on every machine this runs on.
type pageBuilder []byte

func newPage(flags uint64) pageBuilder {
	b := make(pageBuilder, 16)
	binary.LittleEndian.PutUint64(b[8:], flags)
	return b
}

func (b pageBuilder) words(w ...uint32) pageBuilder {
	for _, v := range w {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func payload(id uint16, sector uint64, count uint32, rwbs string) []byte {
	p := make([]byte, 48)
	binary.LittleEndian.PutUint16(p, id)
	binary.LittleEndian.PutUint64(p[16:], sector)
	binary.LittleEndian.PutUint32(p[24:], count)
	copy(p[34:44], rwbs)
	return p
}

// short adds a record whose length is in its type.
func (b pageBuilder) short(p []byte) pageBuilder {
	return append(b.words(uint32(len(p)/4)|7<<5), p...)
}

// long adds a record with a length word.
func (b pageBuilder) long(p []byte) pageBuilder {
	return append(b.words(7<<5, uint32(len(p)+4)), p...)
}

// done fills in the length.
func (b pageBuilder) done() []byte {
	v := binary.LittleEndian.Uint64(b[8:])
	binary.LittleEndian.PutUint64(b[8:], v|uint64(len(b)-16))
	return b
}

func parse(b []byte) (events []event, missed bool, err error) {
	missed, _, err = testLayout.page(b, &sink{done: func(e event) { events = append(events, e) }})
	return events, missed, err
}

func TestPageRecords(t *testing.T) {
	b := newPage(0xffffffff<<32|missedEvents|missedStored).
		short(payload(2107, 8, 16, "WS")).
		words(typeTimeDelta|5<<5, 1).               // time goes on
		words(typeTimeStamp|5<<5, 1).               // absolute time
		words(typePadding|1<<5, 8, 0xdead).         // a discarded event of 12 bytes
		long(payload(2107, 1<<40, 1, "FD")).        // flush, then discard
		short(payload(2107, 24, 8, "DE")).          // secure erase
		short(payload(2107, 32, 8, "R")).           // a read that the filter let through
		short(payload(5, 1, 1, "W")).               // another kind of event
		short(payload(2107, 40, 0, "W")).           // no sectors
		short(payload(2107, 48, 8, "N")).           // write zeroes, older kernels
		words(typePadding, 0xffffffff, 0xffffffff). // the rest is empty
		done()
	events, missed, err := parse(b)
	if err != nil || !missed {
		t.Fatalf("missed=%v, %v", missed, err)
	}
	want := []event{{8, 16, kindWrite}, {1 << 40, 1, kindDiscard}, {24, 8, kindErase}, {48, 8, kindWrite}}
	if !slices.Equal(events, want) {
		t.Fatalf("got  %v\nwant %v", events, want)
	}
}

func TestPageErrors(t *testing.T) {
	good := newPage(0).short(payload(2107, 8, 16, "W")).done()
	for name, b := range map[string][]byte{
		"no header":          good[:10],
		"cut data":           good[:30],
		"record beyond page": newPage(0).words(28).done(),
		"no length word":     newPage(0).words(0).done(),
		"length too small":   newPage(0).words(0, 3).done(),
		"length too big":     newPage(0).words(0, 1<<31).done(),
		"cut time":           newPage(0).words(typeTimeDelta | 1<<5).done(),
		"short event":        newPage(0).short(payload(2107, 0, 0, "")[:20]).done(),
		"left over bytes":    append(newPage(0), 1, 2),
	} {
		if name == "left over bytes" {
			binary.LittleEndian.PutUint64(b[8:], 2)
		}
		if _, _, err := parse(b); !errors.Is(err, errPage) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if events, _, err := parse(newPage(0).done()); err != nil || events != nil {
		t.Errorf("an empty page: %v, %v", events, err)
	}
}

func TestPageDoesNotAllocate(t *testing.T) {
	b := newPage(0)
	for range 60 {
		b = b.short(payload(2107, 8, 16, "WS"))
	}
	page, n := b.done(), 0
	to := &sink{done: func(event) { n++ }}
	if allocs := testing.AllocsPerRun(100, func() { _, _, _ = testLayout.page(page, to) }); allocs != 0 {
		t.Errorf("%v allocations for a page", allocs)
	}
	if n == 0 {
		t.Error("no events")
	}
}

func TestEventBlocks(t *testing.T) {
	const end = 100
	for _, c := range []struct {
		sector        uint64
		count         uint32
		start, count2 uint64
		ok            bool
	}{
		{0, 8, 0, 1, true},
		{0, 1, 0, 1, true},
		{7, 2, 0, 2, true},  // across a border
		{4, 8, 0, 2, true},  // not aligned
		{8, 16, 1, 2, true}, // aligned
		{15, 1, 1, 1, true}, // last sector of a block
		{792, 8, 99, 1, true},
		{792, 80, 99, 1, true}, // cut at the end
		{800, 1, 0, 0, false},  // beyond
		{^uint64(0), 1, 0, 0, false},
		{0, ^uint32(0), 0, 100, true},
	} {
		start, count, ok := event{sector: c.sector, count: c.count}.blocks(end)
		if ok != c.ok || ok && (start != c.start || count != c.count2) {
			t.Errorf("sectors %d+%d: blocks %d+%d %v, want %d+%d %v", c.sector, c.count, start, count, ok, c.start, c.count2, c.ok)
		}
	}
}

func TestKindOf(t *testing.T) {
	for letters, want := range map[string]kind{
		"": kindNone, "\x00\x00": kindNone, "R": kindNone, "RA": kindNone, "FR": kindNone,
		"W": kindWrite, "WS": kindWrite, "FWFS": kindWrite, "WZ": kindWrite, "N": kindWrite, "ZA": kindWrite, "F": kindWrite,
		"D": kindDiscard, "DS": kindDiscard, "FD": kindDiscard, "DE": kindErase, "FDE": kindErase,
	} {
		if got := kindOf([]byte(letters)); got != want {
			t.Errorf("%q: got %d, want %d", letters, got, want)
		}
	}
}

func FuzzPage(f *testing.F) {
	f.Add(newPage(missedEvents).short(payload(2107, 8, 16, "WS")).long(payload(2107, 9, 1, "D")).done())
	f.Add(newPage(0).words(typePadding).done())
	f.Add(newPage(1<<40).words(0, 4).done())
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, _, err := testLayout.page(b, &sink{done: func(e event) {
			n++
			if start, count, ok := e.blocks(1 << 20); ok && (count == 0 || start+count > 1<<20) {
				t.Fatalf("%+v gives blocks %d+%d", e, start, count)
			}
		}})
		if n*(4+testLayout.minimum) > len(b) {
			t.Fatalf("%d events in %d bytes (%v)", n, len(b), err)
		}
	})
}

// BenchmarkPage is the cost of an event from ring page to set.
func BenchmarkPage(b *testing.B) {
	var pages [][]byte
	sector, events := uint64(1), 0
	for range 64 {
		p := newPage(0)
		for len(p)+52 <= 4096 {
			sector = sector*6364136223846793005 + 1442695040888963407
			p = p.short(payload(2107, sector>>36&^7, 8, "WS"))
			events++
		}
		pages = append(pages, p.done())
	}
	var set capture.Set
	mark := &sink{done: func(e event) {
		if start, count, ok := e.blocks(1 << 26); ok {
			set.Add(start&(1<<17-1), count)
		}
	}}
	for b.Loop() {
		for _, p := range pages {
			if _, _, err := testLayout.page(p, mark); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*events), "ns/event")
}
