package wire

import (
	"fmt"
	"math"

	"github.com/leeward-dr/leeward/streams"
)

func (m *Change) setVersion() {
	m.Version = Version
	if m.Block != nil {
		m.Version, m.Block.Check = BlockVersion, checksum(m.Block.Data)
	}
}
func (m *Marker) setVersion()      { m.Version = Version }
func (m *Receipt) setVersion()     { m.Version = Version }
func (m *Event) setVersion()       { m.Version = Version }
func (m *SumsRequest) setVersion() { m.Version = Version }
func (m *SumsReply) setVersion()   { m.Version = Version }

func (m *Change) versions() (uint8, *uint8)      { return BlockVersion, &m.Version }
func (m *Marker) versions() (uint8, *uint8)      { return Version, &m.Version }
func (m *Receipt) versions() (uint8, *uint8)     { return Version, &m.Version }
func (m *Event) versions() (uint8, *uint8)       { return Version, &m.Version }
func (m *SumsRequest) versions() (uint8, *uint8) { return Version, &m.Version }
func (m *SumsReply) versions() (uint8, *uint8)   { return Version, &m.Version }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func checkDisk(machine, disk string) error {
	if err := streams.ValidName("machine", machine); err != nil {
		return malformed("%v", err)
	}
	if err := streams.ValidName("disk", disk); err != nil {
		return malformed("%v", err)
	}
	return nil
}

func checkText(what string, texts ...string) error {
	for _, t := range texts {
		if len(t) > MaxText {
			return malformed("%s has a text of %d bytes, at most %d", what, len(t), MaxText)
		}
	}
	return nil
}

func (m *Change) check() error {
	if err := checkDisk(m.Machine, m.Disk); err != nil {
		return err
	}
	if m.Epoch == 0 || m.Number == 0 {
		return malformed("change of %s/%s is numbered %d of epoch %d, both start at 1", m.Machine, m.Disk, m.Number, m.Epoch)
	}
	if (m.Open != nil) != (m.Kind == KindOpen) || (m.Block != nil) != (m.Kind == KindBlock) || (m.Cut != nil) != (m.Kind == KindCut) {
		return malformed("change of kind %d does not carry what its kind says", m.Kind)
	}
	if (m.Number == 1) != (m.Kind == KindOpen) {
		return malformed("change %d is of kind %d: an epoch starts with one open, and only there", m.Number, m.Kind)
	}
	if m.Number == 1 && m.Prev != (Hash{}) {
		return malformed("change 1 has a predecessor")
	}
	if m.Version == BlockVersion && m.Block == nil {
		return malformed("change of kind %d is of version %d, only blocks are", m.Kind, m.Version)
	}
	switch m.Kind {
	case KindOpen:
		o := m.Open
		if o.Size == 0 || o.Size > math.MaxInt64 {
			return malformed("open of a disk of %d bytes", o.Size)
		}
		return checkText("open", o.Capture, o.Guarantee, o.Host, o.Instance, o.Path, o.Identity, o.Reason)
	case KindBlock:
		return m.Block.check()
	case KindCut:
		c := m.Cut
		if err := checkPoint(c.Point, c.Group, c.Consistency); err != nil {
			return err
		}
		if c.Size == 0 || c.Size > math.MaxInt64 {
			return malformed("cut of a disk of %d bytes", c.Size)
		}
		return nil
	}
	return malformed("change of unknown kind %d", m.Kind)
}

func checkPoint(id, group string, c Consistency) error {
	if err := streams.ValidName("point", id); err != nil {
		return malformed("%v", err)
	}
	if err := streams.ValidName("group", group); err != nil {
		return malformed("%v", err)
	}
	if c != Crash && c != App {
		return malformed("point %s has unknown consistency %q", id, c)
	}
	return nil
}

// maxBlock keeps every byte offset of a disk within an int64.
const maxBlock = math.MaxInt64 / BlockSize

func (b *Block) check() error {
	if len(b.Extents) == 0 || len(b.Extents) > MaxExtents {
		return malformed("block with %d extents, want 1 to %d", len(b.Extents), MaxExtents)
	}
	var next uint64
	data := uint64(0)
	for i, e := range b.Extents {
		if e.Count == 0 || e.Start < next || e.Start > maxBlock || uint64(e.Count) > maxBlock-e.Start {
			return malformed("extent %d (%d+%d) is empty, out of order or beyond any disk", i, e.Start, e.Count)
		}
		if e.Kind > ExtentDiscard {
			return malformed("extent %d is of unknown kind %d", i, e.Kind)
		}
		next = e.Start + uint64(e.Count)
		if e.Kind == ExtentData {
			data += uint64(e.Count)
		}
	}
	if uint64(b.Raw) != data*BlockSize || b.Raw > MaxRaw {
		return malformed("block of %d raw bytes, its extents have %d blocks of data, at most %d bytes", b.Raw, data, MaxRaw)
	}
	if uint64(len(b.Sums)) != data*16 {
		return malformed("block has %d bytes of sums for %d blocks", len(b.Sums), data)
	}
	if b.Codec > CodecZstd || len(b.Data) > MaxData || b.Codec == CodecRaw && len(b.Data) != int(b.Raw) || (len(b.Data) == 0) != (data == 0) {
		return malformed("block of codec %d has %d bytes for %d raw", b.Codec, len(b.Data), b.Raw)
	}
	return nil
}

func (m *Marker) check() error {
	if err := checkPoint(m.ID, m.Group, m.Consistency); err != nil {
		return err
	}
	if len(m.Members) > MaxMembers {
		return malformed("marker %s of %d machines, at most %d", m.ID, len(m.Members), MaxMembers)
	}
	n := 0
	for _, k := range m.Members {
		if err := streams.ValidName("machine", k.Machine); err != nil {
			return malformed("%v", err)
		}
		f := k.Facts
		if err := checkText("member "+k.Machine, append([]string{f.Host, f.Firmware, f.OS, f.Kernel}, f.NICs...)...); err != nil {
			return err
		}
		if len(f.NICs) > MaxNICs {
			return malformed("member %s has %d network cards", k.Machine, len(f.NICs))
		}
		for _, d := range k.Disks {
			if err := checkDisk(k.Machine, d.Disk); err != nil {
				return err
			}
			if d.Epoch == 0 || d.Number == 0 || d.Size == 0 || d.Size > math.MaxInt64 || len(d.Note) > MaxText {
				return malformed("marker %s: cut of %s/%s at number %d of epoch %d, %d bytes", m.ID, k.Machine, d.Disk, d.Number, d.Epoch, d.Size)
			}
			n++
		}
	}
	if n == 0 || n > MaxMembers {
		return malformed("marker %s of %d disks, want 1 to %d", m.ID, n, MaxMembers)
	}
	return nil
}

func (m *Receipt) check() error {
	if err := checkDisk(m.Machine, m.Disk); err != nil {
		return err
	}
	return checkText("receipt", m.Reason)
}

func (m *Event) check() error {
	if err := streams.ValidName("machine", m.Machine); err != nil {
		return malformed("%v", err)
	}
	if err := streams.ValidName("event kind", m.Kind); err != nil {
		return malformed("%v", err)
	}
	if m.Severity != Info && m.Severity != Warning && m.Severity != Critical {
		return malformed("event of unknown severity %q", m.Severity)
	}
	return checkText("event", m.Disk, m.What, m.Try)
}

func (m *SumsRequest) check() error {
	if m.Count == 0 || m.Count > MaxSums || m.Start > maxBlock {
		return malformed("request for %d sums from block %d, want 1 to %d", m.Count, m.Start, MaxSums)
	}
	return nil
}

func (m *SumsReply) check() error {
	if len(m.Sums)%16 != 0 || len(m.Sums) > MaxSums*16 {
		return malformed("reply with %d bytes of sums", len(m.Sums))
	}
	return checkText("sums reply", m.Error)
}
