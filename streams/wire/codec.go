package wire

import (
	"fmt"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Encode returns the bytes of a message: *Change, *Marker, *Receipt, *Event,
// *SumsRequest or *SumsReply. It sets the message's version. Encode checks what
// Decode would refuse, so that a bad message never leaves its maker.
func Encode[M message](m M) ([]byte, error) {
	m.setVersion()
	if err := m.check(); err != nil {
		return nil, err
	}
	return m.write(make([]byte, 0, m.size())), nil
}

// EncodeInPlace is Encode for a block whose Data lies in buf from byte room on: what
// stands before the data in the message is written into the room, what stands behind
// it after the data. The message returned is a part of buf, unless room or buf was too
// small: then it is a copy.
func EncodeInPlace(m *Change, buf []byte, room int) ([]byte, error) {
	if m.Block == nil || len(m.Block.Data) == 0 {
		return Encode(m)
	}
	m.setVersion()
	if err := m.check(); err != nil {
		return nil, err
	}
	data := m.Block.Data
	head, end := m.head(make([]byte, 0, m.size()-len(data))), room+len(data)
	if len(head) > room || cap(buf) <= end || &buf[:end][room] != &data[0] {
		return append(append(append(make([]byte, 0, m.size()), head...), data...), msgpcode.Nil), nil
	}
	buf = buf[:end+1]
	buf[end] = msgpcode.Nil // no cut
	copy(buf[room-len(head):], head)
	return buf[room-len(head):], nil
}

type message interface {
	*Change | *Marker | *Receipt | *Event | *SumsRequest | *SumsReply
	setVersion()
	check() error
	size() int // bytes to reserve for the encoded message
	write(b []byte) []byte
	read(r *reader) // everything behind the version
	versions() (newest uint8, at *uint8)
	elements() int
}

// DecodeChange reads a Change. Block.Sums and Block.Data point into b, which must
// not be changed while they are in use.
func DecodeChange(b []byte) (*Change, error) { return decode(b, new(Change)) }

// DecodeMarker reads a Marker.
func DecodeMarker(b []byte) (*Marker, error) { return decode(b, new(Marker)) }

// DecodeReceipt reads a Receipt.
func DecodeReceipt(b []byte) (*Receipt, error) { return decode(b, new(Receipt)) }

// DecodeEvent reads an Event.
func DecodeEvent(b []byte) (*Event, error) { return decode(b, new(Event)) }

// DecodeSumsRequest reads a SumsRequest.
func DecodeSumsRequest(b []byte) (*SumsRequest, error) { return decode(b, new(SumsRequest)) }

// DecodeSumsReply reads a SumsReply. Sums points into b.
func DecodeSumsReply(b []byte) (*SumsReply, error) { return decode(b, new(SumsReply)) }

func decode[M message](b []byte, m M) (M, error) {
	newest, version := m.versions()
	if err := checkVersion(b, newest); err != nil {
		return nil, err
	}
	r := &reader{b: b}
	if mk, ok := any(m).(*Marker); ok && len(b) > 0 && b[0] == msgpcode.FixedArrayLow|9 {
		mk.Took = 1 // of the longer form, until it is read
	}
	r.fields(m.elements())
	*version = r.u8()
	m.read(r)
	if r.err == nil && r.i != len(b) {
		r.fail("%d bytes after the message", len(b)-r.i)
	}
	if r.err != nil {
		return nil, fmt.Errorf("%T: %w", m, r.err)
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// checkVersion refuses a message of a version that is not known before anything else
// of it is believed: it may have any number of elements.
func checkVersion(b []byte, newest uint8) error {
	r := &reader{b: b}
	if n := r.array(len(b), 1); r.err == nil && n == 0 {
		return malformed("no version")
	}
	v := r.u8()
	if r.err != nil {
		return r.err
	}
	if v < Version || v > newest {
		return fmt.Errorf("%w: %d, this program knows up to %d: upgrade the older side", ErrVersion, v, newest)
	}
	return nil
}

// roomy is what the short elements of any message take at most, without texts.
const roomy = 512

func (m *Change) elements() int { return 11 }

func (m *Change) size() int {
	n := roomy + 6*MaxText/4
	if m.Block != nil {
		n += len(m.Block.Data) + len(m.Block.Sums) + 16*len(m.Block.Extents)
	}
	return n
}

func (m *Change) write(b []byte) []byte {
	b = m.head(b)
	if m.Block != nil {
		b = append(b, m.Block.Data...)
	}
	if m.Cut != nil {
		return m.Cut.write(b)
	}
	return append(b, msgpcode.Nil)
}

// head writes everything before the bytes of a block's data, or before the cut.
func (m *Change) head(b []byte) []byte {
	b = addArray(b, m.elements())
	b = addUint(b, uint64(m.Version))
	b = addUint(b, uint64(m.Kind))
	b = addText(b, m.Machine)
	b = addText(b, m.Disk)
	b = addUint(b, m.Epoch)
	b = addUint(b, m.Number)
	b = addBytes(b, m.Prev[:])
	b = addInt(b, m.Time)
	if m.Open != nil {
		b = m.Open.write(b)
	} else {
		b = append(b, msgpcode.Nil)
	}
	if m.Block == nil {
		return append(b, msgpcode.Nil)
	}
	return m.Block.head(b, m.Version)
}

func (m *Change) read(r *reader) {
	m.Kind = Kind(r.u8())
	m.Machine, m.Disk = r.text(), r.text()
	m.Epoch, m.Number = r.u64(), r.u64()
	r.fill(m.Prev[:])
	m.Time = r.i64()
	if !r.none() {
		m.Open = new(Open)
		m.Open.read(r)
	}
	if !r.none() {
		m.Block = new(Block)
		m.Block.read(r, m.Version)
	}
	if !r.none() {
		m.Cut = new(Cut)
		m.Cut.read(r)
	}
}

func (o *Open) write(b []byte) []byte {
	b = addArray(b, 10)
	b = addUint(b, o.Size)
	for _, s := range []string{o.Capture, o.Guarantee, o.Host, o.Instance, o.Path, o.Identity, o.Reason} {
		b = addText(b, s)
	}
	return addUint(addUint(b, o.MinEpoch), o.MinNumber)
}

func (o *Open) read(r *reader) {
	r.fields(10)
	o.Size = r.u64()
	for _, s := range []*string{&o.Capture, &o.Guarantee, &o.Host, &o.Instance, &o.Path, &o.Identity, &o.Reason} {
		*s = r.text()
	}
	o.MinEpoch, o.MinNumber = r.u64(), r.u64()
}

// fields is how many elements a block of a version has.
func fields(version uint8) int {
	if version < BlockVersion {
		return 5
	}
	return 6
}

// head writes a block without the bytes of its data, but with their length.
func (k *Block) head(b []byte, version uint8) []byte {
	b = addArray(b, fields(version))
	b = addUint(b, uint64(k.Codec))
	b = addUint(b, uint64(k.Raw))
	b = addArray(b, len(k.Extents))
	for _, e := range k.Extents {
		b = addArray(b, 3)
		b = addUint(b, e.Start)
		b = addUint(b, uint64(e.Count))
		b = addUint(b, uint64(e.Kind))
	}
	b = addBytes(b, k.Sums)
	if version >= BlockVersion {
		b = addUint(b, uint64(k.Check))
	}
	return addLength(b, len(k.Data), msgpcode.Bin8, msgpcode.Bin16, msgpcode.Bin32)
}

func (k *Block) read(r *reader, version uint8) {
	r.fields(fields(version))
	k.Codec, k.Raw = Codec(r.u8()), r.u32()
	if n := r.array(MaxExtents, 4); n > 0 {
		k.Extents = make([]Extent, n)
	}
	for i := range k.Extents {
		r.fields(3)
		k.Extents[i].Start, k.Extents[i].Count, k.Extents[i].Kind = r.u64(), r.u32(), ExtentKind(r.u8())
	}
	k.Sums = r.bytes(MaxRaw / BlockSize * 16)
	if version >= BlockVersion {
		k.Check = r.u32()
	}
	k.Data = r.bytes(MaxData)
	if version >= BlockVersion && r.err == nil && checksum(k.Data) != k.Check {
		r.fail("data of %d bytes has the checksum %08x, want %08x: it was damaged on the way", len(k.Data), checksum(k.Data), k.Check)
	}
}

func (c *Cut) write(b []byte) []byte {
	b = addText(addText(addArray(b, 5), c.Point), c.Group)
	b = addText(addInt(b, c.Time), string(c.Consistency))
	return addUint(b, c.Size)
}

func (c *Cut) read(r *reader) {
	r.fields(5)
	c.Point, c.Group = r.text(), r.text()
	c.Time, c.Consistency = r.i64(), Consistency(r.text())
	c.Size = r.u64()
}
