package wire

import (
	"encoding/binary"
	"math"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// reader takes msgpack values from b. The first error sticks, later reads return
// zero values, so that a message reads top to bottom. It believes no length: each
// is compared with what is allowed and with what is left before anything is
// allocated. It accepts only the shortest form of every value, the one that
// write.go writes, so that a message has one encoding.
type reader struct {
	b   []byte
	i   int
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
}

// take returns the next n bytes, or nil after an error.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.b)-r.i {
		r.fail("cut short at byte %d of %d", r.i, len(r.b))
		return nil
	}
	p := r.b[r.i : r.i+n : r.i+n]
	r.i += n
	return p
}

func (r *reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

// number reads a big-endian number of n bytes.
func (r *reader) number(n int) uint64 {
	p := r.take(n)
	if p == nil {
		return 0
	}
	switch n {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.BigEndian.Uint16(p))
	case 4:
		return uint64(binary.BigEndian.Uint32(p))
	}
	return binary.BigEndian.Uint64(p)
}

// uint reads a number from 0 to limit.
func (r *reader) uint(limit uint64) uint64 {
	var v, least uint64
	switch at, c := r.i, r.byte(); {
	case c <= msgpcode.PosFixedNumHigh:
		v = uint64(c)
	case c == msgpcode.Uint8:
		v, least = r.number(1), math.MaxInt8+1
	case c == msgpcode.Uint16:
		v, least = r.number(2), math.MaxUint8+1
	case c == msgpcode.Uint32:
		v, least = r.number(4), math.MaxUint16+1
	case c == msgpcode.Uint64:
		v, least = r.number(8), math.MaxUint32+1
	default:
		r.fail("byte %d is 0x%02x, want a number from 0", at, c)
	}
	if r.err == nil && (v < least || v > limit) {
		r.fail("number %d before byte %d is above %d or not in its shortest form", v, r.i, limit)
	}
	if r.err != nil {
		return 0
	}
	return v
}

func (r *reader) u8() uint8   { return uint8(r.uint(math.MaxUint8)) }
func (r *reader) u32() uint32 { return uint32(r.uint(math.MaxUint32)) }
func (r *reader) u64() uint64 { return r.uint(math.MaxUint64) }

// i64 reads a signed number.
func (r *reader) i64() int64 {
	if r.err != nil || r.i >= len(r.b) {
		r.byte() // reports the end
		return 0
	}
	var v, most int64
	switch c := r.b[r.i]; {
	case c >= msgpcode.NegFixedNumLow:
		r.i++
		return int64(int8(c))
	case c == msgpcode.Int8:
		r.i++
		v, most = int64(int8(r.number(1))), -33
	case c == msgpcode.Int16:
		r.i++
		v, most = int64(int16(r.number(2))), math.MinInt8-1
	case c == msgpcode.Int32:
		r.i++
		v, most = int64(int32(r.number(4))), math.MinInt16-1
	case c == msgpcode.Int64:
		r.i++
		v, most = int64(r.number(8)), math.MinInt32-1
	default:
		return int64(r.uint(math.MaxInt64))
	}
	if v > most {
		r.fail("number %d before byte %d is not in its shortest form", v, r.i)
		return 0
	}
	return v
}

func (r *reader) bool() bool {
	switch at, c := r.i, r.byte(); c {
	case msgpcode.True:
		return true
	case msgpcode.False:
	default:
		r.fail("byte %d is 0x%02x, want true or false", at, c)
	}
	return false
}

// text reads a string of at most MaxText bytes.
func (r *reader) text() string {
	var n, least int
	switch at, c := r.i, r.byte(); {
	case msgpcode.IsFixedString(c):
		n = int(c & msgpcode.FixedStrMask)
	case c == msgpcode.Str8:
		n, least = int(r.number(1)), 32
	case c == msgpcode.Str16:
		n, least = int(r.number(2)), math.MaxUint8+1
	default:
		r.fail("byte %d is 0x%02x, want a text of at most %d bytes", at, c, MaxText)
	}
	return string(r.sized(n, least, MaxText))
}

// bytes reads a byte string of at most limit bytes. It points into the message;
// it is nil if it is empty.
func (r *reader) bytes(limit int) []byte {
	var n, least int
	switch at, c := r.i, r.byte(); c {
	case msgpcode.Bin8:
		n = int(r.number(1))
	case msgpcode.Bin16:
		n, least = int(r.number(2)), math.MaxUint8+1
	case msgpcode.Bin32:
		n, least = int(r.number(4)), math.MaxUint16+1
	default:
		r.fail("byte %d is 0x%02x, want bytes", at, c)
	}
	return r.sized(n, least, limit)
}

func (r *reader) sized(n, least, limit int) []byte {
	if r.err == nil && (n < least || n > limit) {
		r.fail("length %d before byte %d is above %d or not in its shortest form", n, r.i, limit)
	}
	if n == 0 {
		return nil
	}
	return r.take(n)
}

// fill reads a byte string of exactly len(to) bytes.
func (r *reader) fill(to []byte) {
	if p := r.bytes(len(to)); r.err == nil && len(p) != len(to) {
		r.fail("hash of %d bytes before byte %d, want %d", len(p), r.i, len(to))
	} else {
		copy(to, p)
	}
}

// array reads the length of an array of at most limit elements, each of at least
// size bytes in the message.
func (r *reader) array(limit, size int) int {
	var n, least int
	switch at, c := r.i, r.byte(); {
	case msgpcode.IsFixedArray(c):
		n = int(c & msgpcode.FixedArrayMask)
	case c == msgpcode.Array16:
		n, least = int(r.number(2)), 16
	case c == msgpcode.Array32:
		n, least = int(r.number(4)), math.MaxUint16+1
	default:
		r.fail("byte %d is 0x%02x, want an array", at, c)
	}
	if r.err == nil && (n < least || n > limit || n > (len(r.b)-r.i)/size) {
		r.fail("array of %d before byte %d is above %d, beyond the message, or not in its shortest form", n, r.i, limit)
	}
	if r.err != nil {
		return 0
	}
	return n
}

// fields reads the start of a structure of n elements.
func (r *reader) fields(n int) {
	if got := r.array(n, 1); r.err == nil && got != n {
		r.fail("structure of %d elements before byte %d, want %d", got, r.i, n)
	}
}

// none reads the mark of an absent structure; it reports false, and reads
// nothing, if there is one.
func (r *reader) none() bool {
	if r.err == nil && r.i < len(r.b) && r.b[r.i] == msgpcode.Nil {
		r.i++
		return true
	}
	return false
}
