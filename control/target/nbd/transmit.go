package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sync/semaphore"
)

// transmit carries out requests until the client leaves.
func (c *conn) transmit(ctx context.Context, e *export) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := semaphore.NewWeighted(MaxRequests)
	bytes := semaphore.NewWeighted(MaxBytes)
	size := uint64(e.Export.Size())
	var h [requestSize]byte
	for {
		if _, err := io.ReadFull(c.r, h[:]); err != nil {
			return err
		}
		r, ok := parseRequest(&h)
		if !ok {
			return fmt.Errorf("request without its magic number: %w", errProtocol)
		}
		if r.cmd == cmdDisc {
			return nil
		}
		if errno := r.check(size, e.writer == nil, c.structured, c.status); errno != 0 {
			if _, err := io.CopyN(io.Discard, c.r, r.payload()); err != nil {
				return err
			}
			if err := c.fail(r, errno, "refused"); err != nil {
				return err
			}
			continue
		}
		if err := errors.Join(slots.Acquire(ctx, 1), bytes.Acquire(ctx, r.cost())); err != nil {
			return err
		}
		buf, free := c.srv.buffer(int(r.cost()))
		if r.cmd == cmdWrite {
			if _, err := io.ReadFull(c.r, buf); err != nil {
				return err
			}
		}
		wg.Go(func() {
			defer slots.Release(1)
			defer bytes.Release(r.cost())
			defer free()
			if err := c.handle(e, r, buf); err != nil {
				c.conn.Close() // a reply that cannot be sent: the client is gone
			}
		})
	}
}

// handle carries out a request and answers it. Its error is that of sending.
func (c *conn) handle(e *export, r request, buf []byte) error {
	if r.cmd == cmdRead {
		return c.read(e, r, buf)
	}
	if r.cmd == cmdBlockStatus {
		return c.blockStatus(e, r)
	}
	if err := change(e, r, buf); err != nil {
		return c.backend(e, r, err)
	}
	return c.done(r)
}

// change carries out the requests that have no data to return.
func change(e *export, r request, buf []byte) (err error) {
	off, length := int64(r.off), int64(r.length)
	switch r.cmd {
	case cmdWrite:
		_, err = e.writer.WriteAt(buf, off)
	case cmdTrim:
		err = e.writer.Trim(off, length)
	case cmdWriteZeroes:
		err = e.writer.WriteZeroes(off, length)
	case cmdCache: // a hint; what is read next is fetched then
		return nil
	}
	// FLUSH comes here, as does FUA: flushing all is more than the client needs, and
	// what exports can do. Neither does anything where nothing can be written.
	if err == nil && e.writer != nil && (r.cmd == cmdFlush || r.flags&cmdFUA != 0) {
		err = e.writer.Flush()
	}
	return err
}

// backend answers a request that the export failed.
func (c *conn) backend(e *export, r request, err error) error {
	c.srv.log.Error("nbd export", "export", e.Name, "command", r.cmd, "offset", r.off, "length", r.length, "err", err)
	return c.fail(r, errnoOf(err), err.Error())
}

// send writes a reply, whose pieces may be anybody's buffers, in one piece.
func (c *conn) send(pieces ...[]byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if len(pieces) == 1 {
		_, err := c.conn.Write(pieces[0])
		return err
	}
	b := net.Buffers(pieces)
	_, err := b.WriteTo(c.conn)
	return err
}

func simple(r request, errno syscall.Errno) []byte {
	be := binary.BigEndian
	b := be.AppendUint32(make([]byte, 0, 16), magicSimple)
	return be.AppendUint64(be.AppendUint32(b, uint32(errno)), r.cookie)
}

// chunk appends the header of a structured reply's chunk.
func chunk(b []byte, r request, flags, kind uint16, length int) []byte {
	be := binary.BigEndian
	b = be.AppendUint32(b, magicChunk)
	b = be.AppendUint16(be.AppendUint16(b, flags), kind)
	return be.AppendUint32(be.AppendUint64(b, r.cookie), uint32(length))
}

func (c *conn) done(r request) error { return c.send(simple(r, 0)) }

// fail answers that a request failed.
func (c *conn) fail(r request, errno syscall.Errno, why string) error {
	if !c.structured {
		return c.send(simple(r, errno))
	}
	why = why[:min(len(why), 1024)]
	b := chunk(nil, r, chunkDone, chunkError, 6+len(why))
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	b = binary.BigEndian.AppendUint16(b, uint16(len(why)))
	return c.send(append(b, why...))
}

// segment is a part of a read's reply.
type segment struct {
	off, length int64
	hole        bool
}

// segments cuts a read into data and holes. A short hole costs less as data.
func segments(e Export, off, length int64) (all []segment) {
	e.Extents(off, length, func(off, n int64, hole bool) bool {
		hole = hole && (n >= minHole || n == length)
		if k := len(all); k > 0 && all[k-1].hole == hole {
			all[k-1].length += n
			return true
		}
		all = append(all, segment{off, n, hole})
		return true
	})
	return all
}

func (c *conn) read(e *export, r request, buf []byte) error {
	off := int64(r.off)
	all := []segment{{off, int64(r.length), false}}
	if c.structured && r.flags&cmdDF == 0 && r.length > 0 {
		all = segments(e.Export, off, int64(r.length))
	}
	for _, s := range all {
		if s.hole {
			continue
		}
		part := buf[s.off-off:][:s.length]
		if n, err := e.Export.ReadAt(part, s.off); n < len(part) {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return c.backend(e, r, err)
		}
	}
	if !c.structured {
		return c.send(simple(r, 0), buf)
	}
	if r.length == 0 {
		return c.send(chunk(nil, r, chunkDone, chunkNone, 0))
	}
	return c.send(chunks(r, all, buf)...)
}

// chunks makes the structured reply to a read.
func chunks(r request, all []segment, buf []byte) [][]byte {
	be := binary.BigEndian
	heads := make([]byte, 0, 32*len(all)) // never grows, so that slices of it stay good
	pieces := make([][]byte, 0, 2*len(all))
	for i, s := range all {
		flags, start := uint16(0), len(heads)
		if i == len(all)-1 {
			flags = chunkDone
		}
		if s.hole {
			heads = be.AppendUint64(chunk(heads, r, flags, chunkHole, 12), uint64(s.off))
			heads = be.AppendUint32(heads, uint32(s.length))
			pieces = append(pieces, heads[start:])
			continue
		}
		heads = be.AppendUint64(chunk(heads, r, flags, chunkData, 8+int(s.length)), uint64(s.off))
		pieces = append(pieces, heads[start:], buf[s.off-int64(r.off):][:s.length])
	}
	return pieces
}

func (c *conn) blockStatus(e *export, r request) error {
	limit := maxExtents
	if r.flags&cmdReqOne != 0 {
		limit = 1
	}
	be := binary.BigEndian
	var b []byte
	n := 0
	e.Export.Extents(int64(r.off), int64(r.length), func(_, length int64, hole bool) bool {
		flags := uint32(0)
		if hole {
			flags = stateHole | stateZero
		}
		b = be.AppendUint32(be.AppendUint32(b, uint32(length)), flags)
		n++
		return n < limit
	})
	head := chunk(nil, r, chunkDone, chunkBlockStatus, 4+len(b))
	return c.send(append(be.AppendUint32(head, contextID), b...))
}
