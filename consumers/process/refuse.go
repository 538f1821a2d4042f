package process

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// hold keeps a link that came before its predecessor. If there is no room, those nearest to
// the gap are kept; the others are not acknowledged, so they come again, and by then the gap
// is closed or lost. What is missing is asked for at once.
func (d *disk) hold(l *link) {
	for d.full(l.size) {
		if !d.gap.hurried && !d.gap.again && !d.gap.deadline.IsZero() {
			d.gap.hurried, d.gap.deadline = true, time.Now()
		}
		last := len(d.held) - 1
		if last < 0 || less(d.held[last].at(), l.at()) {
			d.later(l)
			return
		}
		d.weigh(-d.held[last].size)
		d.later(d.held[last])
		d.held = d.held[:last]
	}
	at, _ := slices.BinarySearchFunc(d.held, l.at(), func(h *link, p vault.Position) int {
		return cmp.Or(cmp.Compare(h.at().Epoch, p.Epoch), cmp.Compare(h.at().Number, p.Number))
	})
	d.held = slices.Insert(d.held, at, l)
	d.weigh(l.size)
}

// full reports whether n bytes more cannot be held.
func (d *disk) full(n int64) bool {
	return len(d.held) >= maxHeld || d.heldBytes+n > d.s.cfg.holdBytes() || d.s.held.Load()+n > d.s.cfg.MemoryBytes/2
}

// later has a link delivered again in a while.
func (d *disk) later(l *link) {
	for _, t := range l.tickets {
		d.s.answered(t.later(d.s.conn, 2*d.s.tempo.hold))
	}
	d.release(l)
}

// weigh adds n to the bytes that are held behind gaps, of the disk and of all. Of all it is
// at most half of the memory: were it filled, what is missing could not come in.
func (d *disk) weigh(n int64) {
	d.heldBytes += n
	d.s.held.Add(n)
}

// giveUp declares the links before the first held one lost and asks for a resend.
// What is held of that epoch goes; the agent sends its contents again in a new one.
func (d *disk) giveUp() {
	first := d.held[0]
	_, why := follow(d.tail, first.Change, first.Hash)
	d.lost = first.Change.Epoch
	n := notice{resend: true, reason: why}
	var rest []*link
	for _, l := range d.held {
		if l.Change.Epoch == d.lost {
			n.links = append(n.links, l)
			d.weigh(-l.size)
		} else {
			rest = append(rest, l)
		}
	}
	d.held, d.gap = rest, gap{}
	d.event("gap", wire.Warning, fmt.Sprintf("%s; %d links behind it are dropped, the agent sends them again", why, len(n.links)),
		"nothing, unless it happens often: then look at the NATS server's disk and log")
	d.refuse(n)
	d.settle()
}

// letGo has everything that is held delivered again, without a word to the agent.
func (d *disk) letGo() {
	for _, l := range d.held {
		for _, t := range l.tickets {
			d.s.answered(t.later(d.s.conn, 0))
		}
		d.release(l)
	}
	d.weigh(-d.heldBytes)
	d.held, d.gap = nil, gap{}
}

// fork refuses a link that contradicts the chain.
func (d *disk) fork(l *link, why string) {
	if d.told.forked == l.at() {
		d.drop(l)
		return
	}
	d.told.forked = l.at()
	d.event("fork", wire.Critical, why, "see that only one agent protects this disk")
	d.refuse(notice{resend: true, reason: why, links: []*link{l}})
}

// malformed refuses a link that decodes well but cannot be committed. The chain
// then shows a gap, which asks for a resend.
func (d *disk) malformed(l *link, err error) {
	d.s.malformedN.Add(1)
	d.event("malformed", wire.Critical,
		fmt.Sprintf("message %d of the stream, link %d of epoch %d, was refused: %v", l.tickets[0].seq, l.Change.Number, l.Change.Epoch, err),
		"upgrade the agent, or see what publishes to this disk's subject")
	for _, t := range l.tickets {
		d.s.answered(t.term(d.s.conn, "malformed"))
	}
	d.release(l)
}

// refuse queues the receipt that explains why links are not taken.
func (d *disk) refuse(n notice) { d.outbox = append(d.outbox, n) }

// drop acknowledges a link that is not wanted, without a word.
func (d *disk) drop(l *link) {
	d.s.refused.Add(1)
	d.finish(l)
}

// finish acknowledges a link and forgets it.
func (d *disk) finish(l *link) {
	for _, t := range l.tickets {
		d.s.answered(t.ack(d.s.conn))
	}
	d.release(l)
}

// release gives back the memory a link was charged for.
func (d *disk) release(l *link) {
	d.quota.Release(l.size)
	d.s.give(l.size)
}

// keepAlive tells JetStream that what is here is being worked on, so that a store
// that is slow or down does not make it deliver everything again.
func (d *disk) keepAlive(now time.Time) {
	if now.Before(d.touched.Add(d.s.tempo.touch)) {
		return
	}
	d.touched = now
	touch := func(links []*link) {
		for _, l := range links {
			for _, t := range l.tickets {
				d.s.answered(t.touch(d.s.conn))
			}
		}
	}
	for _, r := range d.runs {
		touch(r.links)
	}
	for _, n := range d.outbox {
		touch(n.links)
	}
	touch(d.waiting)
	touch(d.held)
}

func (d *disk) event(kind string, severity wire.Severity, what, try string) {
	d.s.voice.event(&wire.Event{Machine: d.id.Machine, Disk: d.id.Disk, Kind: kind, Severity: severity, What: what, Try: try})
}
