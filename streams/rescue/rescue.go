package rescue

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Kind says what an order is.
type Kind uint8

// The kinds of orders.
const (
	Hello    Kind = 1 // who are you, and I am the one who writes now
	Compare  Kind = 2 // which blocks are not as they should be
	Write    Kind = 3
	Zero     Kind = 4
	Sync     Kind = 5 // make durable what was written
	Progress Kind = 6 // for who looks at the rescue's screen
	Done     Kind = 7 // the disk is as at a point, verified
)

// Status says what became of an order.
type Status uint8

// What a rescue answers.
const (
	OK     Status = 0
	Failed Status = 1
	Anew   Status = 2 // the rescue was started again since
	Taken  Status = 3 // another master target has the disks
)

// Limits of what is believed. A message is at most streams.MaxMessage.
const (
	MaxBlocks  = 1 << 10   // of a Compare
	MaxData    = 512 << 10 // bytes of a Write, unpacked
	MaxExtents = 4096      // of a Write or Zero
	maxText    = 1 << 10
	maxDisks   = 256
)

// ID names a rescue's process or a master target.
type ID [16]byte

// NewID makes one that nobody else has.
func NewID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// Order is what a rescue is told.
type Order struct {
	Kind    Kind
	ID      uint64
	Session ID
	Owner   ID
	Disk    string // the protected disk's name; empty for Hello
	Body    []byte
}

// Report is what a rescue answers.
type Report struct {
	Kind    Kind
	Status  Status
	ID      uint64
	Session ID
	Body    []byte
}

// Host is what a rescue says of itself.
type Host struct {
	Name    string `json:"name"` // of the live system
	Version string `json:"version"`
	Disks   []Disk `json:"disks"`
}

// Disk is a disk that may be overwritten.
type Disk struct {
	Disk     string `json:"disk"` // the protected disk that shall be written onto it
	Path     string `json:"path"`
	Size     uint64 `json:"size"` // bytes
	Block    bool   `json:"block"`
	Identity string `json:"identity,omitempty"`
}

// Extent is a piece of a disk, in bytes.
type Extent struct{ Offset, Length uint64 }

var magic = [4]byte{'L', 'W', 'R', '1'}

var errShort = errors.New("message of a rescue ends too early")

// Encode returns the order's message.
func (o *Order) Encode() []byte {
	b := make([]byte, 0, 64+len(o.Body))
	b = append(b, magic[:]...)
	b = append(b, byte(o.Kind))
	b = binary.BigEndian.AppendUint64(b, o.ID)
	b = append(b, o.Session[:]...)
	b = append(b, o.Owner[:]...)
	b = append(b, byte(len(o.Disk)))
	b = append(b, o.Disk...)
	return append(b, o.Body...)
}

// ParseOrder reads an order. Its Body is a part of b.
func ParseOrder(b []byte) (*Order, error) {
	r := reader{b: b}
	o := new(Order)
	if err := r.start("order", &o.Kind); err != nil {
		return nil, err
	}
	o.ID = r.u64()
	copy(o.Session[:], r.take(16))
	copy(o.Owner[:], r.take(16))
	o.Disk = string(r.take(int(r.u8())))
	if r.short {
		return nil, errShort
	}
	if o.Disk != "" || o.Kind != Hello {
		if err := streams.ValidName("disk", o.Disk); err != nil {
			return nil, fmt.Errorf("order of a master target: %w", err)
		}
	}
	o.Body = r.b
	return o, nil
}

// Encode returns the report's message.
func (p *Report) Encode() []byte {
	b := make([]byte, 0, 32+len(p.Body))
	b = append(b, magic[:]...)
	b = append(b, byte(p.Kind), byte(p.Status))
	b = binary.BigEndian.AppendUint64(b, p.ID)
	b = append(b, p.Session[:]...)
	return append(b, p.Body...)
}

// ParseReport reads a report. Its Body is a part of b.
func ParseReport(b []byte) (*Report, error) {
	r := reader{b: b}
	p := new(Report)
	if err := r.start("report", &p.Kind); err != nil {
		return nil, err
	}
	p.Status = Status(r.u8())
	p.ID = r.u64()
	copy(p.Session[:], r.take(16))
	if r.short {
		return nil, errShort
	}
	if p.Status > Taken {
		return nil, fmt.Errorf("report of a rescue has status %d, which is not known: use the same version on both sides", p.Status)
	}
	p.Body = r.b
	if p.Status != OK {
		p.Body = p.Body[:min(len(p.Body), maxText)]
	}
	return p, nil
}

// EncodeHost returns the body of a report of Hello.
func EncodeHost(h *Host) ([]byte, error) { return json.Marshal(h) }

// ParseHost reads one.
func ParseHost(b []byte) (*Host, error) {
	h := new(Host)
	if err := json.Unmarshal(b, h); err != nil {
		return nil, fmt.Errorf("what a rescue says of itself: %w", err)
	}
	if len(h.Disks) > maxDisks {
		return nil, fmt.Errorf("a rescue with %d disks: at most %d", len(h.Disks), maxDisks)
	}
	for _, d := range h.Disks {
		if err := streams.ValidName("disk", d.Disk); err != nil {
			return nil, fmt.Errorf("what a rescue says of itself: %w", err)
		}
	}
	return h, nil
}

// Tag is what of a group of blocks crosses first.
type Tag [8]byte

// TagOf returns the tag of a group of blocks.
func TagOf(sums []wire.Sum) Tag {
	h := sha256.New()
	for i := range sums {
		h.Write(sums[i][:])
	}
	return Tag(h.Sum(nil)[:8])
}

// Question is the body of an order to Compare.
type Question struct {
	Size  uint64 // of the protected disk, in bytes
	Start uint64 // block
	Count uint32 // blocks
	Group uint32 // blocks of a tag
	Tags  []Tag
}

// groups is how many tags cover count blocks.
func groups(count, group uint32) int { return int((count + group - 1) / group) }

// Encode returns the question's body.
func (q *Question) Encode() []byte {
	b := make([]byte, 0, 24+8*len(q.Tags))
	b = binary.BigEndian.AppendUint64(b, q.Size)
	b = binary.BigEndian.AppendUint64(b, q.Start)
	b = binary.BigEndian.AppendUint32(b, q.Count)
	b = binary.BigEndian.AppendUint32(b, q.Group)
	for i := range q.Tags {
		b = append(b, q.Tags[i][:]...)
	}
	return b
}

// ParseQuestion reads the body of an order to Compare.
func ParseQuestion(b []byte) (*Question, error) {
	r := reader{b: b}
	q := &Question{Size: r.u64(), Start: r.u64(), Count: r.u32(), Group: r.u32()}
	blocks := q.Size/wire.BlockSize + min(q.Size%wire.BlockSize, 1)
	switch {
	case r.short:
		return nil, errShort
	case q.Count == 0 || q.Count > MaxBlocks || q.Group == 0 || q.Group > MaxBlocks:
		return nil, fmt.Errorf("a comparison of %d blocks by %d: at most %d", q.Count, q.Group, MaxBlocks)
	case q.Start > blocks || uint64(q.Count) > blocks-q.Start:
		return nil, fmt.Errorf("a comparison of blocks %d+%d of a disk of %d bytes", q.Start, q.Count, q.Size)
	case len(r.b) != 8*groups(q.Count, q.Group):
		return nil, fmt.Errorf("a comparison of %d blocks by %d has %d bytes of tags", q.Count, q.Group, len(r.b))
	}
	q.Tags = make([]Tag, groups(q.Count, q.Group))
	for i := range q.Tags {
		copy(q.Tags[i][:], r.take(8))
	}
	return q, nil
}

// Answer returns the body of the report: sums are those that the disk has, one for each
// block asked for.
func (q *Question) Answer(sums []wire.Sum) (b []byte) {
	for i, tag := range q.Tags {
		own := q.part(sums, i)
		if TagOf(own) == tag {
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(i))
		for k := range own {
			b = append(b, own[k][:]...)
		}
	}
	return b
}

func (q *Question) part(sums []wire.Sum, i int) []wire.Sum {
	return sums[i*int(q.Group) : min((i+1)*int(q.Group), int(q.Count))]
}

// Merge puts what a rescue answered into sums, which hold what the tags were made of.
func (q *Question) Merge(sums []wire.Sum, answer []byte) error {
	r := reader{b: answer}
	for last := -1; len(r.b) > 0; {
		i := r.u32()
		if r.short || int(i) <= last || int(i) >= len(q.Tags) {
			return errors.New("a rescue's comparison names groups that were not asked for")
		}
		last = int(i)
		for k := range q.part(sums, last) {
			copy(q.part(sums, last)[k][:], r.take(16))
		}
		if r.short {
			return errShort
		}
	}
	return nil
}

// EncodeExtents returns the beginning of the body of Write, or the body of Zero.
func EncodeExtents(kind Kind, all []Extent) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(all)))
	for _, e := range all {
		b = binary.BigEndian.AppendUint64(b, e.Offset)
		if kind == Write {
			b = binary.BigEndian.AppendUint32(b, uint32(e.Length))
		} else {
			b = binary.BigEndian.AppendUint64(b, e.Length)
		}
	}
	return b
}

// ParseExtents reads them; rest is what follows. Of a Write all of them together have at
// most MaxData bytes. None overflows.
func ParseExtents(kind Kind, b []byte) (all []Extent, rest []byte, err error) {
	r := reader{b: b}
	n, each := r.u32(), 16
	if kind == Write {
		each = 12
	}
	if r.short || n > MaxExtents || len(r.b) < int(n)*each {
		return nil, nil, fmt.Errorf("an order with %d extents in %d bytes: at most %d", n, len(r.b), MaxExtents)
	}
	total := uint64(0)
	for range n {
		e := Extent{Offset: r.u64()}
		if kind == Write {
			e.Length = uint64(r.u32())
		} else {
			e.Length = r.u64()
		}
		if e.Length == 0 || e.Offset+e.Length < e.Offset || e.Offset+e.Length > 1<<62 {
			return nil, nil, fmt.Errorf("an order for bytes %d+%d", e.Offset, e.Length)
		}
		if total += e.Length; kind == Write && total > MaxData {
			return nil, nil, fmt.Errorf("an order to write %d bytes: at most %d", total, MaxData)
		}
		all = append(all, e)
	}
	return all, r.b, nil
}

// Step is the body of an order of kind Progress.
type Step struct {
	Done, Total uint64 // bytes
	What        string
}

// Encode returns the body.
func (s *Step) Encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, s.Done)
	b = binary.BigEndian.AppendUint64(b, s.Total)
	return append(b, s.What...)
}

// ParseStep reads the body of an order of kind Progress.
func ParseStep(b []byte) (*Step, error) {
	r := reader{b: b}
	s := &Step{Done: r.u64(), Total: r.u64()}
	if r.short {
		return nil, errShort
	}
	s.What = Text(r.b)
	return s, nil
}

// Text makes what the other side said fit to be shown: short, and nothing that a terminal
// would obey.
func Text(b []byte) string {
	out := []rune{}
	for _, c := range string(b[:min(len(b), maxText)]) {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == 0xfffd {
			c = ' '
		}
		out = append(out, c)
	}
	return string(out)
}

// reader takes numbers off the front of a message. Once it was too short it yields zeros.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) start(what string, kind *Kind) error {
	if m := r.take(4); r.short || [4]byte(m) != magic {
		return fmt.Errorf("%s of a rescue does not begin with %q: use the same version on both sides", what, magic[:])
	}
	*kind = Kind(r.u8())
	if *kind < Hello || *kind > Done {
		return fmt.Errorf("%s of a rescue has kind %d, which is not known: use the same version on both sides", what, *kind)
	}
	return nil
}

func (r *reader) take(n int) []byte {
	if len(r.b) < n {
		r.b, r.short = nil, true
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte    { return r.take(1)[0] }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
