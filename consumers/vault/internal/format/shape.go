package format

import (
	"bytes"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// encode returns v as msgpack, numbers as short as they can be.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := msgpack.NewEncoder(&b)
	e.UseCompactInts(true)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// decode reads msgpack into v, and refuses what encode would not have written.
func decode(b []byte, v any) error {
	s := shape{b: b}
	if err := s.value(0); err != nil {
		return err
	}
	if s.i != len(b) {
		return malformed("%d bytes behind the record", len(b)-s.i)
	}
	if err := msgpack.Unmarshal(b, v); err != nil {
		return malformed("%v", err)
	}
	again, err := encode(v)
	if err != nil || !bytes.Equal(b, again) {
		return malformed("record is not in its one form")
	}
	return nil
}

// shape walks over msgpack before the decoder allocates for a length that nobody
// has checked. Maps, floats and extensions are in none of our records.
type shape struct {
	b []byte
	i int
}

const maxDepth = 8

// take passes n bytes and returns them as a number, for n up to 4.
func (s *shape) take(n int) (int, error) {
	if n > len(s.b)-s.i {
		return 0, malformed("record is cut short at byte %d", s.i)
	}
	v := 0
	for _, c := range s.b[s.i : s.i+min(n, 4)] {
		v = v<<8 | int(c)
	}
	s.i += n
	return v, nil
}

func (s *shape) value(depth int) error {
	c, err := s.take(1)
	if err != nil || depth > maxDepth {
		return malformed("record ends or nests too deep at byte %d", s.i)
	}
	switch code := byte(c); {
	case msgpcode.IsFixedNum(code), code == msgpcode.Nil, code == msgpcode.False, code == msgpcode.True:
		return nil
	case code >= msgpcode.Uint8 && code <= msgpcode.Uint64:
		_, err = s.take(1 << (code - msgpcode.Uint8))
	case code >= msgpcode.Int8 && code <= msgpcode.Int64:
		_, err = s.take(1 << (code - msgpcode.Int8))
	case msgpcode.IsFixedString(code):
		_, err = s.take(int(code & msgpcode.FixedStrMask))
	case code >= msgpcode.Str8 && code <= msgpcode.Str32:
		err = s.counted(1 << (code - msgpcode.Str8))
	case code >= msgpcode.Bin8 && code <= msgpcode.Bin32:
		err = s.counted(1 << (code - msgpcode.Bin8))
	case msgpcode.IsFixedArray(code):
		err = s.array(int(code&msgpcode.FixedArrayMask), depth)
	case code == msgpcode.Array16 || code == msgpcode.Array32:
		var n int
		if n, err = s.take(2 << (code - msgpcode.Array16)); err == nil {
			err = s.array(n, depth)
		}
	default:
		err = malformed("byte %d of the record is 0x%02x", s.i-1, code)
	}
	return err
}

// counted passes over a string whose length has width bytes.
func (s *shape) counted(width int) error {
	n, err := s.take(width)
	if err == nil {
		_, err = s.take(n)
	}
	return err
}

func (s *shape) array(n, depth int) error {
	for ; n > 0; n-- {
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
	return nil
}
