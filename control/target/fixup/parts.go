package fixup

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	sectorSize = 512
	maxEntries = 1 << 10 // of a partition table that is believed
)

// partitionIDs returns what the partitions of a disk are known by, whatever the disk is called:
// their names below /dev/disk/by-partuuid, by number. A table that is damaged has none.
func partitionIDs(r io.ReaderAt) map[int]string {
	mbr := make([]byte, sectorSize)
	if n, _ := r.ReadAt(mbr, 0); n < len(mbr) || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return nil
	}
	const first, length, number, kind, protective = 446, 16, 4, 4, 0xee
	all := map[int]string{}
	id := binary.LittleEndian.Uint32(mbr[440:])
	for i := range number {
		switch t := mbr[first+i*length+kind]; {
		case t == protective:
			return gptIDs(r)
		case t != 0 && id != 0:
			all[i+1] = fmt.Sprintf("%08x-%02x", id, i+1)
		}
	}
	return all // what is in an extended partition is in one of these, too
}

// gptIDs reads the table at the beginning of a disk.
func gptIDs(r io.ReaderAt) map[int]string {
	h := make([]byte, sectorSize)
	if n, _ := r.ReadAt(h, sectorSize); n < len(h) || string(h[:8]) != "EFI PART" {
		return nil
	}
	size := binary.LittleEndian.Uint32(h[12:])
	if size < 92 || size > sectorSize {
		return nil
	}
	sum := binary.LittleEndian.Uint32(h[16:])
	binary.LittleEndian.PutUint32(h[16:], 0) // it is made without itself
	at, n, length := binary.LittleEndian.Uint64(h[72:]), binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
	if crc32.ChecksumIEEE(h[:size]) != sum || n == 0 || n > maxEntries || length != 128 || at < 2 || at > 1<<40 {
		return nil
	}
	table := make([]byte, n*length)
	if got, _ := r.ReadAt(table, int64(at)*sectorSize); got < len(table) || crc32.ChecksumIEEE(table) != binary.LittleEndian.Uint32(h[88:]) {
		return nil
	}
	all := map[int]string{}
	for i := range int(n) {
		e := table[i*128:]
		if [16]byte(e[:16]) == ([16]byte{}) { // not used
			continue
		}
		g := e[16:32]
		all[i+1] = fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:16])
	}
	return all
}

// volumeID returns what a physical volume of LVM is known by: the end of its name
// below /dev/disk/by-id, "" if it is damaged.
func volumeID(r io.ReaderAt) string {
	p, err := readPhysical(r)
	if err != nil {
		return ""
	}
	for _, c := range []byte(p.id) {
		if c < '0' || c > '9' && c < 'A' || c > 'Z' && c < 'a' || c > 'z' {
			return "" // it stands in a file of settings
		}
	}
	return fmt.Sprintf("%s-%s-%s-%s-%s-%s-%s", p.id[:6], p.id[6:10], p.id[10:14], p.id[14:18], p.id[18:22], p.id[22:26], p.id[26:])
}
