package fixup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// lz4Legacy reads the only kind of LZ4 that kernels read: a magic number, and blocks of at
// most 8 MiB, each with its compressed length before it. A length of zero, or the end, ends
// it.
type lz4Legacy struct {
	r     io.Reader
	block []byte
	raw   []byte
	out   []byte // of block, what was not read
	begun bool
	end   bool
}

const (
	lz4Magic    = 0x184C2102
	lz4Block    = 8 << 20
	lz4Worst    = lz4Block + lz4Block/255 + 16
	lz4MinMatch = 4
)

var errLZ4 = errors.New("damaged LZ4 data")

// Read implements io.Reader.
func (z *lz4Legacy) Read(p []byte) (int, error) {
	for len(z.out) == 0 {
		if z.end {
			return 0, io.EOF
		}
		if err := z.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.out)
	z.out = z.out[n:]
	return n, nil
}

func (z *lz4Legacy) next() error {
	var b [4]byte
	_, err := io.ReadFull(z.r, b[:])
	if errors.Is(err, io.EOF) && z.begun {
		z.end = true
		return nil
	}
	if err != nil {
		return cut(err)
	}
	length := binary.LittleEndian.Uint32(b[:])
	switch {
	case length == lz4Magic:
		z.begun = true
		return nil
	case !z.begun:
		return errLZ4
	case length == 0:
		z.end = true
		return nil
	case length > lz4Worst:
		return fmt.Errorf("%w: a block of %d bytes", errLZ4, length)
	}
	if cap(z.raw) < int(length) {
		z.raw = make([]byte, length)
	}
	raw := z.raw[:length]
	if _, err := io.ReadFull(z.r, raw); err != nil {
		return cut(err)
	}
	z.block, err = lz4Decode(z.block[:0], raw)
	z.out = z.block
	return err
}

// lz4Decode appends what a block holds to dst, at most lz4Block bytes.
func lz4Decode(dst, src []byte) ([]byte, error) {
	long := func(n int) (int, error) { // a length that goes on in further bytes
		if n != 15 {
			return n, nil
		}
		for {
			if len(src) == 0 || n > lz4Block {
				return 0, errLZ4
			}
			b := src[0]
			src = src[1:]
			n += int(b)
			if b != 255 {
				return n, nil
			}
		}
	}
	for len(src) > 0 {
		token := src[0]
		src = src[1:]
		literals, err := long(int(token >> 4))
		if err != nil || literals > len(src) || len(dst)+literals > lz4Block {
			return dst, errLZ4
		}
		dst = append(dst, src[:literals]...)
		src = src[literals:]
		if len(src) == 0 {
			return dst, nil // a block ends with literals
		}
		if len(src) < 2 {
			return dst, errLZ4
		}
		back := int(binary.LittleEndian.Uint16(src))
		src = src[2:]
		match, err := long(int(token & 15))
		match += lz4MinMatch
		if err != nil || back == 0 || back > len(dst) || len(dst)+match > lz4Block {
			return dst, errLZ4
		}
		for from := len(dst) - back; match > 0; match-- {
			dst = append(dst, dst[from]) // it may reach into what it appends
			from++
		}
	}
	return dst, nil
}
