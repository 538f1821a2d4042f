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
	buf    []byte // that the message lies in, to be used again once JetStream has it; nil: none
}

// flight is what JetStream has not acknowledged, oldest first.
type flight struct {
	queue []*message
	bytes int
	limit int
	// most is how many messages may be under way: half of what the stream takes of one
	// disk. If one is refused because that is full, those behind it that find room, as
	// the vault takes what was before, can then not fill all of it and keep it out for ever.
	most int
	// careful counts down after a refusal: while it is above zero, messages go one
	// at a time, so that none overtakes the one that was refused.
	careful int
}

// carefully is how many messages go one by one after a refusal.
const carefully = 64

// message encodes the next link of the chain. buf is what its data lies in.
func (p *Publisher) message(c *wire.Change, buf []byte) (*message, error) {
	c.Machine, c.Disk, c.Epoch = p.machine, p.disk, p.epoch
	c.Number, c.Prev, c.Time = p.number+1, p.prev, time.Now().UnixNano()
	// A small message would hold on to a large buffer as long as it is under way.
	inPlace := c.Block != nil && len(c.Block.Data) > bufferSize/2
	var b []byte
	var err error
	if inPlace {
		b, err = wire.EncodeInPlace(c, buf, room)
	} else {
		b, err = wire.Encode(c)
	}
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(p.subject)
	msg.Data = b
	msg.Header = nats.Header(wire.Headers(c))
	msg.Header.Set(jetstream.MsgIDHeader, wire.MsgID(c))
	m := &message{msg: msg, hash: wire.LinkHash(c, b), number: c.Number}
	if inPlace {
		m.buf = buf
	} else {
		p.recycle(buf)
	}
	return m, nil
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
		err := p.drain(0, 0)
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
	m, err := p.message(c, it.buf)
	if err != nil {
		return err
	}
	p.number, p.prev = m.number, m.hash
	if it.block != nil {
		if p.o.OnLink != nil {
			p.o.OnLink(m.number, it.block.Extents)
		}
		p.raw.Add(uint64(it.block.Raw))
	}
	p.bytes.Add(uint64(len(m.msg.Data)))
	limit := p.flight.limit - len(m.msg.Data)
	if p.flight.careful > 0 {
		limit = 0
		p.flight.careful--
	}
	if err := p.drain(limit, p.flight.most-1); err != nil {
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

// drain waits until at most limit bytes and count messages are under way.
func (p *Publisher) drain(limit, count int) error {
	for len(p.flight.queue) > 0 && (p.flight.bytes > max(limit, 0) || len(p.flight.queue) > count) {
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
	p.recycle(m.buf)
}

// again publishes everything that is under way once more, in order, one by one,
// as long as it takes: the oldest was refused, so what came behind it may have
// overtaken it. JetStream drops repeats by their id, and the chain makes sure of it.
func (p *Publisher) again(why error) error {
	p.flight.careful = carefully
	p.refuse(why)
	for _, m := range p.flight.queue { // let the answers come in first
		m.buf = nil // the client may still want to send it once more
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
		// A stream that has no leader yet does not answer: it is asked again soon.
		for wait, patience := firstWait, firstAnswer; ; wait, patience = longer(wait), min(2*patience, longestAnswer) {
			ctx, cancel := context.WithTimeout(p.ctx, patience)
			_, err := p.js.PublishMsg(ctx, m.msg)
			cancel()
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

// refusedAgain is how often the log tells of refusals. A disk that is written faster than
// its site takes it meets them every second, and that is how it is slowed down.
const refusedAgain = time.Minute

func (p *Publisher) refuse(err error) {
	defer p.refused.Add(1) // whoever sees the count sees the reason too
	if p.lastError.Swap(err.Error()) != "" {
		return
	}
	p.untold++
	if now := time.Now(); now.Sub(p.told) >= refusedAgain {
		p.o.Log.Warn("the stream takes no changes, waiting", "machine", p.machine, "disk", p.disk, "error", err, "times", p.untold)
		p.told, p.untold = now, 0
	}
}
