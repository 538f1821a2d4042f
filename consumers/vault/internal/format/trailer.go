package format

import (
	"fmt"
	"math"
)

// Trailer is the record at the end of a segment. The array has the fields in the
// order below; times are Unix nanoseconds.
type Trailer struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Epoch      uint64
	First      uint64 // number of the first link
	Last       uint64 // number of the last link
	Prev       [32]byte
	Hash       [32]byte // chain hash of the last link
	BaseEpoch  uint64   // where the epoch forks from
	BaseNumber uint64
	BaseHash   [32]byte // chain hash there
	Size       uint64   // bytes of the disk after the last link
	Digest     [32]byte // of the disk after the last link
	Frames     uint32   // frames in the segment
	Blocks     uint64   // blocks of the disk that the segment maps to data
	Zeros      uint64   // blocks of the disk that it maps to zeros
	SumsLen    uint64   // bytes of the sealed sums, which follow the frames
	IndexLen   uint64   // bytes of the sealed index, which follows the sums
	SumsOff    uint64   // offset of the sealed sums in the segment
	Open       *Open
	Cut        *Cut
}

// Open says who protects a disk; it stands in the first segment of an epoch.
type Open struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Size      uint64
	Capture   string
	Guarantee string
	Host      string
	Instance  string
	Path      string
	Identity  string
	Reason    string
	Time      int64
}

// Cut says that a segment ends at a consistent instant.
type Cut struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by the encoder

	Point       string
	Group       string
	Time        int64
	Consistency string
	Size        uint64
}

// EncodeTrailer returns the bytes of t, or what is wrong with it.
func EncodeTrailer(t *Trailer) ([]byte, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	b, err := encode(t)
	if err == nil && len(b)+Overhead > MaxTrailer {
		err = fmt.Errorf("trailer has %d bytes, at most %d", len(b), MaxTrailer-Overhead)
	}
	return b, err
}

// DecodeTrailer reads an opened trailer.
func DecodeTrailer(b []byte) (*Trailer, error) {
	t := new(Trailer)
	if err := decode(b, t); err != nil {
		return nil, fmt.Errorf("trailer: %w", err)
	}
	return t, t.check()
}

func (t *Trailer) check() error {
	switch {
	case t.Epoch == 0 || t.First == 0 || t.Last < t.First:
		return malformed("trailer of links %d to %d of epoch %d", t.First, t.Last, t.Epoch)
	case (t.First == 1) != (t.Open != nil):
		return malformed("trailer of links from %d: an epoch starts with one open, and only there", t.First)
	case t.First == 1 && t.Prev != [32]byte{}:
		return malformed("link 1 has a predecessor")
	case t.BaseEpoch >= t.Epoch || (t.BaseEpoch == 0) != (t.BaseNumber == 0):
		return malformed("epoch %d is based on %d/%d", t.Epoch, t.BaseEpoch, t.BaseNumber)
	case t.Size > math.MaxInt64:
		return malformed("disk of %d bytes", t.Size)
	case t.SumsOff < HeaderSize || t.SumsOff > MaxSegment || t.SumsLen > MaxSegment || t.IndexLen > MaxSegment:
		return malformed("sections at %d+%d+%d", t.SumsOff, t.SumsLen, t.IndexLen)
	case t.Blocks > MaxSegment || t.SumsLen != 16*t.Blocks+Overhead || t.IndexLen < Overhead:
		return malformed("sums of %d bytes for %d blocks, index of %d", t.SumsLen, t.Blocks, t.IndexLen)
	}
	if o := t.Open; o != nil {
		if err := checkText(o.Capture, o.Guarantee, o.Host, o.Instance, o.Path, o.Identity, o.Reason); err != nil {
			return err
		}
	}
	if c := t.Cut; c != nil {
		return checkText(c.Point, c.Group, c.Consistency)
	}
	return nil
}

func checkText(texts ...string) error {
	for _, s := range texts {
		if len(s) > MaxText {
			return malformed("text of %d bytes, at most %d", len(s), MaxText)
		}
	}
	return nil
}
