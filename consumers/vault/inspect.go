package vault

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// MarshalText returns the digest as hex digits.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText reads what MarshalText wrote.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) != 2*len(d) {
		return invalid("digest of %d characters, want %d", len(b), 2*len(d))
	}
	if _, err := hex.Decode(d[:], b); err != nil {
		return invalid("digest: %v", err)
	}
	return nil
}

// Object describes one object of a vault, for people and as JSON. One of the pointers
// is set.
type Object struct {
	Key     string       `json:"key"`
	Kind    string       `json:"kind"` // "vault", "slot", "disk key", "segment", "map", "point", "pin" or "record"
	Size    int64        `json:"size"` // bytes
	ID      string       `json:"id,omitempty"`
	Slot    *SlotInfo    `json:"slot,omitempty"`
	Segment *SegmentInfo `json:"segment,omitempty"`
	Point   *Point       `json:"point,omitempty"`
	Pin     *Pin         `json:"pin,omitempty"`
	Map     *MapInfo     `json:"map,omitempty"`
	Record  *Record      `json:"record,omitempty"`
}

// SlotInfo describes a key slot; it tells no secrets.
type SlotInfo struct {
	Kind    string `json:"kind"`
	Passes  uint32 `json:"passes,omitempty"`
	Memory  uint32 `json:"memory_kib,omitempty"`
	Threads uint8  `json:"threads,omitempty"`
	Name    string `json:"name,omitempty"` // of a service's key
}

// SegmentInfo describes a segment.
type SegmentInfo struct {
	Disk   string      `json:"disk"`
	Epoch  uint64      `json:"epoch"`
	First  uint64      `json:"first"`
	Last   uint64      `json:"last"`
	Prev   string      `json:"prev"`
	Hash   string      `json:"hash"`
	Base   string      `json:"base"` // epoch/number
	Level  int         `json:"level"`
	Until  string      `json:"until,omitempty"` // of a folded one: lacks what is overwritten before
	Size   uint64      `json:"disk_size"`
	Digest Digest      `json:"digest"`
	Blocks uint64      `json:"blocks"` // mapped to data
	Zeros  uint64      `json:"zeros"`  // blocks mapped to zeros
	Open   *Open       `json:"open,omitempty"`
	Cut    *Cut        `json:"cut,omitempty"`
	Frames []FrameInfo `json:"frames"`
}

// MapInfo describes a map.
type MapInfo struct {
	Disk    string `json:"disk"`
	Epoch   uint64 `json:"epoch"`
	First   uint64 `json:"first"`
	Last    uint64 `json:"last"`
	Hash    string `json:"hash"`
	Level   int    `json:"level"`
	Until   string `json:"until"`
	Size    uint64 `json:"disk_size"`
	Digest  Digest `json:"digest"`
	Pages   int    `json:"pages"`   // of 64 MiB of the disk, that have anything
	Sources int    `json:"sources"` // segments it refers to
}

// FrameInfo describes a frame of a segment.
type FrameInfo struct {
	Codec   string       `json:"codec"` // "raw", "zstd" or "zeros"
	Raw     int          `json:"raw"`   // bytes when unpacked
	Stored  int          `json:"stored"`
	Extents []ExtentInfo `json:"extents"`
}

// ExtentInfo describes an extent in blocks.
type ExtentInfo struct {
	Start uint64 `json:"start"`
	Count uint32 `json:"count"`
	Off   uint32 `json:"off"` // within the frame
}

// Inspect describes the object at key: an *Object.
func (v *Vault) Inspect(ctx context.Context, key string) (any, error) {
	info, err := v.st.Stat(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	o := &Object{Key: key, Size: info.Size}
	if err := v.inspect(ctx, o); err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	return o, nil
}

func (v *Vault) inspect(ctx context.Context, o *Object) error {
	if o.Key == markerKey {
		o.Kind, o.ID = "vault", v.ID()
		return nil
	}
	if strings.HasPrefix(o.Key, slotPrefix) {
		s, err := readSlot(ctx, v.st, o.Key)
		if err != nil {
			return err
		}
		o.Kind, o.ID = "slot", s.id()
		o.Slot = slotInfo(s)
		return nil
	}
	if point, ok := pinnedKey(o.Key); ok {
		p, err := v.openPin(ctx, o.Key)
		if err != nil {
			return err
		}
		group, _, id, _ := parsePointKey(point)
		o.Kind, o.ID, o.Pin = "pin", id, &Pin{Point: id, Group: group, Name: p.Name, Time: fromNano(p.Time)}
		return nil
	}
	if kind, name, version, ok := parseRecordKey(o.Key); ok {
		r, err := v.openRecord(ctx, o.Key)
		if err != nil {
			return err
		}
		o.Kind, o.ID, o.Record = "record", kind+" "+name, recordOf(kind, name, version, r)
		return nil
	}
	if d, ok := parseDiskKeyKey(o.Key); ok {
		_, err := v.readDiskKey(ctx, d)
		o.Kind, o.ID = "disk key", d.String()
		return err
	}
	if _, _, id, ok := parsePointKey(o.Key); ok {
		p, err := v.openPoint(ctx, o.Key)
		if err != nil {
			return err
		}
		o.Kind, o.ID, o.Point = "point", id, pointOf(p)
		return nil
	}
	if id, r, ok := parseSegmentKey(o.Key); ok {
		r.size = o.Size
		o.Kind, o.ID = "segment", fmt.Sprintf("%s %d/%d", id, r.epoch, r.first)
		d, err := v.disk(ctx, id)
		if err != nil {
			return err
		}
		s, err := d.read(ctx, r, partIndex)
		if err != nil {
			return err
		}
		o.Segment = segmentInfo(id, s)
		return nil
	}
	if id, r, ok := parseMapKey(o.Key); ok {
		r.size = o.Size
		o.Kind, o.ID = "map", fmt.Sprintf("%s %d/%d", id, r.epoch, r.first)
		d, err := v.disk(ctx, id)
		if err != nil {
			return err
		}
		s, err := d.openMap(ctx, r)
		if err != nil {
			return err
		}
		o.Map = s.chart.info()
		return nil
	}
	return invalid("%s: nothing in a vault has this name", o.Key)
}

func slotInfo(s slot) *SlotInfo {
	if s.outer != nil {
		return &SlotInfo{Kind: "outer", Name: s.outer.Name}
	}
	i := &SlotInfo{Kind: kindName(s.Kind), Passes: s.Time, Memory: s.Memory, Threads: s.Threads}
	if i.Kind == kindName(0) {
		i.Kind = fmt.Sprintf("unknown %d", s.Kind)
	}
	return i
}

func segmentInfo(id DiskID, s *segment) *SegmentInfo {
	i := &SegmentInfo{
		Disk: id.String(), Epoch: s.Epoch, First: s.First, Last: s.Last,
		Prev: hex.EncodeToString(s.Prev[:]), Hash: hex.EncodeToString(s.Hash[:]),
		Base: Position{s.BaseEpoch, s.BaseNumber}.String(), Size: s.Size, Digest: s.Digest, Blocks: s.Blocks, Zeros: s.Zeros,
	}
	if i.Level = int(s.level); s.level != levelRaw {
		i.Until = s.until.String()
	}
	if s.Open != nil {
		i.Open = openRecord(s.Trailer)
	}
	if s.Cut != nil {
		cut := cutInfo(id, s).Cut
		i.Cut = &cut
	}
	for k := range s.frames {
		f := &s.frames[k]
		n := FrameInfo{Codec: codecName(f.Codec), Raw: int(f.Blocks) * BlockSize, Stored: int(f.Length)}
		for _, e := range f.Extents {
			n.Extents = append(n.Extents, ExtentInfo(e))
		}
		i.Frames = append(i.Frames, n)
	}
	return i
}

func codecName(c format.Codec) string {
	switch c {
	case format.CodecRaw:
		return "raw"
	case format.CodecZstd:
		return "zstd"
	}
	return "zeros"
}
