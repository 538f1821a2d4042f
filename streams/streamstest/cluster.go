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

// Nodes is how many a Cluster has.
const Nodes = 3

// Cluster is three NATS servers in this process, with the streams in three copies.
// Connections run inside the process, the servers' own over the loopback.
type Cluster struct {
	t      testing.TB
	dir    string
	routes []*url.URL

	mu    sync.Mutex
	nodes [Nodes]*server.Server // nil while down
}

// StartCluster runs one until the test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{t: t, dir: t.TempDir()}
	var held []net.Listener // together, so that no port is given twice
	for range Nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		c.routes = append(c.routes, &url.URL{Scheme: "nats", Host: l.Addr().String()})
	}
	for _, l := range held {
		_ = l.Close() // the server takes it
	}
	for i := range Nodes {
		c.up(i)
	}
	t.Cleanup(func() {
		for i := range Nodes {
			c.Kill(i)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b := c.Connect(0, "streams")
	for {
		err := streams.Ensure(ctx, b.JS, streams.Config{Replicas: Nodes, ChangesBytes: 64 << 20})
		if err == nil {
			return c
		}
		if ctx.Err() != nil {
			t.Fatalf("ensure streams: %v", err)
		}
	}
}

// Name is what node i is called.
func (c *Cluster) Name(i int) string { return fmt.Sprint("n", i+1) }

// Connect opens a connection to one node, closed with the test.
func (c *Cluster) Connect(i int, name string) *bus.Bus {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b, err := bus.Connect(ctx, bus.Options{Name: name, InProcess: node{c, i}})
	if err != nil {
		c.t.Fatalf("connect: %v", err)
	}
	c.t.Cleanup(b.Close)
	return b
}

// node is where connections to one of the nodes lead.
type node struct {
	c *Cluster
	i int
}

// InProcessConn implements nats.InProcessConnProvider.
func (n node) InProcessConn() (net.Conn, error) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.c.nodes[n.i] == nil {
		return nil, errors.New("the node is down")
	}
	return n.c.nodes[n.i].InProcessConn()
}

// Kill takes a node away.
func (c *Cluster) Kill(i int) {
	c.mu.Lock()
	ns := c.nodes[i]
	c.nodes[i] = nil
	c.mu.Unlock()
	if ns != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
	}
}

func (c *Cluster) up(i int) {
	c.t.Helper()
	o := &server.Options{
		ServerName: c.Name(i), Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: filepath.Join(c.dir, c.Name(i)), JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 64 << 20,
		Routes: c.routes, Cluster: server.ClusterOpts{Name: "leeward", Host: "127.0.0.1", Port: port(c.routes[i])},
	}
	ns, err := server.NewServer(o)
	if err != nil {
		c.t.Fatalf("make NATS node %s: %v", c.Name(i), err)
	}
	ns.Start()
	c.mu.Lock()
	c.nodes[i] = ns
	c.mu.Unlock()
}

func port(u *url.URL) (n int) {
	_, p, _ := net.SplitHostPort(u.Host)
	_, _ = fmt.Sscan(p, &n)
	return n
}
