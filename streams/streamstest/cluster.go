package streamstest

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams/bus"
)

// Nodes is how many a Cluster has.
const Nodes = 3

// Cluster is three NATS servers in this process, with the streams in three copies.
// Connections run inside the process, the servers' own over the loopback.
type Cluster struct{ nodes *nodes }

// StartCluster runs one until the test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{newNodes(t)}
	routes := places(t, Nodes)
	for i := range Nodes {
		c.nodes.up(c.Name(i), &server.Options{
			Routes: routes, Cluster: server.ClusterOpts{Name: "leeward", Host: "127.0.0.1", Port: port(routes[i])},
		})
	}
	c.nodes.ensure(c.Name(0), Nodes, patience)
	return c
}

// Name is what node i is called.
func (c *Cluster) Name(i int) string { return fmt.Sprint("n", i+1) }

// Connect opens a connection to one node, closed with the test.
func (c *Cluster) Connect(i int, name string) *bus.Bus {
	c.nodes.t.Helper()
	return c.nodes.connect(c.Name(i), name)
}

// Kill takes a node away.
func (c *Cluster) Kill(i int) { c.nodes.kill(c.Name(i)) }
