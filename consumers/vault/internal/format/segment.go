package format

import (
	"encoding/binary"
)

const (
	headerMagic = "LWSEG\r\n\x00"
	footerMagic = "LWEND\r\n\x00"
)

// SaltSize is the size of a segment's or point's salt in bytes.
const SaltSize = 32

// Sizes of the fixed parts of a segment in bytes.
const (
	HeaderSize      = 8 + 2 + SaltSize
	FooterSize      = SaltSize + 4 + 2 + 8
	FrameHeaderSize = 4
)

// AppendHeader appends a segment's header to b.
func AppendHeader(b []byte, salt [SaltSize]byte) []byte {
	return append(appendMagic(b, headerMagic), salt[:]...)
}

// DecodeHeader reads the header at the start of a segment.
func DecodeHeader(b []byte) (salt [SaltSize]byte, err error) {
	if len(b) < HeaderSize {
		return salt, malformed("header has %d bytes of %d", len(b), HeaderSize)
	}
	rest, err := checkMagic(b, headerMagic)
	if err != nil {
		return salt, err
	}
	copy(salt[:], rest)
	return salt, nil
}

// Footer is the end of a segment, in the clear.
type Footer struct {
	Salt    [SaltSize]byte
	Trailer uint32 // bytes of the sealed trailer before the footer
}

// AppendFooter appends the footer to b.
func AppendFooter(b []byte, f Footer) []byte {
	b = append(b, f.Salt[:]...)
	b = binary.BigEndian.AppendUint32(b, f.Trailer)
	b = binary.BigEndian.AppendUint16(b, Version)
	return append(b, footerMagic...)
}

// DecodeFooter reads the footer from the end of b.
func DecodeFooter(b []byte) (Footer, error) {
	var f Footer
	if len(b) < FooterSize {
		return f, malformed("%d bytes are less than a footer", len(b))
	}
	b = b[len(b)-FooterSize:]
	if string(b[FooterSize-8:]) != footerMagic {
		return f, malformed("does not end as a segment does: cut short?")
	}
	if err := checkVersion(binary.BigEndian.Uint16(b[FooterSize-10:])); err != nil {
		return f, err
	}
	copy(f.Salt[:], b)
	f.Trailer = binary.BigEndian.Uint32(b[SaltSize:])
	if f.Trailer < Overhead || f.Trailer > MaxTrailer {
		return f, malformed("trailer of %d bytes", f.Trailer)
	}
	return f, nil
}
