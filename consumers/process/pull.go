package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// pull takes the messages of a partition until it takes no more.
func (s *Server) pull(pt *part) {
	ctx, p := pt.pullCtx, pt.n
	for wait := s.tempo.retry; ctx.Err() == nil; {
		began := time.Now()
		err := s.consume(ctx, pt)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > s.tempo.busMax {
			wait = s.tempo.retry
		}
		s.log.Warn("pulling stopped, trying again", "partition", p, "err", err, "in", wait)
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, s.tempo.busMax)
	}
}

// consume handles deliveries until ctx ends or the consumer is gone.
func (s *Server) consume(ctx context.Context, pt *part) error {
	p := pt.n
	cons, err := s.consumer(ctx, pt)
	if err != nil {
		return err
	}
	group := streams.AnyGroup
	if s.share != nil {
		group = s.share.group()
		if cons, err = s.claim(ctx, cons, pt); err != nil {
			return err
		}
	}
	// What a server before us had not acknowledged is delivered again now, in order,
	// instead of after its acknowledgement wait, out of order.
	s.reset(ctx, p)
	for err == nil {
		err = s.receive(ctx, p, cons, group)
	}
	return err
}

// receive handles deliveries until as much is to be fetched ahead as to make a difference:
// it returns nil then, and is to be called again.
func (s *Server) receive(ctx context.Context, p int, cons jetstream.Consumer, group string) error {
	var handling sync.RWMutex // held for writing: no handler runs any more
	doubt := make(chan error, 1)
	ahead := s.ahead()
	s.fetching[p].Store(int64(ahead))
	cc, err := cons.Consume(func(m jetstream.Msg) {
		handling.RLock()
		defer handling.RUnlock()
		if ctx.Err() == nil {
			s.deliver(ctx, p, m)
		}
	}, jetstream.PullMaxBytes(ahead), jetstream.PullExpiry(s.tempo.request), jetstream.PullPriorityGroup(group), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		select {
		case doubt <- err:
		default:
		}
	}))
	if err != nil {
		return fmt.Errorf("consume partition %d: %w", p, err)
	}
	defer func() {
		cc.Stop()
		handling.Lock() // wait for the handler
		//lint:ignore SA2001 nothing to protect, only to wait for
		handling.Unlock()
	}()
	look := time.NewTicker(s.tempo.look)
	defer look.Stop()
	resized := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			if now := s.ahead(); !resized && (now >= 2*ahead || ahead >= 2*now) {
				resized = true
				cc.Drain() // what was asked for is still handled
			}
		case <-cc.Closed():
			if resized {
				return nil
			}
			select {
			case err := <-doubt:
				return fmt.Errorf("consumer of partition %d is closed: %w", p, err)
			default:
				return fmt.Errorf("consumer of partition %d is closed", p)
			}
		case err := <-doubt:
			// Heartbeats missing, no responders, consumer deleted: is it still there?
			if !s.connected(ctx) {
				continue
			}
			if _, gone := s.js.Consumer(ctx, s.pool.Stream(), s.pool.PartitionConsumer(p).Durable); errors.Is(gone, jetstream.ErrConsumerNotFound) || errors.Is(gone, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("%w (%w)", gone, err)
			}
			if errors.Is(err, jetstream.ErrNoHeartbeat) {
				// The server that led this consumer was cut off. What it had sent on its way
				// to us would come again only when its acknowledgement wait has passed.
				s.again(ctx, p, time.Now())
			}
		}
	}
}

// connected pauses for a moment and reports whether there is a server to ask.
func (s *Server) connected(ctx context.Context) bool {
	return sleep(ctx, s.tempo.retry) && s.conn.IsConnected()
}

// consumer finds partition p's durable consumer and makes it if it is gone: then
// JetStream has lost its state, and RECEIPTS probably too.
func (s *Server) consumer(ctx context.Context, pt *part) (jetstream.Consumer, error) {
	p := pt.n
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cfg := s.pool.PartitionConsumer(p)
	cons, err := s.js.Consumer(ctx, s.pool.Stream(), cfg.Durable)
	if !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return cons, err
	}
	if cons, err = s.js.CreateOrUpdateConsumer(ctx, s.pool.Stream(), cfg); err != nil {
		return nil, fmt.Errorf("create consumer of partition %d: %w", p, err)
	}
	pt.pulls.Go(func() { s.announce(pt.pullCtx, p) })
	return cons, nil
}

// claim makes partition p's consumer serve this server alone: requests that name
// another server's group are refused from now on. Whoever lost the partition and
// does not know it yet learns it that way.
func (s *Server) claim(ctx context.Context, cons jetstream.Consumer, pt *part) (jetstream.Consumer, error) {
	p := pt.n
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	mine, err := s.share.mine(ctx, p)
	if err == nil && !mine {
		err = errNotOurs
	}
	cfg, groups := cons.CachedInfo().Config, []string{streams.AnyGroup, s.share.group()}
	if err == nil && !slices.Equal(cfg.PriorityGroups, groups) {
		cfg.PriorityGroups = groups
		cons, err = s.js.UpdateConsumer(ctx, s.pool.Stream(), cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("claim partition %d: %w", p, err)
	}
	// Also if the groups were ours already: the answer to the update may have been lost.
	pt.claimed.CompareAndSwap(0, time.Now().UnixNano())
	return cons, nil
}

// errNotOurs means that the table gives a partition to another server, or soon will.
var errNotOurs = errors.New("another process server owns it")

// again asks for everything of partition p that is not acknowledged, unless that was done
// since a time. If it was done shortly before, it returns when it may be done the next time.
func (s *Server) again(ctx context.Context, p int, since time.Time) (wait time.Time) {
	for now := time.Now(); ; {
		was := s.resets[p].Load()
		last := time.Unix(0, was)
		switch {
		case was != 0 && !last.Before(since):
			return time.Time{}
		case now.Sub(last) < s.tempo.reset:
			return last.Add(s.tempo.reset)
		case s.resets[p].CompareAndSwap(was, now.UnixNano()):
			s.tasks.Go(func() { s.reset(ctx, p) })
			return time.Time{}
		}
	}
}

func (s *Server) reset(ctx context.Context, p int) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.js.ResetConsumer(ctx, s.pool.Stream(), s.pool.PartitionConsumer(p).Durable); err != nil && ctx.Err() == nil {
		// What is outstanding comes when its acknowledgement wait has passed.
		s.log.Debug("the consumer was not reset", "partition", p, "err", err)
	}
}

// deliver takes one message of partition p to its disk.
func (s *Server) deliver(ctx context.Context, p int, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		s.log.Warn("a message without JetStream's reply subject was ignored", "subject", m.Subject(), "err", err)
		return
	}
	if meta.NumDelivered > 1 {
		s.againN.Add(1)
	}
	s.behind[p].Store(meta.NumPending)
	id, c, err := open(m.Subject(), m.Data())
	if err == nil && streams.Copied(m.Headers()) {
		err = errors.New("it is a copy of a stored message, which somebody had sent there")
	}
	if err != nil {
		s.malformed(m, id, meta.Sequence.Stream, err)
		return
	}
	s.taps.tell(p, m, meta)
	l := &link{
		Link: optimize.Link{Change: c, Hash: wire.LinkHash(c, m.Data())}, size: int64(len(m.Data())) + linkOverhead,
		stored: meta.Timestamp, tickets: []ticket{{seq: meta.Sequence.Stream, reply: m.Reply()}},
	}
	d := s.pin(id)
	if d == nil {
		return
	}
	defer s.unpin(d)
	if s.reserve(ctx, d, l.size) != nil {
		return
	}
	select {
	case d.in <- l:
		s.bytesIn.Add(uint64(len(m.Data())))
	case <-ctx.Done():
		d.release(l)
	}
}

// open decodes a message and checks that it is what its subject says.
func open(subject string, data []byte) (vault.DiskID, *wire.Change, error) {
	machine, disk, err := streams.ParseChanges(subject)
	id := vault.DiskID{Machine: machine, Disk: disk}
	if err != nil {
		return id, nil, err
	}
	if err := errors.Join(streams.ValidName("machine", machine), streams.ValidName("disk", disk)); err != nil {
		return vault.DiskID{}, nil, err
	}
	c, err := wire.DecodeChange(data)
	if err != nil {
		return id, nil, err
	}
	if c.Machine != machine || c.Disk != disk {
		return id, nil, fmt.Errorf("it is a change of %s/%s", c.Machine, c.Disk)
	}
	return id, c, nil
}

// malformed refuses a message that is no link of its subject's disk.
func (s *Server) malformed(m jetstream.Msg, id vault.DiskID, seq uint64, err error) {
	s.malformedN.Add(1)
	if id.Machine == "" {
		id.Machine = "unknown"
	}
	s.voice.event(&wire.Event{
		Machine: id.Machine, Disk: id.Disk, Kind: "malformed", Severity: wire.Critical,
		What: fmt.Sprintf("message %d on %s was refused: %v", seq, m.Subject(), err),
		Try:  "upgrade the older side, or see what else publishes there",
	})
	s.answered(m.TermWithReason("malformed"))
}
