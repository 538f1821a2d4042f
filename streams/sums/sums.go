package sums

import (
	"bytes"
	"crypto/sha256"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// Of returns the sum of one block of BlockSize bytes.
func Of(block []byte) [16]byte {
	if IsZero(block) {
		return [16]byte{}
	}
	h := sha256.Sum256(block)
	return [16]byte(h[:16])
}

// All puts the sums of the blocks of data, whose length is len(to) blocks, into to. It is
// faster than Of for each: two blocks are summed up at once where the CPU can.
func All[S ~[16]byte](data []byte, to []S) {
	held := -1 // a block that waits for another
	at := func(i int) []byte { return data[i*BlockSize : (i+1)*BlockSize] }
	for i := range to {
		switch {
		case !inPairs:
			to[i] = Of(at(i))
		case IsZero(at(i)):
			to[i] = S{}
		case held < 0:
			held = i
		default:
			to[held], to[i] = pair[S](at(held), at(i))
			held = -1
		}
	}
	if held >= 0 {
		to[held] = Of(at(held))
	}
}

func pair[S ~[16]byte](a, b []byte) (S, S) {
	x, y := sumPair(a, b)
	return x, y
}

// IsZero reports whether b holds nothing but zeros.
func IsZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

var zeros [BlockSize]byte
