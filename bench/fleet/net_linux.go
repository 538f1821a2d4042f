package fleet

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/leeward-dr/leeward/bench/rig"
)

// network is a switch with hosts plugged into it.
type network struct {
	rig    *rig.Rig
	prefix string // of the namespaces' names
	next   int
}

// host is a network namespace with one cable.
type host struct {
	name, ns, port, addr string
}

// plug is the switch's own address.
const plug = "10.77.0.254"

// newNetwork makes a switch of the network namespace that this process is in.
func newNetwork(ctx context.Context, r *rig.Rig) (*network, error) {
	n := &network{rig: r, prefix: fmt.Sprintf("leeward%d", os.Getpid())}
	for _, argv := range [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", "br0", "type", "bridge"},
		{"ip", "addr", "add", plug + "/24", "dev", "br0"},
		{"ip", "link", "set", "br0", "up"},
	} {
		if _, err := rig.Run(ctx, argv...); err != nil {
			return nil, fmt.Errorf("make the switch: %w", err)
		}
	}
	return n, nil
}

// host makes a host and plugs it in.
func (n *network) host(ctx context.Context, name string) (*host, error) {
	n.next++
	h := &host{name: name, ns: n.prefix + "-" + name, port: fmt.Sprint("port", n.next), addr: fmt.Sprintf("10.77.0.%d", n.next)}
	if _, err := rig.Run(ctx, "ip", "netns", "add", h.ns); err != nil {
		return nil, err
	}
	n.rig.Defer("remove namespace "+h.ns, func() error {
		_, err := rig.Run(context.Background(), "ip", "netns", "del", h.ns)
		return err
	})
	for _, argv := range [][]string{
		{"ip", "link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", h.ns},
		{"ip", "link", "set", h.port, "master", "br0", "up"},
		{"ip", "-n", h.ns, "link", "set", "lo", "up"},
		{"ip", "-n", h.ns, "addr", "add", h.addr + "/24", "dev", "eth0"},
		{"ip", "-n", h.ns, "link", "set", "eth0", "up"},
	} {
		if _, err := rig.Run(ctx, argv...); err != nil {
			return nil, fmt.Errorf("plug in %s: %w", name, err)
		}
	}
	return h, nil
}

// cable pulls a host's cable or puts it back. What was under way is lost without a
// word to anybody.
func (n *network) cable(ctx context.Context, h *host, in bool) error {
	state := "down"
	if in {
		state = "up"
	}
	_, err := rig.Run(ctx, "ip", "link", "set", h.port, state)
	return err
}

// on is a command line that runs on a host.
func (h *host) on(argv ...string) []string {
	return append([]string{"nsenter", "--net=/run/netns/" + h.ns, "--"}, argv...)
}

// missing says why namespaces cannot be made here, "" if they can.
func missing() string {
	if m, ok := rig.Have("ip", "nsenter"); !ok {
		return m + " is not installed"
	}
	if !rig.Root() {
		return "network namespaces need root"
	}
	b, err := os.ReadFile("/proc/self/net/dev")
	if err == nil && strings.Count(strings.TrimSpace(string(b)), "\n") > 2 {
		return "not in a network namespace of its own: start it with `bench fleet`"
	}
	return ""
}
