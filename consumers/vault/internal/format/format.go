package format

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version is the version of every object this package writes.
const Version = 1

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// Limits that decoders enforce before they allocate.
const (
	MaxRaw     = 1 << 20   // bytes of a frame when unpacked
	MaxData    = 2 << 20   // bytes of a frame's data as stored
	MaxIndex   = 64 << 20  // bytes of an index when unpacked
	MaxTrailer = 64 << 10  // bytes of a sealed trailer
	MaxSegment = 512 << 20 // bytes of a segment
	MaxPoint   = 16 << 20  // bytes of a sealed point
	MaxText    = 1024      // bytes of any text
	// MaxBlocks keeps every byte offset of a disk within an int64.
	MaxBlocks = (1<<63 - 1) / BlockSize
)

// Overhead is what sealing adds, in bytes.
const Overhead = 16

// Errors of this package, for errors.Is.
var (
	// ErrVersion means that the object was written by a version this one does not know.
	ErrVersion = errors.New("unknown format version")
	// ErrMalformed means that the bytes are not what they should be.
	ErrMalformed = errors.New("malformed")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func checkVersion(v uint16) error {
	if v != Version {
		return fmt.Errorf("%w %d: this program reads version %d, use the one that wrote it", ErrVersion, v, Version)
	}
	return nil
}

// checkMagic takes magic and the version off b.
func checkMagic(b []byte, magic string) ([]byte, error) {
	if len(b) < len(magic)+2 || string(b[:len(magic)]) != magic {
		return nil, malformed("does not start with %q", magic)
	}
	b = b[len(magic):]
	return b[2:], checkVersion(binary.BigEndian.Uint16(b))
}

func appendMagic(b []byte, magic string) []byte {
	return binary.BigEndian.AppendUint16(append(b, magic...), Version)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendCRC(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// checkCRC takes the checksum off the end of b.
func checkCRC(b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 {
		return nil, malformed("only %d bytes", len(b))
	}
	if binary.BigEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) {
		return nil, malformed("checksum does not fit")
	}
	return b[:n], nil
}
