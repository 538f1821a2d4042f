package sums

import "encoding/binary"

// pairBlocks takes n pieces of 64 bytes of each of two streams into their states.
//
//go:noescape
func pairBlocks(states *[16]uint32, a, b *byte, n int)

func cpuid(leaf, sub uint32) (a, b, c, d uint32)

// inPairs says whether this CPU has the instructions of pairBlocks.
var inPairs = func() bool {
	last, _, _, _ := cpuid(0, 0)
	if last < 7 {
		return false
	}
	const ssse3, sse41, sha = 1 << 9, 1 << 19, 1 << 29
	_, _, c, _ := cpuid(1, 0)
	_, b, _, _ := cpuid(7, 0)
	return c&ssse3 != 0 && c&sse41 != 0 && b&sha != 0
}()

// begun is the state of a new SHA-256, twice, as pairBlocks wants it.
var begun = [16]uint32{
	0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372,
	0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372,
}

// ended is what SHA-256 puts behind BlockSize bytes.
var ended = func() (b [64]byte) {
	b[0] = 0x80
	binary.BigEndian.PutUint64(b[56:], BlockSize*8)
	return b
}()

// sumPair is the sums of two blocks, neither of which is zero.
func sumPair(a, b []byte) (x, y [16]byte) {
	_, _ = a[BlockSize-1], b[BlockSize-1]
	s := begun
	pairBlocks(&s, &a[0], &b[0], BlockSize/64)
	pairBlocks(&s, &ended[0], &ended[0], 1)
	for i, from := range [4]int{3, 2, 7, 6} {
		binary.BigEndian.PutUint32(x[4*i:], s[from])
		binary.BigEndian.PutUint32(y[4*i:], s[8+from])
	}
	return x, y
}
