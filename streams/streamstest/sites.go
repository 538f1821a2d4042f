package streamstest

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/leeward-dr/leeward/streams/bus"
)

// Home and Away are the clusters of Sites.
const (
	Home = "home"
	Away = "away"
)

// Sites is two clusters of NATS servers in this process, three nodes at home and one away,
// joined by gateways into one JetStream: home1, home2, home3 and away1. The streams are at
// home, in three copies.
type Sites struct{ nodes *nodes }

// StartSites runs both until the test ends.
func StartSites(t testing.TB) *Sites {
	t.Helper()
	s := &Sites{newNodes(t)}
	size := map[string]int{Home: 3, Away: 1}
	free := places(t, 2*(size[Home]+size[Away]))
	routes, gates := map[string][]*url.URL{}, map[string][]*url.URL{}
	var remote []*server.RemoteGatewayOpts
	for site, n := range size {
		routes[site], gates[site], free = free[:n], free[n:2*n], free[2*n:]
		remote = append(remote, &server.RemoteGatewayOpts{Name: site, URLs: gates[site]})
	}
	for site, n := range size {
		for i := range n {
			s.nodes.up(fmt.Sprint(site, i+1), &server.Options{
				Routes:  routes[site],
				Cluster: server.ClusterOpts{Name: site, Host: "127.0.0.1", Port: port(routes[site][i])},
				Gateway: server.GatewayOpts{Name: site, Host: "127.0.0.1", Port: port(gates[site][i]), Gateways: remote},
			})
		}
	}
	s.nodes.ensure(Home+"1", size[Home], patience)
	return s
}

// Connect opens a connection to a node, closed with the test.
func (s *Sites) Connect(node, name string) *bus.Bus {
	s.nodes.t.Helper()
	return s.nodes.connect(node, name)
}

// Kill takes a node away.
func (s *Sites) Kill(node string) { s.nodes.kill(node) }
