package streamstest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// patience is for a busy machine: none of it takes a second on one at rest.
const patience = 2 * time.Minute

// Start runs a server in a directory of its own and returns a connection to it.
// Everything stops with the test.
func Start(t testing.TB) *bus.Bus {
	t.Helper()
	return StartWith(t, t.TempDir()).Bus()
}

// Server is a NATS server that a test can stop and start again. It listens on no
// port; connections run inside the process.
type Server struct {
	t   testing.TB
	dir string
	bus *bus.Bus

	mu sync.Mutex
	ns *server.Server // nil while down
}

// StartWith runs a server on dir with the default streams.
func StartWith(t testing.TB, dir string) *Server {
	t.Helper()
	return StartConfig(t, dir, streams.Default())
}

// StartConfig runs a server on dir with the streams sized by c.
func StartConfig(t testing.TB, dir string, c streams.Config) *Server {
	t.Helper()
	s := &Server{t: t, dir: dir}
	s.up()
	t.Cleanup(s.Kill) // runs after the connections below are closed
	s.bus = s.Connect("test")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := streams.Ensure(ctx, s.bus.JS, c); err != nil {
		t.Fatalf("ensure streams: %v", err)
	}
	return s
}

// Bus returns the server's shared connection. It outlives Kill and Restart by
// reconnecting.
func (s *Server) Bus() *bus.Bus { return s.bus }

// Connect opens another connection, closed with the test.
func (s *Server) Connect(name string) *bus.Bus {
	s.t.Helper()
	return connect(s.t, name, s)
}

// connect opens a connection, closed with the test. It asks more than once: bus.Connect
// waits for a few seconds only, which is little where everything else runs, too.
func connect(t testing.TB, name string, to nats.InProcessConnProvider) *bus.Bus {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		b, err := bus.Connect(ctx, bus.Options{Name: name, InProcess: to})
		if err == nil {
			t.Cleanup(b.Close)
			return b
		}
		if ctx.Err() != nil || !errors.Is(err, bus.ErrUnreachable) {
			t.Fatalf("connect: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// InProcessConn makes Server a nats.InProcessConnProvider that always leads to
// the server running now.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ns == nil {
		return nil, errors.New("the test server is down")
	}
	return s.ns.InProcessConn()
}

// Kill takes the server away without a word to its clients. What it had accepted
// stays in the directory (for a real kill -9 see the tests of package embed).
func (s *Server) Kill() {
	s.mu.Lock()
	ns := s.ns
	s.ns = nil
	s.mu.Unlock()
	if ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

// Restart brings the server up again on the same directory, killing it first if
// it runs, and waits until the shared connection is back.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	s.up()
	// Not to wait for the jittered pause of the client.
	if err := s.bus.Conn.ForceReconnect(); err != nil {
		s.t.Fatalf("reconnect: %v", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := s.bus.JS.AccountInfo(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("the connection did not come back: %v", err)
		}
	}
}

func (s *Server) up() {
	s.t.Helper()
	ns, err := server.NewServer(&server.Options{
		ServerName: "streamstest", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: s.dir, JetStreamMaxStore: 1 << 40,
	})
	if err != nil {
		s.t.Fatalf("make a NATS server: %v", err)
	}
	ns.Start()
	if !ns.ReadyForConnections(patience) {
		ns.Shutdown()
		s.t.Fatalf("the NATS server on %s did not start", s.dir)
	}
	s.mu.Lock()
	s.ns = ns
	s.mu.Unlock()
}
