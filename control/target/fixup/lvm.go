package fixup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Limits of what is believed of a physical volume.
const (
	maxMetadata = 16 << 20 // bytes of a volume group's description
	maxVolumes  = 1 << 12
	maxNesting  = 16
)

// physical is a physical volume of LVM as it describes itself.
type physical struct {
	id    string // without dashes
	group *group
}

// group is a volume group as one of its physical volumes knows it.
type group struct {
	name    string
	serial  int64 // grows with every change
	extent  uint64
	volumes map[string]pv // by the name that segments use
	logical []logical
}

type pv struct {
	id    string
	start uint64 // sectors
}

// logical is a logical volume.
type logical struct {
	name     string
	visible  bool
	segments []segment
	cannot   string // why it cannot be set up here
}

// segment is a run of extents of a logical volume.
type segment struct {
	start, count uint64 // extents
	stripe       uint64 // sectors, with several stripes
	on           []place
}

type place struct {
	volume string
	extent uint64
}

const lvmMagic = "\x20LVM2\x20x[5A%r0N*>"

// readPhysical reads what a physical volume says of itself and of its group.
func readPhysical(r io.ReaderAt) (*physical, error) {
	head := make([]byte, 4*512)
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return nil, fmt.Errorf("read the label of LVM: %w", err)
	}
	for at := 0; at < len(head); at += 512 {
		label := head[at : at+512]
		if string(label[:8]) != "LABELONE" || string(label[24:32]) != "LVM2 001" {
			continue
		}
		if lvmSum(label[20:]) != binary.LittleEndian.Uint32(label[16:]) {
			return nil, errors.New("the label of LVM is damaged")
		}
		off := binary.LittleEndian.Uint32(label[20:])
		if off < 32 || off > 512-48 {
			return nil, errors.New("the label of LVM is of an unknown kind")
		}
		return fromHeader(r, label[off:])
	}
	return nil, errors.New("no label of LVM")
}

// fromHeader reads the description that a header points to. The newest of several areas
// counts.
func fromHeader(r io.ReaderAt, h []byte) (*physical, error) {
	p := &physical{id: string(h[:32])}
	areas := h[40:]
	next := func() (off, size uint64, ok bool) {
		if len(areas) < 16 {
			return 0, 0, false
		}
		off, size = binary.LittleEndian.Uint64(areas), binary.LittleEndian.Uint64(areas[8:])
		areas = areas[16:]
		return off, size, off != 0
	}
	for _, _, ok := next(); ok; _, _, ok = next() { // where its data lie: the description says so, too
	}
	var last error
	for off, _, ok := next(); ok; off, _, ok = next() {
		text, err := metadata(r, off)
		if err != nil {
			last = err
			continue
		}
		if text == nil {
			continue
		}
		g, err := parseGroup(text)
		if err != nil {
			last = err
			continue
		}
		if p.group == nil || g.serial > p.group.serial {
			p.group = g
		}
	}
	if p.group == nil && last != nil {
		return nil, last
	}
	return p, nil // without a description another volume of its group has it
}

// metadata returns the text of an area, nil if there is none.
func metadata(r io.ReaderAt, at uint64) ([]byte, error) {
	h := make([]byte, 512)
	if n, err := r.ReadAt(h, int64(at&(1<<62-1))); n < len(h) {
		return nil, fmt.Errorf("read the description of a volume group: %w", err)
	}
	if string(h[4:20]) != lvmMagic || binary.LittleEndian.Uint32(h[20:]) != 1 || lvmSum(h[4:]) != binary.LittleEndian.Uint32(h) {
		return nil, errors.New("the description of a volume group is damaged, or of an unknown kind")
	}
	start, size := binary.LittleEndian.Uint64(h[24:]), binary.LittleEndian.Uint64(h[32:])
	off, length := binary.LittleEndian.Uint64(h[40:]), binary.LittleEndian.Uint64(h[48:])
	switch {
	case off == 0 || length == 0:
		return nil, nil
	case start != at || size < 1024 || off < 512 || off >= size || length > size-512 || length > maxMetadata:
		return nil, errors.New("the description of a volume group does not fit where it is")
	}
	text := make([]byte, length)
	first := min(length, size-off) // it is written round and round
	for _, part := range []struct {
		b  []byte
		at uint64
	}{{text[:first], at + off}, {text[first:], at + 512}} {
		if n, err := r.ReadAt(part.b, int64(part.at)); n < len(part.b) {
			return nil, fmt.Errorf("read the description of a volume group: %w", err)
		}
	}
	if lvmSum(text) != binary.LittleEndian.Uint32(h[56:]) {
		return nil, errors.New("the description of a volume group is damaged")
	}
	return bytes.TrimRight(text, "\x00"), nil
}

// lvmSum is CRC-32 as LVM has it: with a beginning of its own, and not inverted.
func lvmSum(b []byte) uint32 { return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, b) }

// section is a part of a description: values, and sections.
type section struct {
	values map[string][]string
	parts  map[string]*section
	order  []string // of the parts
}

func (s *section) number(key string) (uint64, error) {
	v := s.values[key]
	if len(v) != 1 {
		return 0, fmt.Errorf("the description of a volume group has no %s", key)
	}
	n, err := strconv.ParseUint(v[0], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("the description of a volume group: %s is %.40q", key, v[0])
	}
	return n, nil
}

// parseGroup reads the text of a description.
func parseGroup(text []byte) (*group, error) {
	p := &textReader{rest: string(text)}
	all, err := p.section(0)
	if err != nil {
		return nil, err
	}
	if len(all.order) != 1 {
		return nil, fmt.Errorf("a description of %d volume groups", len(all.order))
	}
	s := all.parts[all.order[0]]
	g := &group{name: all.order[0], volumes: map[string]pv{}}
	serial, err := s.number("seqno")
	if err != nil {
		return nil, err
	}
	g.serial = int64(serial)
	if g.extent, err = s.number("extent_size"); err != nil {
		return nil, err
	}
	if g.extent == 0 || g.extent > 1<<40 {
		return nil, fmt.Errorf("extents of %d sectors", g.extent)
	}
	if v := s.parts["physical_volumes"]; v != nil {
		for _, name := range v.order {
			start, err := v.parts[name].number("pe_start")
			if err != nil {
				return nil, err
			}
			id := v.parts[name].values["id"]
			if len(id) != 1 {
				return nil, fmt.Errorf("physical volume %.40q has no id", name)
			}
			g.volumes[name] = pv{strings.ReplaceAll(id[0], "-", ""), start}
		}
	}
	if v := s.parts["logical_volumes"]; v != nil {
		for _, name := range v.order {
			l, err := parseLogical(name, v.parts[name], g)
			if err != nil {
				return nil, err
			}
			g.logical = append(g.logical, *l)
		}
	}
	return g, nil
}

func parseLogical(name string, s *section, g *group) (*logical, error) {
	l := &logical{name: name, visible: slices.Contains(s.values["status"], "VISIBLE")}
	end := uint64(0)
	for _, key := range s.order {
		if !strings.HasPrefix(key, "segment") {
			continue
		}
		p := s.parts[key]
		x := segment{}
		var err error
		if x.start, err = p.number("start_extent"); err != nil {
			return nil, err
		}
		if x.count, err = p.number("extent_count"); err != nil {
			return nil, err
		}
		if kind := p.values["type"]; len(kind) != 1 || kind[0] != "striped" {
			l.cannot = strings.Join(kind, " ")
			continue
		}
		if err := x.stripes(p, g); err != nil {
			return nil, fmt.Errorf("logical volume %.40q: %w", name, err)
		}
		if x.start != end || x.count == 0 || x.count > 1<<40 {
			return nil, fmt.Errorf("logical volume %.40q has a hole at extent %d", name, end)
		}
		end += x.count
		l.segments = append(l.segments, x)
	}
	return l, nil
}

// stripes reads where a segment lies.
func (x *segment) stripes(p *section, g *group) error {
	on := p.values["stripes"]
	if len(on) == 0 || len(on)%2 != 0 || len(on) > 2*maxVolumes {
		return fmt.Errorf("its stripes are %d words", len(on))
	}
	for i := 0; i < len(on); i += 2 {
		at, err := strconv.ParseUint(on[i+1], 10, 40)
		if err != nil {
			return fmt.Errorf("a stripe begins at %.40q", on[i+1])
		}
		if _, ok := g.volumes[on[i]]; !ok {
			return fmt.Errorf("a stripe is on %.40q, which is no physical volume", on[i])
		}
		x.on = append(x.on, place{on[i], at})
	}
	n := uint64(len(x.on))
	if n == 1 {
		return nil
	}
	var err error
	if x.stripe, err = p.number("stripe_size"); err != nil {
		return err
	}
	if x.stripe == 0 || x.stripe > g.extent || x.count%n != 0 {
		return fmt.Errorf("%d stripes of %d sectors over %d extents", n, x.stripe, x.count)
	}
	return nil
}

// textReader reads the text of a description.
type textReader struct {
	rest  string
	parts int
}

var errText = errors.New("the description of a volume group cannot be understood")

// word takes the next word: a name, a number, a quoted text or one of = { } [ ] and the
// comma. At the end it is "".
func (t *textReader) word() (w string, quoted bool) {
	for {
		t.rest = strings.TrimLeft(t.rest, " \t\r\n\x00")
		if !strings.HasPrefix(t.rest, "#") {
			break
		}
		_, t.rest, _ = strings.Cut(t.rest, "\n")
	}
	if t.rest == "" {
		return "", false
	}
	if t.rest[0] == '"' {
		var b strings.Builder
		for i := 1; i < len(t.rest); i++ {
			switch c := t.rest[i]; {
			case c == '\\' && i+1 < len(t.rest):
				i++
				b.WriteByte(t.rest[i])
			case c == '"':
				t.rest = t.rest[i+1:]
				return b.String(), true
			default:
				b.WriteByte(c)
			}
		}
		t.rest = "" // it never ends
		return "", false
	}
	n := strings.IndexAny(t.rest, " \t\r\n={}[],#\"\x00")
	switch n {
	case -1:
		n = len(t.rest)
	case 0:
		n = 1
	}
	w, t.rest = t.rest[:n], t.rest[n:]
	return w, false
}

// section reads up to the end, or the bracket that closes it.
func (t *textReader) section(depth int) (*section, error) {
	s := &section{values: map[string][]string{}, parts: map[string]*section{}}
	if t.parts++; depth > maxNesting || t.parts > 4*maxVolumes {
		return nil, errText
	}
	for {
		name, quoted := t.word()
		switch {
		case name == "" && !quoted && depth == 0, name == "}" && !quoted && depth > 0:
			return s, nil
		case name == "" || !quoted && strings.ContainsAny(name, "={}[],"):
			return nil, errText
		}
		switch sign, _ := t.word(); sign {
		case "{":
			part, err := t.section(depth + 1)
			if err != nil {
				return nil, err
			}
			if s.parts[name] == nil {
				s.order = append(s.order, name)
			}
			s.parts[name] = part
		case "=":
			values, err := t.value()
			if err != nil {
				return nil, err
			}
			s.values[name] = values
		default:
			return nil, errText
		}
	}
}

func (t *textReader) value() (all []string, err error) {
	w, quoted := t.word()
	if w != "[" || quoted {
		if !quoted && (w == "" || strings.ContainsAny(w, "={}[],")) {
			return nil, errText
		}
		return []string{w}, nil
	}
	for {
		w, quoted := t.word()
		switch {
		case w == "]" && !quoted:
			return all, nil
		case w == "," && !quoted:
		case w == "" && !quoted, !quoted && strings.ContainsAny(w, "={}["):
			return nil, errText
		default:
			if len(all) > 4*maxVolumes {
				return nil, errText
			}
			all = append(all, w)
		}
	}
}

// mapperName is what a logical volume is called in /dev/mapper.
func mapperName(group, volume string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return double(group) + "-" + double(volume)
}

// mapping is a line of a table of the device mapper, in sectors.
type mapping struct {
	start, length uint64
	kind, params  string
}

// table returns how to put a logical volume together of devices, by the id of the physical
// volume, and "" or why that cannot be.
func (g *group) table(l *logical, devices map[string]string) (all []mapping, why string) {
	if l.cannot != "" {
		return nil, "is of type " + l.cannot
	}
	for _, s := range l.segments {
		var on []string
		for _, p := range s.on {
			v := g.volumes[p.volume]
			dev := devices[v.id]
			if dev == "" {
				return nil, "lies partly on a disk that is not protected"
			}
			on = append(on, fmt.Sprintf("%s %d", dev, v.start+p.extent*g.extent))
		}
		m := mapping{start: s.start * g.extent, length: s.count * g.extent, kind: "linear", params: on[0]}
		if len(on) > 1 {
			m.kind, m.params = "striped", fmt.Sprintf("%d %d %s", len(on), s.stripe, strings.Join(on, " "))
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return nil, "is empty"
	}
	return all, ""
}
