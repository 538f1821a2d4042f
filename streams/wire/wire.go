package wire

import (
	"crypto/sha256"
	"errors"
	"hash/crc32"

	"github.com/leeward-dr/leeward/streams/sums"
)

// Version is the version of every message this package writes, but for changes that
// carry blocks, which are of BlockVersion; those of Version are still read.
const (
	Version      = 1
	BlockVersion = 2
)

// BlockSize is the unit of change in bytes.
const BlockSize = sums.BlockSize

// Limits that decoders enforce before they allocate.
const (
	MaxRaw     = 1 << 20  // bytes of one Block before compression
	MaxData    = 1 << 20  // bytes of one Block's payload
	MaxExtents = 4096     // extents of one Block
	MaxText    = 1024     // bytes of any text element
	MaxMembers = 4096     // disks in one Marker
	MaxNICs    = 256      // network cards of one Member
	MaxSums    = 16 << 10 // sums in one SumsReply (256 KiB)
)

// Errors of this package, for errors.Is.
var (
	// ErrVersion means the message was written by a version this one does not know.
	ErrVersion = errors.New("unknown message version")
	// ErrMalformed means the bytes are not a message of the expected kind or break a limit.
	ErrMalformed = errors.New("malformed message")
)

// Hash identifies one encoded message: its SHA-256.
type Hash [sha256.Size]byte

// HashOf returns the SHA-256 of bytes. The hash of a link is LinkHash.
func HashOf(encoded []byte) Hash { return sha256.Sum256(encoded) }

// LinkHash returns the hash of a link, which is the next one's Prev. c must come from
// Encode or DecodeChange, and encoded be its bytes.
func LinkHash(c *Change, encoded []byte) Hash {
	if c.Block != nil && c.Version >= BlockVersion {
		// Behind the data stands the mark of an absent Cut.
		return HashOf(encoded[:len(encoded)-len(c.Block.Data)-1])
	}
	return HashOf(encoded)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is what Block.Check holds of Block.Data.
func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }

// Sum identifies the content of one block, see the package comment.
type Sum [16]byte

// SumOf returns the sum of one block of BlockSize bytes. Callers that know a block
// to be zero use the zero Sum and need not call it.
func SumOf(block []byte) Sum { return sums.Of(block) }

// SumsOf puts the sums of the blocks of data, whose length is len(to) blocks, into to. It is
// faster than SumOf for each.
func SumsOf(data []byte, to []Sum) { sums.All(data, to) }

// Kind tells what a Change is.
type Kind uint8

// The kinds of Change.
const (
	KindOpen  Kind = 1 // the first link of an epoch
	KindBlock Kind = 2 // contents of blocks
	KindCut   Kind = 3 // everything before this link is one consistent state
)

// Change is one link of a disk's chain. Exactly one of Open, Block and Cut is
// set, as Kind says.
type Change struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Version uint8
	Kind    Kind
	Machine string
	Disk    string
	Epoch   uint64 // from 1
	Number  uint64 // from 1 within the epoch
	Prev    Hash   // hash of the encoded link before, zero in number 1
	Time    int64  // when the agent made it, Unix nanoseconds
	Open    *Open
	Block   *Block
	Cut     *Cut
}

// Open starts an epoch: it says what the disk is and who protects it.
type Open struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Size      uint64 `json:"size"`       // bytes of the disk
	Capture   string `json:"capture"`    // driver: "trace" or "scan"
	Guarantee string `json:"guarantee"`  // what the driver promises, one sentence for people
	Host      string `json:"host"`       // host name of the machine
	Instance  string `json:"instance"`   // random id of the agent process
	Path      string `json:"path"`       // device or file on that machine
	Identity  string `json:"identity"`   // serial, WWN or file identity; empty if the device has none
	Reason    string `json:"reason"`     // why a new epoch: "first", "restart", "resend", "lost", …
	MinEpoch  uint64 `json:"min_epoch"`  // the base must be at or behind this position: what the agent
	MinNumber uint64 `json:"min_number"` // knows the vault to hold (0, 0 if it knows nothing)
}

// Codec tells how a Block's Data is packed.
type Codec uint8

// The codecs.
const (
	CodecRaw  Codec = 0
	CodecZstd Codec = 1 // one zstd frame
)

// ExtentKind tells what an extent of blocks holds.
type ExtentKind uint8

// The kinds of extent.
const (
	ExtentData    ExtentKind = 0 // contents follow in Data
	ExtentZero    ExtentKind = 1 // reads as zeros
	ExtentDiscard ExtentKind = 2 // discarded by its owner; stored as zeros
)

// Extent is a run of blocks.
type Extent struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Start uint64 // first block
	Count uint32 // blocks, at least 1
	Kind  ExtentKind
}

// Block carries the contents of extents that do not overlap, in ascending order.
// Data holds the data extents one after the other; unpacked it has Raw bytes,
// BlockSize for each data block.
type Block struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Codec   Codec
	Raw     uint32
	Extents []Extent
	Sums    []byte // 16 bytes for each data block, in the order of Data
	Check   uint32 // CRC-32C of Data; set by Encode, 0 in version 1
	Data    []byte
}

// DataBlocks counts the blocks of b's data extents.
func (b *Block) DataBlocks() int {
	n := 0
	for _, e := range b.Extents {
		if e.Kind == ExtentData {
			n += int(e.Count)
		}
	}
	return n
}

// Cut says that the links before it are the disk at one instant.
type Cut struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Point       string // id of the recovery point it belongs to
	Group       string
	Time        int64 // the instant of the cut, Unix nanoseconds
	Consistency Consistency
	Size        uint64 // bytes of the disk at the cut
}

// Consistency is what a recovery point promises.
type Consistency string

// The consistencies.
const (
	Crash Consistency = "crash" // as after a power failure, all disks at one instant
	App   Consistency = "app"   // applications were told before
)

// Marker tells control that every disk of a group was cut.
type Marker struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Version     uint8
	ID          string // id of the recovery point
	Group       string
	Time        int64 // the instant of the cut, Unix nanoseconds
	Consistency Consistency
	Frozen      int64 // longest freeze of a member, nanoseconds; 0 if nothing was frozen
	Members     []Member
	// Of a barrier, both 0 for a machine that cut alone; nanoseconds. Libraries that go
	// by the tags read only the shorter form.
	Skew int64 `msgpack:"-"` // from the first member that stood still to the last
	Took int64 `msgpack:"-"` // from the request to the last member's cut
}

// Member is one machine of a Marker.
type Member struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Machine string    `json:"machine"`
	Facts   Facts     `json:"facts"`
	Disks   []DiskCut `json:"disks"` // in the machine's boot order
	// Frozen is how long this member stood still, nanoseconds; only of a barrier.
	Frozen int64 `json:"frozen,omitempty" msgpack:"-"`
}

// Facts is what is needed to build a machine like the protected one.
type Facts struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Host     string   `json:"host"`
	CPUs     uint32   `json:"cpus"`
	Memory   uint64   `json:"memory"`   // bytes
	Firmware string   `json:"firmware"` // "bios" or "uefi"
	OS       string   `json:"os"`       // PRETTY_NAME of os-release
	Kernel   string   `json:"kernel"`
	NICs     []string `json:"nics"` // "name mac"
}

// DiskCut is where a disk's chain stood at the cut.
type DiskCut struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Disk   string `json:"disk"`
	Epoch  uint64 `json:"epoch"`
	Number uint64 `json:"number"` // number of the Cut link
	Size   uint64 `json:"size"`   // bytes
	Frozen bool   `json:"frozen"` // the contents could not change during the cut
	Note   string `json:"note"`   // what is not guaranteed, empty if nothing
}

// Receipt says how far the vault holds a disk's chain.
type Receipt struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Version    uint8
	Machine    string
	Disk       string
	Epoch      uint64
	Number     uint64 // everything up to this link is in the vault
	Hash       Hash   // of that link
	BaseEpoch  uint64 // where this epoch forked from, 0 if from an empty disk
	BaseNumber uint64
	Size       uint64   // bytes of the disk
	Digest     [32]byte // of the disk at Number
	Resend     bool     // links after Number are missing: send them again in a new epoch
	Reason     string   // why, for people
	Time       int64    // Unix nanoseconds
}

// Severity ranks events.
type Severity string

// The severities.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// NoteWithout begins, in the note of a disk's cut, the part that names a disk which the
// machine's point was made without: "without disk NAME: why". Parts are separated by "; ".
const NoteWithout = "without disk "

// Event is something an operator may want to read afterwards.
type Event struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Version  uint8
	Time     int64 // Unix nanoseconds
	Machine  string
	Disk     string // empty if the whole machine
	Kind     string // stable word, e.g. "resync", "fenced", "freeze-aborted", "point"
	Severity Severity
	What     string // one sentence
	Try      string // what to do, empty if nothing
}

// SumsRequest asks for the sums of what the vault holds of a disk.
type SumsRequest struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Version uint8
	Epoch   uint64 // the epoch whose head is meant
	Start   uint64 // first block
	Count   uint32 // blocks, at most MaxSums
}

// SumsReply answers it. Error is set when the sums cannot be had; then the agent
// treats every block as different.
type SumsReply struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // for readers that use a msgpack library

	Version uint8
	Epoch   uint64
	Start   uint64
	Sums    []byte // 16 bytes a block
	Error   string
}

// IsZero reports whether b holds nothing but zeros.
func IsZero(b []byte) bool { return sums.IsZero(b) }
