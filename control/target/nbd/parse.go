package nbd

import (
	"encoding/binary"
	"errors"
	"syscall"
)

// errOption is a malformed option.
var errOption = errors.New("malformed option")

// cursor takes fields off a message; bad is set once it ran out of bytes.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cursor) name() string {
	n := c.u32()
	if n > maxName {
		c.bad = true
	}
	return string(c.take(uint64(n)))
}

func (c *cursor) end() error {
	if c.bad || len(c.b) > 0 {
		return errOption
	}
	return nil
}

// parseGo reads the data of GO and INFO.
func parseGo(data []byte) (name string, infos []uint16, err error) {
	c := cursor{b: data}
	name = c.name()
	for n := c.u16(); n > 0 && !c.bad; n-- {
		infos = append(infos, c.u16())
	}
	return name, infos, c.end()
}

// parseMeta reads the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func parseMeta(data []byte) (name string, queries []string, err error) {
	c := cursor{b: data}
	name = c.name()
	for n := c.u32(); n > 0 && !c.bad; n-- {
		queries = append(queries, c.name())
	}
	return name, queries, c.end()
}

// request is what a client asks for.
type request struct {
	flags, cmd uint16
	cookie     uint64
	off        uint64
	length     uint32
}

// parseRequest reads a request's header; false means that it is none.
func parseRequest(b *[requestSize]byte) (request, bool) {
	be := binary.BigEndian
	return request{
		flags:  be.Uint16(b[4:]),
		cmd:    be.Uint16(b[6:]),
		cookie: be.Uint64(b[8:]),
		off:    be.Uint64(b[16:]),
		length: be.Uint32(b[24:]),
	}, be.Uint32(b[:]) == magicRequest
}

// end is the first byte after the request; ok is false if there is no such number.
func (r request) end() (end uint64, ok bool) {
	end = r.off + uint64(r.length)
	return end, end >= r.off
}

// payload is how many bytes follow the header.
func (r request) payload() int64 {
	if r.cmd == cmdWrite {
		return int64(r.length)
	}
	return 0
}

// cost is how many bytes of memory the request takes.
func (r request) cost() int64 {
	if r.cmd == cmdRead || r.cmd == cmdWrite {
		return int64(r.length)
	}
	return 0
}

// allowed lists the flags of each command.
var allowed = map[uint16]uint16{
	cmdRead:        cmdDF,
	cmdWrite:       cmdFUA,
	cmdFlush:       0,
	cmdTrim:        cmdFUA,
	cmdCache:       0,
	cmdWriteZeroes: cmdFUA | cmdNoHole | cmdFastZero,
	cmdBlockStatus: cmdReqOne,
}

// check says why a request on an export of size bytes cannot be carried out; 0 if it
// can. FUA is allowed everywhere, by the protocol.
func (r request) check(size uint64, readOnly, structured, status bool) syscall.Errno {
	flags, known := allowed[r.cmd]
	if !known || r.flags&^(flags|cmdFUA) != 0 {
		return syscall.EINVAL
	}
	if r.cmd == cmdFlush {
		if r.off != 0 || r.length != 0 {
			return syscall.EINVAL
		}
		return 0
	}
	writes := r.cmd == cmdWrite || r.cmd == cmdTrim || r.cmd == cmdWriteZeroes
	end, ok := r.end()
	switch {
	case writes && readOnly:
		return syscall.EPERM
	case (!ok || end > size) && (r.cmd == cmdWrite || r.cmd == cmdWriteZeroes):
		return syscall.ENOSPC
	case !ok || end > size:
		return syscall.EINVAL
	case r.length == 0 && r.cmd == cmdBlockStatus:
		return syscall.EINVAL
	case r.cmd == cmdBlockStatus && !status:
		return syscall.EINVAL
	case r.flags&cmdDF != 0 && !structured:
		return syscall.EINVAL
	case r.cost() > MaxRequest:
		return syscall.EINVAL
	}
	return 0
}

// errnoOf maps an export's error to one the protocol has.
func errnoOf(err error) syscall.Errno {
	for _, m := range []struct{ from, to syscall.Errno }{
		{syscall.ENOSPC, syscall.ENOSPC},
		{syscall.EDQUOT, syscall.ENOSPC},
		{syscall.EFBIG, syscall.ENOSPC},
		{syscall.EROFS, syscall.EPERM},
		{syscall.EPERM, syscall.EPERM},
		{syscall.EACCES, syscall.EPERM},
		{syscall.EINVAL, syscall.EINVAL},
		{syscall.ENOMEM, syscall.ENOMEM},
		{syscall.ENOTSUP, syscall.ENOTSUP},
	} {
		if errors.Is(err, m.from) {
			return m.to
		}
	}
	return syscall.EIO
}
