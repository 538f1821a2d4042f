package stages

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxProfile bounds what a profile may unpack to, in bytes.
const maxProfile = 256 << 20

// errProfile means that bytes are no profile of Go's runtime.
var errProfile = errors.New("this is no profile of time or memory")

// sample is one stack and what it was seen using: nanoseconds of processor time or of
// waiting, or bytes allocated.
type sample struct {
	stack []uint64 // locations, the leaf first
	value int64
}

// profile is as much of a pprof profile as is needed here.
type profile struct {
	samples   []sample
	locations map[uint64][]uint64 // functions of a location, the innermost first
	functions map[uint64]uint64   // name of a function, in texts
	texts     []string
}

// field is one field of a protocol buffer message: a number or bytes.
type field struct {
	number uint64
	value  uint64
	bytes  []byte
}

// each calls f for every field of a message.
func each(b []byte, f func(field) error) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return errProfile
		}
		b = b[n:]
		x := field{number: key >> 3}
		switch key & 7 {
		case 0:
			if x.value, n = binary.Uvarint(b); n <= 0 {
				return errProfile
			}
		case 2:
			size, m := binary.Uvarint(b)
			if m <= 0 || size > uint64(len(b)-m) {
				return errProfile
			}
			x.bytes, n = b[m:m+int(size)], m+int(size)
		default:
			return fmt.Errorf("%w: field %d is of an unknown kind", errProfile, x.number)
		}
		b = b[n:]
		if err := f(x); err != nil {
			return err
		}
	}
	return nil
}

// numbers reads a repeated number, packed or not.
func numbers(to []uint64, x field) ([]uint64, error) {
	if x.bytes == nil {
		return append(to, x.value), nil
	}
	for b := x.bytes; len(b) > 0; {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errProfile
		}
		to, b = append(to, v), b[n:]
	}
	return to, nil
}

// decode reads a profile.
func decode(packed []byte) (*profile, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProfile, err)
	}
	b, err := io.ReadAll(io.LimitReader(z, maxProfile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errProfile, err)
	}
	p := &profile{locations: map[uint64][]uint64{}, functions: map[uint64]uint64{}}
	err = each(b, func(x field) error {
		switch x.number {
		case 2:
			return p.sample(x.bytes)
		case 4:
			return p.location(x.bytes)
		case 5:
			return p.function(x.bytes)
		case 6:
			p.texts = append(p.texts, string(x.bytes))
		}
		return nil
	})
	return p, err
}

func (p *profile) sample(b []byte) error {
	var s sample
	var values []uint64
	err := each(b, func(x field) (err error) {
		switch x.number {
		case 1:
			s.stack, err = numbers(s.stack, x)
		case 2:
			values, err = numbers(values, x)
		}
		return err
	})
	// Samples or events, and nanoseconds; of memory: objects and bytes ever, objects and
	// bytes now.
	if err == nil && len(values) != 2 && len(values) != 4 {
		err = errProfile
	}
	if err == nil {
		s.value = int64(values[1])
		p.samples = append(p.samples, s)
	}
	return err
}

func (p *profile) location(b []byte) error {
	var id uint64
	var functions []uint64
	err := each(b, func(x field) error {
		switch x.number {
		case 1:
			id = x.value
		case 4:
			return each(x.bytes, func(y field) error {
				if y.number == 1 {
					functions = append(functions, y.value)
				}
				return nil
			})
		}
		return nil
	})
	p.locations[id] = functions
	return err
}

func (p *profile) function(b []byte) error {
	var id, name uint64
	err := each(b, func(x field) error {
		switch x.number {
		case 1:
			id = x.value
		case 2:
			name = x.value
		}
		return nil
	})
	p.functions[id] = name
	return err
}

// names lists the functions of a sample, the leaf first.
func (p *profile) names(s sample) (names []string) {
	for _, l := range s.stack {
		for _, f := range p.locations[l] {
			if n := p.functions[f]; n < uint64(len(p.texts)) {
				names = append(names, p.texts[n])
			}
		}
	}
	return names
}
