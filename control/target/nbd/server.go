package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"net"
	"sync"
)

// Export is a disk that is served. Its methods are called from many goroutines. All
// connections see the same bytes: a write that was answered is read by everybody.
type Export interface {
	io.ReaderAt
	Size() int64 // bytes, the same for ever
	// Extents calls yield for runs that together make up the length bytes at off,
	// ascending. A hole reads as zeros.
	Extents(off, length int64, yield func(off, length int64, hole bool) bool)
}

// Writable is an Export that clients may write to.
type Writable interface {
	Export
	io.WriterAt
	Flush() error                        // what was written is to last
	Trim(off, length int64) error        // these bytes are not needed
	WriteZeroes(off, length int64) error // these bytes are to be zeros
}

// Config is one export of a server.
type Config struct {
	Name        string
	Description string
	Export      Export // read-only unless it is a Writable
	ReadOnly    bool   // even if it is
}

// Server serves exports to any number of clients.
type Server struct {
	exports []*export
	log     *slog.Logger
	pool    [maxClass + 1]sync.Pool // buffers of 4 KiB << class bytes
}

type export struct {
	Config
	writer Writable // nil if read-only
}

func (e *export) flags() uint16 {
	f := uint16(flagHasFlags | flagSendDF | flagMultiConn | flagSendCache)
	if e.writer == nil {
		return f | flagReadOnly
	}
	return f | flagSendFlush | flagSendFUA | flagSendTrim | flagSendWriteZeroes | flagSendFastZero
}

// NewServer returns a server of exports. Errors of exports go to log, which may be
// nil.
func NewServer(log *slog.Logger, exports ...Config) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{log: log}
	for _, c := range exports {
		if len(c.Name) > maxName || len(c.Description) > maxName {
			return nil, fmt.Errorf("nbd: the name of export %.40s... is longer than %d bytes", c.Name, maxName)
		}
		if c.Export.Size() < 0 {
			return nil, fmt.Errorf("nbd: export %s has %d bytes", c.Name, c.Export.Size())
		}
		if s.find(c.Name) != nil && c.Name != "" {
			return nil, fmt.Errorf("nbd: two exports are named %s", c.Name)
		}
		e := &export{Config: c}
		if w, ok := c.Export.(Writable); ok && !c.ReadOnly {
			e.writer = w
		}
		s.exports = append(s.exports, e)
	}
	return s, nil
}

// find returns the export of that name. An only export is also found without one.
func (s *Server) find(name string) *export {
	for _, e := range s.exports {
		if e.Name == name {
			return e
		}
	}
	if name == "" && len(s.exports) == 1 {
		return s.exports[0]
	}
	return nil
}

// Serve serves clients that connect to l until ctx ends, then closes l and every
// connection and returns when the last request is done. Its error is nil unless
// accepting failed before.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, MaxConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("nbd: accept: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			s.log.Warn("nbd client turned away", "connections", MaxConns)
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := s.ServeConn(ctx, conn); err != nil && ctx.Err() == nil {
				s.log.Warn("nbd client", "err", err)
			}
		})
	}
}

// ServeConn serves one client until it leaves, breaks the protocol, or ctx ends. It
// closes conn. A client that left, however, is no error.
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	c := newConn(s, conn)
	e, err := c.handshake()
	if err == nil && e != nil {
		err = c.transmit(ctx, e)
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || gone(err) {
		return nil
	}
	return fmt.Errorf("nbd: %w", err)
}

const (
	minBuffer = 4 << 10
	maxClass  = 13 // minBuffer << maxClass is MaxRequest
)

// buffer returns n bytes, at most MaxRequest, of any content, and a function that
// takes them back.
func (s *Server) buffer(n int) (b []byte, free func()) {
	class := bits.Len(uint(max(n, 1)-1) / minBuffer)
	p, ok := s.pool[class].Get().(*[]byte)
	if !ok {
		b := make([]byte, minBuffer<<class)
		p = &b
	}
	return (*p)[:n], func() { s.pool[class].Put(p) }
}
