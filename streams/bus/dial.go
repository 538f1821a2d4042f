package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// errPlain is law 9: nothing leaves the machine in the clear.
var errPlain = errors.New("not encrypted")

// silence is how long bytes that were sent may stay unacknowledged until the
// connection counts as dead. Without it, a network that drops everything for half a
// minute leaves a connection that retries ever more rarely, for many minutes. A server
// that can be reached acknowledges within a second, however busy it is.
const silence = 10 * time.Second

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: silence / 2, Interval: silence / 4, Count: 2}

// dialer opens TCP connections. It refuses an address off this machine when the
// connection will not be encrypted; it looks at the resolved address, so that
// neither a name nor a later change of a name gets around it.
type dialer struct {
	ctx     context.Context // of the first connect, nil afterwards
	timeout time.Duration
	plain   bool

	mu     sync.Mutex
	failed error
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	ctx := d.ctx
	d.mu.Unlock()
	if ctx == nil {
		ctx = context.Background()
	}
	c, err := d.dial(ctx, network, address)
	d.mu.Lock()
	d.failed = err
	d.mu.Unlock()
	return c, err
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n := net.Dialer{Timeout: d.timeout, KeepAliveConfig: keepAlive, Control: impatient}
	if d.plain {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		// The client resolves names before it dials; a name here did not resolve.
		if ip := net.ParseIP(host); ip == nil {
			return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
		} else if !ip.IsLoopback() {
			return nil, fmt.Errorf("%w: disk contents would cross the network readable to all; use tls:// and a CA file (%s is not this machine)", errPlain, host)
		}
	}
	return n.DialContext(ctx, network, address)
}

// later makes reconnects independent of the context of the first connect.
func (d *dialer) later() {
	d.mu.Lock()
	d.ctx = nil
	d.mu.Unlock()
}

func (d *dialer) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}
