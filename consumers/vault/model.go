package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"time"

	"github.com/leeward-dr/leeward/streams/sums"
)

// BlockSize is the unit of change in bytes.
const BlockSize = 4096

// DiskID names a disk of a machine. Both parts are 1 to 64 letters, digits, '-'
// or '_', starting with a letter or digit.
type DiskID struct{ Machine, Disk string }

// String returns "machine/disk".
func (d DiskID) String() string { return d.Machine + "/" + d.Disk }

// Position is a place in a disk's history: after link Number of Epoch.
// The zero Position is the empty disk before all history.
type Position struct{ Epoch, Number uint64 }

// Sum identifies the content of one block: the first 16 bytes of its SHA-256,
// or zero for a block of zeros.
type Sum [16]byte

// SumOf returns the sum of one block of BlockSize bytes.
func SumOf(block []byte) Sum { return sums.Of(block) }

// sumsOf puts the sums of the blocks of data into to: faster than SumOf for each.
func sumsOf(data []byte, to []Sum) { sums.All(data, to) }

// Digest identifies the content of a whole disk: the sum, modulo 2^256, over all
// blocks that are not zero, of SHA-256(block index as 8 bytes big endian || Sum).
// It can be brought up to date block by block, in any order. It finds errors; what
// keeps forgers out is the encryption around everything it is stored in.
type Digest [32]byte

// Replace takes the block at index from old to new.
func (d *Digest) Replace(index uint64, old, new Sum) {
	if old == new {
		return
	}
	d.apply(index, old, true)
	d.apply(index, new, false)
}

func (d *Digest) apply(index uint64, s Sum, subtract bool) {
	if s == (Sum{}) {
		return
	}
	var b [24]byte
	binary.BigEndian.PutUint64(b[:8], index)
	copy(b[8:], s[:])
	term := sha256.Sum256(b[:])
	var carry uint64
	for i := 24; i >= 0; i -= 8 {
		x, y := binary.BigEndian.Uint64(d[i:]), binary.BigEndian.Uint64(term[i:])
		if subtract {
			x, carry = bits.Sub64(x, y, carry)
		} else {
			x, carry = bits.Add64(x, y, carry)
		}
		binary.BigEndian.PutUint64(d[i:], x)
	}
}

// Codec tells how a Frame's Data is packed. The numbers are those on the wire.
type Codec uint8

// The codecs.
const (
	CodecRaw  Codec = 0
	CodecZstd Codec = 1 // one zstd frame
)

// Extent maps a run of blocks of the disk to blocks of a frame, or to zeros.
type Extent struct {
	Start uint64 // first block on the disk
	Count uint32 // blocks, at least 1
	Zero  bool   // reads as zeros; Off is 0
	Off   uint32 // first block within the unpacked frame
}

// Frame is what is compressed and sealed as one piece. A frame of zero extents
// only has no Data.
type Frame struct {
	Codec   Codec
	Raw     uint32   // bytes when unpacked, at most MaxRaw
	Extents []Extent // live extents, ascending on the disk; blocks nobody maps are dead weight
	Sums    []Sum    // one for each block of the non-zero extents, in the order of Extents
	Data    []byte
}

// MaxRaw is the largest frame in bytes when unpacked.
const MaxRaw = 1 << 20

// Open is the record of an epoch's first link.
type Open struct {
	Size      uint64 // bytes of the disk
	Capture   string
	Guarantee string
	Host      string
	Instance  string
	Path      string
	Identity  string
	Reason    string
	Time      time.Time
	Base      Position // where the epoch forks from; set by DiskWriter.Commit
	BaseHash  [32]byte // chain hash at Base
}

// Cut is the record of a consistent instant of a disk; it ends its segment.
type Cut struct {
	Point       string
	Group       string
	Time        time.Time
	Consistency string
	Size        uint64 // bytes
}

// Batch is a run of links that becomes one segment: links First to Last of Epoch.
// No block is mapped by two extents of a batch.
type Batch struct {
	Epoch       uint64
	First, Last uint64
	Prev        [32]byte // chain hash before First; zero if First is 1
	Hash        [32]byte // chain hash of Last
	Open        *Open    // set exactly if First is 1
	Cut         *Cut     // set if Last is a cut
	MinBase     Position // with Open: fail if the vault's head is behind it
	Frames      []Frame
}

// Head is where a disk stands in the vault.
type Head struct {
	Position
	Hash   [32]byte // chain hash of the last link
	Base   Position // where this epoch forked from
	Digest Digest   // of the disk
	Size   uint64   // bytes of the disk
	Open   *Open    // who protects it
}

// CutInfo is a cut as the vault recorded it.
type CutInfo struct {
	Cut
	Disk   DiskID
	At     Position
	Digest Digest

	stored time.Time // when the store got it; zero if it is folded
}

// Point is a recovery point: a promise that every disk can be had as it was.
type Point struct {
	ID          string
	Group       string
	Time        time.Time // the instant of the cut
	Consistency string    // "crash" or "app"
	Frozen      time.Duration
	Listed      time.Time // when it was found complete
	Machines    []PointMachine
	// Skew is the time from the first machine that stood still to the last; 0 for one
	// machine alone.
	Skew time.Duration
}

// PointMachine is one machine of a recovery point with what is needed to build
// another like it.
type PointMachine struct {
	Machine  string
	Host     string
	CPUs     uint32
	Memory   uint64 // bytes
	Firmware string // "bios" or "uefi"
	OS       string
	Kernel   string
	NICs     []string // "name mac"
	Disks    []PointDisk
	Frozen   time.Duration // of this machine, if a barrier said so
}

// PointDisk is one disk of a recovery point.
type PointDisk struct {
	Disk   string
	At     Position
	Size   uint64 // bytes
	Digest Digest
	Frozen bool
	Note   string // what is not guaranteed
}
