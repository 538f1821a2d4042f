package streamstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// nodes are NATS servers of a cluster, or of several, in this process.
type nodes struct {
	t   testing.TB
	dir string

	mu sync.Mutex
	ns map[string]*server.Server // by name; guarded by mu, nil while down
}

// newNodes has none yet; those that are brought up end with the test.
func newNodes(t testing.TB) *nodes {
	n := &nodes{t: t, dir: t.TempDir(), ns: map[string]*server.Server{}}
	t.Cleanup(func() {
		n.mu.Lock()
		var names []string
		for name := range n.ns {
			names = append(names, name)
		}
		n.mu.Unlock()
		for _, name := range names {
			n.kill(name)
		}
	})
	return n
}

// places are addresses where nobody listens.
func places(t testing.TB, count int) (all []*url.URL) {
	t.Helper()
	for _, at := range Addresses(t, count) {
		all = append(all, &url.URL{Scheme: "nats", Host: at})
	}
	return all
}

// up starts a node; o says whom it belongs to.
func (n *nodes) up(name string, o *server.Options) {
	n.t.Helper()
	o.ServerName, o.Host, o.Port, o.NoSigs, o.NoLog = name, "127.0.0.1", server.RANDOM_PORT, true, true
	o.JetStream, o.StoreDir, o.JetStreamMaxStore, o.JetStreamMaxMemory = true, filepath.Join(n.dir, name), 1<<40, 64<<20
	ns, err := server.NewServer(o)
	if err != nil {
		n.t.Fatalf("make NATS node %s: %v", name, err)
	}
	ns.Start()
	n.mu.Lock()
	n.ns[name] = ns
	n.mu.Unlock()
}

func (n *nodes) kill(name string) {
	n.mu.Lock()
	ns := n.ns[name]
	n.ns[name] = nil
	n.mu.Unlock()
	if ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

// ensure makes the streams in so many copies, as soon as the nodes can.
func (n *nodes) ensure(node string, copies int, within time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	b := n.connect(node, "streams")
	for {
		err := streams.Ensure(ctx, b.JS, streams.Config{Replicas: copies, ChangesBytes: 64 << 20})
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			n.t.Fatalf("ensure streams: %v", err)
		}
	}
}

// connect opens a connection to a node, closed with the test.
func (n *nodes) connect(node, name string) *bus.Bus {
	n.t.Helper()
	return connect(n.t, name, way{n, node})
}

// way is where connections to one of the nodes lead.
type way struct {
	n    *nodes
	name string
}

// InProcessConn implements nats.InProcessConnProvider.
func (w way) InProcessConn() (net.Conn, error) {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	if w.n.ns[w.name] == nil {
		return nil, errors.New("the node is down")
	}
	return w.n.ns[w.name].InProcessConn()
}

func port(u *url.URL) (n int) {
	_, p, _ := net.SplitHostPort(u.Host)
	_, _ = fmt.Sscan(p, &n)
	return n
}
