package blocks

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams/wire"
)

// message is one encoded link.
type message struct {
	msg    *nats.Msg
	hash   wire.Hash
	number uint64
	ack    jetstream.PubAckFuture
}

// flight is what JetStream has not acknowledged, oldest first.
type flight struct {
	queue []*message
	bytes int
	limit int
	// careful counts down after a refusal: while it is above zero, messages go one
	// at a time, so that none overtakes the one that was refused.
	careful int
}

// carefully is how many messages go one by one after a refusal.
const carefully = 64

// message encodes the next link of the chain.
func (p *Publisher) message(c *wire.Change) (*message, error) {
	c.Machine, c.Disk, c.Epoch = p.machine, p.disk, p.epoch
	c.Number, c.Prev, c.Time = p.number+1, p.prev, time.Now().UnixNano()
	b, err := wire.Encode(c)
	if err != nil {
		return nil, err
	}
	m := nats.NewMsg(p.subject)
	m.Data = b
	m.Header = nats.Header(wire.Headers(c))
	m.Header.Set(jetstream.MsgIDHeader, wire.MsgID(c))
	return &message{msg: m, hash: wire.LinkHash(c, b), number: c.Number}, nil
}

// sequence numbers, chains and publishes what the compressors made, in order.
func (p *Publisher) sequence() {
	for {
		var it *item
		select {
		case it = <-p.order:
		case <-p.ctx.Done():
			return
		}
		select {
		case <-it.ready:
		case <-p.ctx.Done():
			return
		}
		if err := p.link(it); err != nil {
			p.cancel(err)
		}
		if it.done == nil {
			continue
		}
		err := p.drain(0)
		if err != nil {
			p.cancel(err)
		}
		it.done <- result{p.number, err}
	}
}

// link publishes what it carries as the next link; barriers carry nothing.
func (p *Publisher) link(it *item) error {
	c := &wire.Change{Kind: wire.KindBlock, Block: it.block}
	switch {
	case it.cut != nil:
		c.Kind, c.Cut = wire.KindCut, it.cut
	case it.block == nil:
		return nil
	}
	m, err := p.message(c)
	if err != nil {
		return err
	}
	p.number, p.prev = m.number, m.hash
	if it.block != nil {
		if p.o.OnLink != nil {
			p.o.OnLink(m.number, it.block.Extents)
		}
		p.raw.Add(uint64(it.block.Raw))
		p.recycle(it.block.Data)
	}
	p.bytes.Add(uint64(len(m.msg.Data)))
	limit := p.flight.limit - len(m.msg.Data)
	if p.flight.careful > 0 {
		limit = 0
		p.flight.careful--
	}
	if err := p.drain(limit); err != nil {
		return err
	}
	if err := p.o.Limit.Wait(p.ctx, len(m.msg.Data)); err != nil {
		return err
	}
	return p.publish(m)
}

func (p *Publisher) publish(m *message) error {
	ack, err := p.js.PublishMsgAsync(m.msg)
	p.flight.queue = append(p.flight.queue, m)
	p.flight.bytes += len(m.msg.Data)
	if err != nil {
		return p.again(err)
	}
	m.ack = ack
	return nil
}

// drain waits until at most limit bytes are under way.
func (p *Publisher) drain(limit int) error {
	for p.flight.bytes > max(limit, 0) {
		m := p.flight.queue[0]
		select {
		case <-m.ack.Ok():
			p.landed()
		case err := <-m.ack.Err():
			m.ack = nil // its answer is taken
			if err := p.again(err); err != nil {
				return err
			}
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	return nil
}

// landed removes the oldest message: JetStream has it.
func (p *Publisher) landed() {
	m := p.flight.queue[0]
	p.flight.queue[0] = nil
	p.flight.queue = p.flight.queue[1:]
	p.flight.bytes -= len(m.msg.Data)
	p.links.Add(1)
}

// again publishes everything that is under way once more, in order, one by one,
// as long as it takes: the oldest was refused, so what came behind it may have
// overtaken it. JetStream drops repeats by their id, and the chain makes sure of it.
func (p *Publisher) again(why error) error {
	p.flight.careful = carefully
	p.refuse(why)
	for _, m := range p.flight.queue { // let the answers come in first
		if m.ack == nil {
			continue
		}
		select {
		case <-m.ack.Ok():
		case <-m.ack.Err():
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	for len(p.flight.queue) > 0 {
		m := p.flight.queue[0]
		for wait := firstWait; ; wait = longer(wait) {
			_, err := p.js.PublishMsg(p.ctx, m.msg)
			if err == nil {
				break
			}
			p.refuse(err)
			if !sleep(p.ctx, wait) {
				return context.Cause(p.ctx)
			}
		}
		p.landed()
	}
	p.lastError.Store("")
	return nil
}

func (p *Publisher) refuse(err error) {
	defer p.refused.Add(1) // whoever sees the count sees the reason too
	if p.lastError.Swap(err.Error()) == "" {
		p.o.Log.Warn("the stream takes no changes, waiting", "machine", p.machine, "disk", p.disk, "error", err)
	}
}
