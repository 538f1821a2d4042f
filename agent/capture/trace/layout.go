package trace

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// layout says where things are in a page of the ring and in an event. It is read
// from the kernel's own description: it differs between versions.
type layout struct {
	id         uint16
	commitSize int // of the page header's commit word: 8 or 4 bytes
	dataOff    int // first byte behind the page header
	pageSize   int
	sector     field
	count      field
	rwbs       field
	minimum    int // bytes an event must have

	bio  bioLayout  // of block_bio_queue; its id is 0 where that is not followed
	text textLayout // of the kernel's log; likewise
}

// bioLayout is where things are in the event of a bio that is handed to a device.
type bioLayout struct {
	id                       uint16
	dev, sector, count, rwbs field
	minimum                  int
}

// textLayout is where the text is in the event of a line of the kernel's log.
type textLayout struct {
	id  uint16
	msg field // a word: where in the event, and above 16 bits how long
}

type field struct{ off, size int }

// parseLayout reads an event's format file and the ring's header_page file.
func parseLayout(format, headerPage []byte) (layout, error) {
	fields := parseFields(string(headerPage))
	l := layout{commitSize: fields["commit"].size, dataOff: fields["data"].off}
	l.pageSize = fields["data"].off + fields["data"].size
	if (l.commitSize != 4 && l.commitSize != 8) || l.dataOff != 8+l.commitSize || l.pageSize <= l.dataOff || l.pageSize > 1<<20 {
		return layout{}, fmt.Errorf("the page header %v is of an unknown shape", fields)
	}
	var err error
	l.id, l.minimum, err = parseEvent(format, want{"sector", &l.sector, 8, 8}, want{"nr_sector", &l.count, 4, 4}, want{"rwbs", &l.rwbs, 1, 64})
	if err != nil {
		return layout{}, err
	}
	return l, nil
}

// parseBio reads the format file of block_bio_queue.
func parseBio(format []byte) (b bioLayout, err error) {
	b.id, b.minimum, err = parseEvent(format, want{"dev", &b.dev, 4, 4}, want{"sector", &b.sector, 8, 8}, want{"nr_sector", &b.count, 4, 4}, want{"rwbs", &b.rwbs, 1, 64})
	return b, err
}

// parseText reads the format file of the event of the kernel's log.
func parseText(format []byte) (t textLayout, err error) {
	t.id, _, err = parseEvent(format, want{"msg", &t.msg, 4, 4})
	return t, err
}

// want is a field that an event must have.
type want struct {
	name     string
	to       *field
	min, max int // bytes
}

// parseEvent reads an event's format file: its id, where the fields are, and how many
// bytes an event has at least.
func parseEvent(format []byte, all ...want) (id uint16, minimum int, err error) {
	if id, err = parseID(string(format)); err != nil {
		return 0, 0, err
	}
	fields := parseFields(string(format))
	if c := fields["common_type"]; c != (field{0, 2}) {
		return 0, 0, fmt.Errorf("field common_type is at %d with %d bytes, want 0 with 2", c.off, c.size)
	}
	for _, f := range all {
		got, ok := fields[f.name]
		if !ok || got.size < f.min || got.size > f.max || got.off < 0 || got.off > 4096 {
			return 0, 0, fmt.Errorf("field %s is missing or of an unknown shape", f.name)
		}
		*f.to = got
		minimum = max(minimum, got.off+got.size)
	}
	return id, minimum, nil
}

func parseID(text string) (uint16, error) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "ID:"); ok {
			id, err := strconv.ParseUint(strings.TrimSpace(v), 10, 16)
			if err != nil {
				return 0, fmt.Errorf("event id %q is not a number", strings.TrimSpace(v))
			}
			return uint16(id), nil
		}
	}
	return 0, fmt.Errorf("the event's format has no ID line")
}

// parseFields reads lines such as "field:char rwbs[10]; offset:34; size:10; signed:0;".
func parseFields(text string) map[string]field {
	fields := make(map[string]field)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		decl, rest, ok := strings.Cut(line, ";")
		if !ok || !strings.HasPrefix(decl, "field:") {
			continue
		}
		words := strings.Fields(strings.TrimPrefix(decl, "field:"))
		if len(words) == 0 {
			continue
		}
		name, _, _ := strings.Cut(words[len(words)-1], "[")
		f := field{-1, -1}
		for _, kv := range strings.Split(rest, ";") {
			k, v, _ := strings.Cut(strings.TrimSpace(kv), ":")
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				continue
			}
			switch k {
			case "offset":
				f.off = n
			case "size":
				f.size = n
			}
		}
		fields[name] = f
	}
	return fields
}

// kind is what a request did to its sectors.
type kind uint8

const (
	kindNone    kind = iota // a read or nothing
	kindWrite               // wrote or zeroed
	kindDiscard             // discarded; counted apart by the kernel
	kindErase               // secure erase; counted as a write by the kernel
)

// kindOf reads the letters of a request: F (flush first), then the operation, then
// flags. An operation that is not known is taken for a write: marking too much is
// harmless.
func kindOf(rwbs []byte) kind {
	if len(rwbs) > 1 && rwbs[0] == 'F' {
		rwbs = rwbs[1:]
	}
	if len(rwbs) == 0 {
		return kindNone
	}
	switch rwbs[0] {
	case 'R', 0:
		return kindNone
	case 'D':
		if len(rwbs) > 1 && rwbs[1] == 'E' {
			return kindErase
		}
		return kindDiscard
	default:
		return kindWrite
	}
}

var order = binary.NativeEndian

// bigEndian tells at which end of a word the kernel puts its bit fields.
var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1
