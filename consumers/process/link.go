package process

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
)

// link is a link on its way to the vault.
type link struct {
	optimize.Link
	size    int64 // bytes it is charged for
	stored  time.Time
	tickets []ticket // at least one; more if it was delivered again
	again   bool     // judged again by a fresh head
}

func (l *link) at() vault.Position {
	return vault.Position{Epoch: l.Change.Epoch, Number: l.Change.Number}
}

// merge takes over the deliveries of other, which is the same link.
func (l *link) merge(other *link) {
	for _, t := range other.tickets {
		known := false
		for i := range l.tickets {
			if l.tickets[i].seq == t.seq {
				l.tickets[i], known = t, true
			}
		}
		if !known {
			l.tickets = append(l.tickets, t)
		}
	}
}

// ticket is what is needed to answer a delivery. It is kept instead of the message,
// of which only the payload is still needed, by the link.
type ticket struct {
	seq   uint64 // of the message in the stream
	reply string
}

// The answers a JetStream consumer understands.
func (t ticket) ack(c *nats.Conn) error   { return c.Publish(t.reply, []byte("+ACK")) }
func (t ticket) touch(c *nats.Conn) error { return c.Publish(t.reply, []byte("+WPI")) }
func (t ticket) term(c *nats.Conn, why string) error {
	return c.Publish(t.reply, []byte("+TERM "+why))
}
func (t ticket) later(c *nats.Conn, d time.Duration) error {
	return c.Publish(t.reply, fmt.Appendf(nil, `-NAK {"delay": %d}`, d.Nanoseconds()))
}

// run is links that are or will be committed together.
type run struct {
	links  []*link
	count  optimize.Run
	closed bool // takes no more links
}

func (r *run) find(p vault.Position) *link {
	first := r.links[0].at()
	if p.Epoch != first.Epoch || p.Number < first.Number || p.Number-first.Number >= uint64(len(r.links)) {
		return nil
	}
	return r.links[p.Number-first.Number]
}

func (r *run) plan() []optimize.Link {
	out := make([]optimize.Link, len(r.links))
	for i, l := range r.links {
		out[i] = l.Link
	}
	return out
}
