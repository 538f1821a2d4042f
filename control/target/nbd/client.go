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
	"time"
)

// Client reads an export of a server, one request at a time.
type Client struct {
	mu     sync.Mutex
	conn   net.Conn
	size   int64
	cookie uint64
	stop   func() bool
}

// Dial connects to the unix socket called name in dir and opens an export. Reads fail
// when ctx has ended.
func Dial(ctx context.Context, dir, name, export string) (*Client, error) {
	conn, err := Connect(ctx, dir, name)
	if err != nil {
		return nil, fmt.Errorf("nbd server: %w", err)
	}
	c := &Client{conn: conn, stop: context.AfterFunc(ctx, func() { conn.Close() })}
	conn.SetDeadline(time.Now().Add(handshakeTime))
	if err := c.open(export); err != nil {
		c.stop()
		conn.Close()
		return nil, fmt.Errorf("open nbd export %q: %w", export, err)
	}
	conn.SetDeadline(time.Time{})
	return c, nil
}

func (c *Client) open(export string) error {
	be := binary.BigEndian
	var hello [18]byte
	if _, err := io.ReadFull(c.conn, hello[:]); err != nil {
		return err
	}
	if be.Uint64(hello[:]) != magicServer || be.Uint64(hello[8:]) != magicOption || be.Uint16(hello[16:])&flagFixedNewstyle == 0 {
		return errors.New("no nbd server of the fixed newstyle kind")
	}
	b := be.AppendUint32(nil, flagFixedNewstyle|uint32(be.Uint16(hello[16:])&flagNoZeroes))
	b = be.AppendUint32(be.AppendUint64(b, magicOption), optGo)
	b = be.AppendUint32(be.AppendUint32(b, uint32(len(export)+6)), uint32(len(export)))
	b = be.AppendUint16(append(b, export...), 0)
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	for {
		var h [20]byte
		if _, err := io.ReadFull(c.conn, h[:]); err != nil {
			return err
		}
		kind, n := be.Uint32(h[12:]), be.Uint32(h[16:])
		if n > maxOption {
			return fmt.Errorf("the server answers with %d bytes", n)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(c.conn, data); err != nil {
			return err
		}
		switch {
		case kind == repAck:
			return nil
		case kind == repInfo && n >= 12 && be.Uint16(data) == infoExport:
			c.size = int64(be.Uint64(data[2:]))
		case kind&repError != 0:
			return fmt.Errorf("the server refuses (%#x): %s", kind, data)
		}
	}
}

// Size returns the size of the export in bytes.
func (c *Client) Size() int64 { return c.size }

// ReadAt reads from the export.
func (c *Client) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= c.size {
			return done, io.EOF
		}
		n := int(min(int64(len(p)-done), c.size-at, MaxRequest))
		if err := c.read(p[done:done+n], at); err != nil {
			return done, fmt.Errorf("read %d bytes at %d over nbd: %w", n, at, err)
		}
		done += n
	}
	return done, nil
}

func (c *Client) read(p []byte, off int64) error {
	be := binary.BigEndian
	c.cookie++
	b := be.AppendUint32(make([]byte, 0, requestSize), magicRequest)
	b = be.AppendUint64(be.AppendUint32(b, cmdRead), c.cookie)
	b = be.AppendUint32(be.AppendUint64(b, uint64(off)), uint32(len(p)))
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	var h [16]byte
	if _, err := io.ReadFull(c.conn, h[:]); err != nil {
		return err
	}
	if be.Uint32(h[:]) != magicSimple || be.Uint64(h[8:]) != c.cookie {
		c.conn.Close()
		return errors.New("the server answered something else")
	}
	if errno := be.Uint32(h[4:]); errno != 0 {
		return syscall.Errno(errno)
	}
	_, err := io.ReadFull(c.conn, p)
	return err
}

// Close takes leave of the server.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
	be := binary.BigEndian
	b := be.AppendUint32(be.AppendUint32(make([]byte, 0, requestSize), magicRequest), cmdDisc)
	_, _ = c.conn.Write(b[:requestSize:cap(b)])
	return c.conn.Close()
}
