package disk

import "unsafe"

// AlignedBuffer returns n zero bytes whose address is a multiple of BlockSize, as
// reads that bypass the page cache need it.
func AlignedBuffer(n int) []byte {
	b := make([]byte, n+BlockSize-1)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (BlockSize - 1)
	return b[skip : skip+n : skip+n]
}

// aligned says whether a device can read straight into b.
func aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))&(BlockSize-1) == 0
}
