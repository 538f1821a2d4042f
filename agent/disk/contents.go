package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// Contents says what is on a disk, for somebody who is about to overwrite it: a partition
// table and what its partitions hold, or a filesystem. It knows what is common; "" means
// that nothing was found, not that nothing is there.
func Contents(r io.ReaderAt, size uint64) string {
	table, parts := partitionTable(r, size)
	if table == "" {
		return filesystem(r, 0)
	}
	var in []string
	for _, at := range parts {
		if s := filesystem(r, at); s != "" {
			in = append(in, s)
		}
	}
	s := fmt.Sprintf("%s, %d partitions", table, len(parts))
	if len(parts) == 1 {
		s = table + ", 1 partition"
	}
	if len(in) > 0 {
		s += ": " + strings.Join(in, ", ")
	}
	return s
}

const (
	sector        = 512
	maxPartitions = 128
)

// partitionTable returns the kind of a partition table and where its partitions begin.
func partitionTable(r io.ReaderAt, size uint64) (table string, at []uint64) {
	mbr := make([]byte, sector)
	if _, err := r.ReadAt(mbr, 0); err != nil || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return "", nil
	}
	for _, s := range []uint64{sector, BlockSize} { // what the disk calls a sector
		if all := gpt(r, s, size); all != nil {
			return "GPT", all
		}
	}
	for i := range 4 {
		e := mbr[446+16*i:][:16]
		if start := uint64(binary.LittleEndian.Uint32(e[8:])) * sector; e[0]&0x7f == 0 && e[4] != 0 && start > 0 && start < size {
			at = append(at, start)
		}
	}
	if at == nil { // filesystems have that signature, too
		return "", nil
	}
	return "MBR", at
}

func gpt(r io.ReaderAt, s, size uint64) (at []uint64) {
	h := make([]byte, 92)
	if _, err := r.ReadAt(h, int64(s)); err != nil || string(h[:8]) != "EFI PART" {
		return nil
	}
	first, count, each := binary.LittleEndian.Uint64(h[72:]), binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
	if each < 128 || each > BlockSize || first > size/s {
		return nil
	}
	at = []uint64{}
	e := make([]byte, 40)
	for i := range uint64(min(count, maxPartitions)) {
		if _, err := r.ReadAt(e, int64(first*s+i*uint64(each))); err != nil {
			break
		}
		if start := binary.LittleEndian.Uint64(e[32:]); !bytes.Equal(e[:16], make([]byte, 16)) && start < size/s {
			at = append(at, start*s)
		}
	}
	return at
}

// marks are how filesystems and what lies below them begin.
var marks = []struct {
	name string
	at   int
	is   string
}{
	{"LUKS", 0, "LUKS\xba\xbe"}, {"XFS", 0, "XFSB"}, {"LVM", 512 + 24, "LVM2 001"}, {"btrfs", 0x10040, "_BHRfS_M"},
	{"ext", 0x438, "\x53\xef"}, {"swap", 4086, "SWAPSPACE2"}, {"NTFS", 3, "NTFS    "}, {"FAT", 82, "FAT32   "}, {"FAT", 54, "FAT1"},
	{"software RAID", 4096, "\xfc\x4e\x2b\xa9"}, {"software RAID", 0, "\xfc\x4e\x2b\xa9"}, {"ZFS", 0x20000, "\x0c\xb1\xba\x00"},
}

func filesystem(r io.ReaderAt, at uint64) string {
	for _, m := range marks {
		b := make([]byte, len(m.is))
		if _, err := r.ReadAt(b, int64(at)+int64(m.at)); err == nil && string(b) == m.is {
			return m.name
		}
	}
	return ""
}
