package format

import (
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

const pointMagic = "LWPOINT\n"

// PointHeaderSize is the size of what stands before the sealed record, in bytes.
const PointHeaderSize = 8 + 2 + SaltSize

// Limits of a point.
const (
	maxMachines = 4096
	maxDisks    = 1024 // of one machine
	maxNICs     = 256
)

// Point is the record of a recovery point. Times are Unix nanoseconds.
type Point struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	ID          string
	Group       string
	Time        int64
	Consistency string
	Frozen      int64 // nanoseconds
	Listed      int64
	Machines    []PointMachine
	Skew        int64 // nanoseconds; of a barrier over several machines, like PointMachine.Frozen
}

// PointMachine is one machine of a Point.
type PointMachine struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Machine  string
	Host     string
	CPUs     uint32
	Memory   uint64 // bytes
	Firmware string
	OS       string
	Kernel   string
	NICs     []string
	Disks    []PointDisk
	Frozen   int64 // nanoseconds
}

// alone is the record of a point without a barrier: what a barrier says is not
// written where it says nothing.
type alone struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	ID          string
	Group       string
	Time        int64
	Consistency string
	Frozen      int64
	Listed      int64
	Machines    []aloneMachine
}

type aloneMachine struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Machine  string
	Host     string
	CPUs     uint32
	Memory   uint64
	Firmware string
	OS       string
	Kernel   string
	NICs     []string
	Disks    []PointDisk
}

type barrier Point // without the methods below

// DecodeMsgpack reads either form.
func (p *Point) DecodeMsgpack(d *msgpack.Decoder) error {
	c, err := d.PeekCode()
	if err != nil {
		return err
	}
	if c != msgpcode.FixedArrayLow|7 {
		return d.Decode((*barrier)(p))
	}
	var a alone
	if err := d.Decode(&a); err != nil {
		return err
	}
	*p = Point{ID: a.ID, Group: a.Group, Time: a.Time, Consistency: a.Consistency, Frozen: a.Frozen, Listed: a.Listed}
	for _, m := range a.Machines {
		p.Machines = append(p.Machines, PointMachine{
			Machine: m.Machine, Host: m.Host, CPUs: m.CPUs, Memory: m.Memory, Firmware: m.Firmware, OS: m.OS, Kernel: m.Kernel, NICs: m.NICs, Disks: m.Disks,
		})
	}
	return nil
}

// EncodeMsgpack writes the shorter form of a point without a barrier. Readers take
// both, and elements that are not there for 0.
func (p *Point) EncodeMsgpack(e *msgpack.Encoder) error {
	said := p.Skew != 0
	a := alone{ID: p.ID, Group: p.Group, Time: p.Time, Consistency: p.Consistency, Frozen: p.Frozen, Listed: p.Listed}
	for _, m := range p.Machines {
		said = said || m.Frozen != 0
		a.Machines = append(a.Machines, aloneMachine{
			Machine: m.Machine, Host: m.Host, CPUs: m.CPUs, Memory: m.Memory, Firmware: m.Firmware, OS: m.OS, Kernel: m.Kernel, NICs: m.NICs, Disks: m.Disks,
		})
	}
	if said {
		return e.Encode((*barrier)(p))
	}
	return e.Encode(&a)
}

// PointDisk is one disk of a Point.
type PointDisk struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Disk   string
	Epoch  uint64
	Number uint64
	Size   uint64 // bytes
	Digest [32]byte
	Frozen bool
	Note   string
}

// Pin is the record that keeps a recovery point from being removed.
type Pin struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Name string // what people call the point; may be empty
	Time int64  // when it was pinned
}

const pinMagic = "LWPIN\r\n\x00"

// AppendPinHeader appends what stands before the sealed record to b.
func AppendPinHeader(b []byte, salt [SaltSize]byte) []byte {
	return append(appendMagic(b, pinMagic), salt[:]...)
}

// SplitPin takes a pin's object apart.
func SplitPin(b []byte) (header []byte, salt [SaltSize]byte, sealed []byte, err error) {
	return split(b, pinMagic, PointHeaderSize+Overhead+2*MaxText)
}

// EncodePin returns the bytes of p's record, or what is wrong with it.
func EncodePin(p *Pin) ([]byte, error) {
	if err := checkText(p.Name); err != nil {
		return nil, err
	}
	return encode(p)
}

// DecodePin reads an opened record.
func DecodePin(b []byte) (*Pin, error) {
	p := new(Pin)
	if err := decode(b, p); err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	return p, checkText(p.Name)
}

// AppendPointHeader appends what stands before the sealed record to b.
func AppendPointHeader(b []byte, salt [SaltSize]byte) []byte {
	return append(appendMagic(b, pointMagic), salt[:]...)
}

// SplitPoint takes a point's object apart.
func SplitPoint(b []byte) (header []byte, salt [SaltSize]byte, sealed []byte, err error) {
	return split(b, pointMagic, MaxPoint)
}

// split takes an object apart that is a header with a salt and one sealed record.
func split(b []byte, magic string, most int) (header []byte, salt [SaltSize]byte, sealed []byte, err error) {
	if len(b) < PointHeaderSize+Overhead || len(b) > most {
		return nil, salt, nil, malformed("object of %d bytes", len(b))
	}
	rest, err := checkMagic(b, magic)
	if err != nil {
		return nil, salt, nil, err
	}
	copy(salt[:], rest)
	return b[:PointHeaderSize], salt, b[PointHeaderSize:], nil
}

// EncodePoint returns the bytes of p's record, or what is wrong with it.
func EncodePoint(p *Point) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b, err := encode(p)
	if err == nil && len(b) > MaxPoint-PointHeaderSize-Overhead {
		err = fmt.Errorf("point has %d bytes, at most %d", len(b), MaxPoint)
	}
	return b, err
}

// DecodePoint reads an opened record.
func DecodePoint(b []byte) (*Point, error) {
	p := new(Point)
	if err := decode(b, p); err != nil {
		return nil, fmt.Errorf("point: %w", err)
	}
	return p, p.check()
}

func (p *Point) check() error {
	if err := checkText(p.ID, p.Group, p.Consistency); err != nil {
		return err
	}
	if len(p.Machines) == 0 || len(p.Machines) > maxMachines {
		return malformed("point %s has %d machines, want 1 to %d", p.ID, len(p.Machines), maxMachines)
	}
	for i := range p.Machines {
		m := &p.Machines[i]
		if err := checkText(m.Machine, m.Host, m.Firmware, m.OS, m.Kernel); err != nil {
			return err
		}
		if len(m.Disks) == 0 || len(m.Disks) > maxDisks || len(m.NICs) > maxNICs {
			return malformed("machine %s of point %s has %d disks and %d network cards", m.Machine, p.ID, len(m.Disks), len(m.NICs))
		}
		if err := checkText(m.NICs...); err != nil {
			return err
		}
		for _, d := range m.Disks {
			if d.Epoch == 0 || d.Number == 0 || d.Size > MaxBlocks*BlockSize {
				return malformed("disk %s/%s of point %s is at %d/%d with %d bytes", m.Machine, d.Disk, p.ID, d.Epoch, d.Number, d.Size)
			}
			if err := checkText(d.Disk, d.Note); err != nil {
				return err
			}
		}
	}
	return nil
}
