package wire

import (
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// scanner checks the structure of msgpack bytes before the decoder allocates
// for lengths that an attacker wrote.
type scanner struct {
	b []byte
	i int
}

const maxDepth = 8

func (s *scanner) take(n int) ([]byte, error) {
	if n < 0 || n > len(s.b)-s.i {
		return nil, malformed("cut short at byte %d", s.i)
	}
	p := s.b[s.i : s.i+n]
	s.i += n
	return p, nil
}

// number reads a big-endian length of n bytes.
func (s *scanner) number(n int) (int, error) {
	p, err := s.take(n)
	if err != nil {
		return 0, err
	}
	v := uint64(0)
	for _, c := range p {
		v = v<<8 | uint64(c)
	}
	if v > uint64(len(s.b)) {
		return 0, malformed("length %d at byte %d is beyond the message", v, s.i)
	}
	return int(v), nil
}

func (s *scanner) array() (int, error) {
	p, err := s.take(1)
	if err != nil {
		return 0, err
	}
	switch c := p[0]; {
	case msgpcode.IsFixedArray(c):
		return int(c & msgpcode.FixedArrayMask), nil
	case c == msgpcode.Array16:
		return s.number(2)
	case c == msgpcode.Array32:
		return s.number(4)
	default:
		return 0, malformed("byte %d is 0x%02x, want an array", s.i-1, c)
	}
}

// widths of the fixed-size values.
var fixed = map[byte]int{
	msgpcode.Nil: 0, msgpcode.False: 0, msgpcode.True: 0,
	msgpcode.Uint8: 1, msgpcode.Uint16: 2, msgpcode.Uint32: 4, msgpcode.Uint64: 8,
	msgpcode.Int8: 1, msgpcode.Int16: 2, msgpcode.Int32: 4, msgpcode.Int64: 8,
}

// widths of the lengths of strings and byte strings.
var counted = map[byte]int{
	msgpcode.Str8: 1, msgpcode.Str16: 2, msgpcode.Str32: 4,
	msgpcode.Bin8: 1, msgpcode.Bin16: 2, msgpcode.Bin32: 4,
}

// skip passes over one value. Maps, floats and extensions are in no message.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return malformed("nested deeper than %d", maxDepth)
	}
	if s.i >= len(s.b) {
		return malformed("cut short at byte %d", s.i)
	}
	c := s.b[s.i]
	if msgpcode.IsFixedArray(c) || c == msgpcode.Array16 || c == msgpcode.Array32 {
		n, err := s.array()
		for ; err == nil && n > 0; n-- {
			err = s.skip(depth + 1)
		}
		return err
	}
	s.i++
	if msgpcode.IsFixedNum(c) {
		return nil
	}
	if w, ok := fixed[c]; ok {
		_, err := s.take(w)
		return err
	}
	if msgpcode.IsFixedString(c) {
		_, err := s.take(int(c & msgpcode.FixedStrMask))
		return err
	}
	if w, ok := counted[c]; ok {
		n, err := s.number(w)
		if err == nil {
			_, err = s.take(n)
		}
		return err
	}
	return malformed("byte %d is 0x%02x, no value of this protocol", s.i-1, c)
}
