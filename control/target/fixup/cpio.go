package fixup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// The archives of an initramfs are in cpio's "newc" format: a header of 110 characters
// (magic and 13 numbers in hexadecimal), a name that ends with a zero byte, and contents;
// header and name together, and the contents, are padded to 4 bytes.
const (
	cpioMagic    = "070701"
	cpioSumMagic = "070702" // the same with checksums, which nobody checks
	cpioHeader   = 110
	cpioTrailer  = "TRAILER!!!"
	maxName      = 4096
)

// Types of a member, in its mode.
const (
	modeType = 0o170000
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// member is one file of an archive.
type member struct {
	name string
	mode uint32
	size int64
}

var errNoCPIO = errors.New("no cpio archive")

// readCPIO calls visit for every member of an archive that begins at r, and returns when
// its trailer was read. visit need not read body to its end.
func readCPIO(r io.Reader, visit func(m member, body io.Reader) error) error {
	for {
		m, err := readMember(r)
		if err != nil {
			return err
		}
		if m.name == cpioTrailer {
			return nil
		}
		body := &io.LimitedReader{R: r, N: m.size}
		if err := visit(m, body); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, r, body.N+pad4(m.size)); err != nil {
			return cut(err)
		}
	}
}

func readMember(r io.Reader) (m member, err error) {
	h := make([]byte, cpioHeader)
	if _, err := io.ReadFull(r, h); err != nil {
		return m, cut(err)
	}
	if magic := string(h[:6]); magic != cpioMagic && magic != cpioSumMagic {
		return m, errNoCPIO
	}
	var n [13]uint32
	for i := range n {
		v, err := strconv.ParseUint(string(h[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return m, fmt.Errorf("a header of a cpio archive has %q for a number", h[6+8*i:14+8*i])
		}
		n[i] = uint32(v)
	}
	length := int64(n[11])
	if length < 1 || length > maxName {
		return m, fmt.Errorf("a name of %d bytes in a cpio archive", length)
	}
	name := make([]byte, length+pad4(cpioHeader+length))
	if _, err := io.ReadFull(r, name); err != nil {
		return m, cut(err)
	}
	name, _, _ = bytes.Cut(name[:length], []byte{0})
	return member{name: string(name), mode: n[1], size: int64(n[6])}, nil
}

func pad4(n int64) int64 { return -n & 3 }

// cut makes of an end that comes too early an error.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// cpioWriter makes an archive. Its members belong to root and carry no time, so that the
// same members make the same archive.
type cpioWriter struct {
	w   io.Writer
	n   int64 // bytes written
	ino uint32
	err error
}

func (c *cpioWriter) write(b []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(b)
		c.n += int64(len(b))
	}
}

func (c *cpioWriter) header(name string, mode uint32, size int64) { c.entry(name, mode, size, 0, 0) }

// node makes a device.
func (c *cpioWriter) node(name string, mode, major, minor uint32) {
	c.entry(name, mode, 0, major, minor)
}

func (c *cpioWriter) entry(name string, mode uint32, size int64, major, minor uint32) {
	if size > 1<<32-1 && c.err == nil {
		c.err = fmt.Errorf("%s has %d bytes, too many for an archive", name, size)
	}
	c.ino++
	links := 1
	if mode&modeType == modeDir {
		links = 2
	}
	b := fmt.Appendf(nil, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		cpioMagic, c.ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name)+1, 0, name)
	c.write(append(b, make([]byte, pad4(int64(len(b))))...))
}

func (c *cpioWriter) file(name string, mode uint32, content []byte) {
	c.header(name, mode, int64(len(content)))
	c.write(content)
	c.write(make([]byte, pad4(int64(len(content)))))
}

func (c *cpioWriter) dir(name string) { c.header(name, modeDir|0o755, 0) }

// close ends the archive, padded to whole sectors.
func (c *cpioWriter) close() error {
	c.header(cpioTrailer, 0, 0)
	c.write(make([]byte, -c.n&511))
	return c.err
}
