package nbd

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// handshakeTime is how long a client may take to choose an export.
const handshakeTime = 30 * time.Second

// errProtocol ends a connection: what follows could not be understood.
var errProtocol = errors.New("the client broke the protocol")

// conn is one client.
type conn struct {
	srv  *Server
	conn net.Conn
	r    *bufio.Reader

	noZeroes   bool
	structured bool
	status     bool   // base:allocation was negotiated
	statusFor  string // for the export of this name

	wmu sync.Mutex // one reply at a time
}

func newConn(s *Server, c net.Conn) *conn {
	return &conn{srv: s, conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

// gone tells whether an error means that the client left.
func gone(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, io.ErrUnexpectedEOF)
}

// handshake negotiates. It returns no export if the client left in good order.
func (c *conn) handshake() (*export, error) {
	if err := c.conn.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	hello := be.AppendUint64(be.AppendUint64(nil, magicServer), magicOption)
	if _, err := c.conn.Write(be.AppendUint16(hello, flagFixedNewstyle|flagNoZeroes)); err != nil {
		return nil, err
	}
	var b [4]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return nil, err
	}
	flags := be.Uint32(b[:])
	if flags&flagFixedNewstyle == 0 || flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return nil, fmt.Errorf("client flags %#x: %w", flags, errProtocol)
	}
	c.noZeroes = flags&flagNoZeroes != 0
	for range maxOptions {
		e, done, err := c.option()
		if err != nil {
			return nil, err
		}
		if done {
			return e, c.conn.SetDeadline(time.Time{})
		}
	}
	return nil, fmt.Errorf("more than %d options: %w", maxOptions, errProtocol)
}

// option reads an option and answers it; done ends the negotiation.
func (c *conn) option() (e *export, done bool, err error) {
	var h [16]byte
	if _, err := io.ReadFull(c.r, h[:]); err != nil {
		return nil, false, err
	}
	be := binary.BigEndian
	opt, length := be.Uint32(h[8:]), be.Uint32(h[12:])
	if be.Uint64(h[:]) != magicOption {
		return nil, false, fmt.Errorf("option without its magic number: %w", errProtocol)
	}
	if length > maxOption {
		if opt == optExportName || length > MaxRequest {
			return nil, false, fmt.Errorf("option %d has %d bytes: %w", opt, length, errProtocol)
		}
		if _, err := io.CopyN(io.Discard, c.r, int64(length)); err != nil {
			return nil, false, err
		}
		return nil, false, c.refuse(opt, repTooBig, "the option is too long")
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(c.r, data); err != nil {
		return nil, false, err
	}
	switch opt {
	case optExportName:
		e, err := c.exportName(string(data))
		return e, true, err
	case optAbort:
		_ = c.answer(opt, repAck, nil) // the client need not wait for it
		return nil, true, nil
	case optInfo, optGo:
		e, err := c.goOrInfo(opt, data)
		return e, e != nil && opt == optGo, err
	default:
		return nil, false, c.plainOption(opt, data)
	}
}

// plainOption answers the options that never end the negotiation.
func (c *conn) plainOption(opt uint32, data []byte) error {
	switch opt {
	case optList:
		return c.list(data)
	case optStructuredReply:
		if len(data) > 0 {
			return c.refuse(opt, repInvalid, "structured reply takes no data")
		}
		c.structured = true
		return c.answer(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return c.meta(opt, data)
	}
	return c.refuse(opt, repUnsup, "no such option here")
}

func (c *conn) answer(opt, reply uint32, data []byte) error {
	be := binary.BigEndian
	b := be.AppendUint64(make([]byte, 0, 20+len(data)), magicOptReply)
	b = be.AppendUint32(be.AppendUint32(b, opt), reply)
	b = append(be.AppendUint32(b, uint32(len(data))), data...)
	_, err := c.conn.Write(b)
	return err
}

func (c *conn) refuse(opt, reply uint32, why string) error {
	return c.answer(opt, reply, []byte(why))
}

// exportName is the old way in: no refusal but to hang up.
func (c *conn) exportName(name string) (*export, error) {
	e := c.srv.find(name)
	if e == nil {
		return nil, fmt.Errorf("the client wants export %.100q, which there is not", name)
	}
	be := binary.BigEndian
	b := be.AppendUint16(be.AppendUint64(nil, uint64(e.Export.Size())), e.flags())
	if !c.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	c.status = c.status && c.statusFor == name
	_, err := c.conn.Write(b)
	return e, err
}

func (c *conn) list(data []byte) error {
	if len(data) > 0 {
		return c.refuse(optList, repInvalid, "list takes no data")
	}
	for _, e := range c.srv.exports {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(e.Name)))
		b = append(append(b, e.Name...), e.Description...)
		if err := c.answer(optList, repServer, b); err != nil {
			return err
		}
	}
	return c.answer(optList, repAck, nil)
}

// goOrInfo tells of an export, which is returned if there is one.
func (c *conn) goOrInfo(opt uint32, data []byte) (*export, error) {
	name, wants, err := parseGo(data)
	if err != nil {
		return nil, c.refuse(opt, repInvalid, err.Error())
	}
	e := c.srv.find(name)
	if e == nil {
		return nil, c.refuse(opt, repUnknown, "no such export here")
	}
	be := binary.BigEndian
	size := be.AppendUint64(be.AppendUint16(nil, infoExport), uint64(e.Export.Size()))
	block := be.AppendUint16(nil, infoBlockSize)
	for _, n := range []uint32{1, 4096, MaxRequest} { // least, preferred, most
		block = be.AppendUint32(block, n)
	}
	replies := [][]byte{be.AppendUint16(size, e.flags()), block}
	var named, described bool // answered once, however often they are asked for
	for _, w := range wants {
		switch {
		case w == infoName && !named:
			named = true
			replies = append(replies, append(be.AppendUint16(nil, infoName), e.Name...))
		case w == infoDescription && !described && e.Description != "":
			described = true
			replies = append(replies, append(be.AppendUint16(nil, infoDescription), e.Description...))
		}
	}
	for _, b := range replies {
		if err := c.answer(opt, repInfo, b); err != nil {
			return nil, err
		}
	}
	if opt == optGo {
		c.status = c.status && c.statusFor == name
	}
	return e, c.answer(opt, repAck, nil)
}

// meta lists or chooses metadata contexts, of which there is one.
func (c *conn) meta(opt uint32, data []byte) error {
	if opt == optSetMeta {
		c.status = false
	}
	if !c.structured {
		return c.refuse(opt, repInvalid, "ask for structured replies first")
	}
	name, queries, err := parseMeta(data)
	if err != nil {
		return c.refuse(opt, repInvalid, err.Error())
	}
	if c.srv.find(name) == nil {
		return c.refuse(opt, repUnknown, "no such export here")
	}
	found := opt == optListMeta && len(queries) == 0
	for _, q := range queries {
		found = found || q == contextAllocation || opt == optListMeta && q == "base:"
	}
	if found {
		id := uint32(0)
		if opt == optSetMeta {
			id, c.status, c.statusFor = contextID, true, name
		}
		b := binary.BigEndian.AppendUint32(nil, id)
		if err := c.answer(opt, repMeta, append(b, contextAllocation...)); err != nil {
			return err
		}
	}
	return c.answer(opt, repAck, nil)
}
