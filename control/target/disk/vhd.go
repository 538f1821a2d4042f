package disk

import "encoding/binary"

const (
	mib         = 1 << 20
	sectorSize  = 512
	vhdTypeFix  = 2
	vhdVersion  = 0x00010000
	vhdFeatures = 2 // reserved, always set
)

// VHDAlign returns the size, in bytes, of the VHD for a disk: Azure takes whole MiB
// only.
func VHDAlign(size int64) int64 { return (size + mib - 1) / mib * mib }

// VHDFooter returns the 512 bytes that end a fixed VHD of size bytes of data. They
// depend on the disk's content only, so that the same point gives the same file.
func VHDFooter(size int64, digest [32]byte) []byte {
	be := binary.BigEndian
	b := make([]byte, 0, sectorSize)
	b = append(b, "conectix"...)
	b = be.AppendUint32(be.AppendUint32(b, vhdFeatures), vhdVersion)
	b = be.AppendUint64(b, ^uint64(0)) // no further header
	b = be.AppendUint32(b, 0)          // made on 2000-01-01
	// QEMU believes the size only of creators it knows; of others it computes one from
	// the geometry, which loses the end of the disk.
	b = be.AppendUint32(append(b, "win "...), 0x000a0000)
	b = append(b, "Wi2k"...)
	b = be.AppendUint64(be.AppendUint64(b, uint64(size)), uint64(size))
	c, h, s := vhdGeometry(size / sectorSize)
	b = append(be.AppendUint16(b, c), h, s)
	b = be.AppendUint32(b, vhdTypeFix)
	sumAt := len(b)
	b = be.AppendUint32(b, 0)
	b = append(b, digest[:16]...) // a UUID
	b = b[:sectorSize]            // saved state 0, and reserved
	var sum uint32
	for _, x := range b {
		sum += uint32(x)
	}
	be.PutUint32(b[sumAt:], ^sum)
	return b
}

// vhdGeometry returns cylinders, heads and sectors per track as the format's document
// prescribes. For most sizes they describe a little less than the disk.
func vhdGeometry(sectors int64) (c uint16, h, s uint8) {
	sectors = min(sectors, 65535*16*255)
	perTrack, heads := int64(255), int64(16)
	cylinderHeads := sectors / perTrack
	if sectors < 65535*16*63 {
		perTrack = 17
		cylinderHeads = sectors / perTrack
		heads = max(4, (cylinderHeads+1023)/1024)
		if cylinderHeads >= heads*1024 || heads > 16 {
			perTrack, heads = 31, 16
			cylinderHeads = sectors / perTrack
		}
		if cylinderHeads >= heads*1024 {
			perTrack, heads = 63, 16
			cylinderHeads = sectors / perTrack
		}
	}
	return uint16(cylinderHeads / heads), uint8(heads), uint8(perTrack)
}
