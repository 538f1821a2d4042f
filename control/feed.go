package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// MarkersConsumer is the durable consumer of MARKERS. A marker is acknowledged
// when it is decided; until then it is delivered again, ever more rarely.
const MarkersConsumer = "control-markers"

// pullExpiry is for how long the server keeps a request for messages. It sends heartbeats
// at half of that, and two that are missing make the client ask again: with the client's
// own 30 s, that a node was cut off would be noticed after 30 s.
const pullExpiry = 5 * time.Second

// ReceiptsConsumer starts the names of the consumers of RECEIPTS.
const ReceiptsConsumer = "control-receipts"

func markersConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: MarkersConsumer, Name: MarkersConsumer, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 32768, MaxDeliver: -1,
		// After a crash what was not decided is read again by replay; deliveries only
		// carry the acknowledgement, and may take their time.
		AckWait: time.Minute, MaxWaiting: 64,
	}
}

// follow starts to read the streams. Each stop function ends one reader and is
// called in reverse order.
func (s *Service) follow(ctx context.Context) error {
	for _, start := range []func(context.Context) error{s.followReceipts, s.followLeases, s.followEvents, s.followMarkers} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) followReceipts(ctx context.Context) error {
	c, err := s.bus.JS.OrderedConsumer(ctx, streams.Receipts, jetstream.OrderedConsumerConfig{
		NamePrefix: ReceiptsConsumer, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.Receipts, err)
	}
	return s.consume(c, func(m jetstream.Msg) {
		r, err := wire.DecodeReceipt(m.Data())
		if err == nil && m.Subject() != streams.ReceiptsSubject(r.Machine, r.Disk) {
			err = fmt.Errorf("it speaks of disk %s/%s", r.Machine, r.Disk)
		}
		if err != nil {
			s.refuse(ctx, m, err)
			return
		}
		if s.state.receipt(r) {
			s.lookupOpen(ctx, r)
		}
		s.decider.receipt(r)
	})
}

func (s *Service) followMarkers(ctx context.Context) error {
	c, err := s.bus.JS.CreateOrUpdateConsumer(ctx, streams.Markers, markersConfig())
	if err != nil {
		return fmt.Errorf("create consumer %s: %w", MarkersConsumer, err)
	}
	if err := s.replay(ctx, c); err != nil {
		return err
	}
	return s.consume(c, func(m jetstream.Msg) {
		s.onMarker(ctx, m, m)
		if meta, err := m.Metadata(); err == nil && meta.Sequence.Stream > s.marked.Load() {
			s.marked.Store(meta.Sequence.Stream) // only this callback writes it
		}
	})
}

// replay reads the markers that were delivered to an earlier process and not
// acknowledged, so that they need not wait to be delivered again.
func (s *Service) replay(ctx context.Context, c jetstream.Consumer) error {
	info, err := c.Info(ctx)
	if err != nil {
		return fmt.Errorf("look at consumer %s: %w", MarkersConsumer, err)
	}
	s.marked.Store(info.Delivered.Stream)
	if info.NumAckPending == 0 {
		return nil
	}
	o, err := s.bus.JS.OrderedConsumer(ctx, streams.Markers, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: info.AckFloor.Stream + 1,
	})
	if err != nil {
		return fmt.Errorf("read %s again: %w", streams.Markers, err)
	}
	for {
		batch, err := o.FetchNoWait(256)
		if err != nil {
			return fmt.Errorf("read %s again: %w", streams.Markers, err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("read %s again: %w", streams.Markers, err)
			}
			if meta.Sequence.Stream > info.Delivered.Stream {
				return nil
			}
			s.onMarker(ctx, m, nil)
		}
		if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
			return fmt.Errorf("read %s again: %w", streams.Markers, err)
		}
		if n == 0 {
			return nil
		}
	}
}

// onMarker decodes a marker; ack is nil when it must not be acknowledged.
func (s *Service) onMarker(ctx context.Context, m, ack jetstream.Msg) {
	w, err := wire.DecodeMarker(m.Data())
	if err == nil && m.Subject() != streams.MarkersSubject(w.Group) {
		err = fmt.Errorf("it speaks of group %s", w.Group)
	}
	if err != nil {
		if ack != nil {
			s.refuse(ctx, m, err)
			if err := ack.Term(); err != nil {
				s.log.Warn("cannot refuse a marker", "err", err)
			}
		}
		return
	}
	s.state.marker(w)
	s.decider.marker(w, ack)
}

// followEvents reads the newest events and those to come.
func (s *Service) followEvents(ctx context.Context) error {
	st, err := s.bus.JS.Stream(ctx, streams.Events)
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.Events, err)
	}
	start := uint64(1)
	if last := st.CachedInfo().State.LastSeq; last > eventsRead {
		start = last - eventsRead + 1
	}
	c, err := s.bus.JS.OrderedConsumer(ctx, streams.Events, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", streams.Events, err)
	}
	return s.consume(c, func(m jetstream.Msg) {
		e, err := wire.DecodeEvent(m.Data())
		if err == nil && m.Subject() != streams.EventsSubject(e.Machine, e.Kind) {
			err = fmt.Errorf("it speaks of machine %s, kind %s", e.Machine, e.Kind)
		}
		if err != nil {
			s.log.Warn("unreadable event", "subject", m.Subject(), "err", err) // telling of it by an event could go round for ever
			return
		}
		s.state.event(e)
	})
}

// eventsRead is how many events are read again at start.
const eventsRead = 5000

// followLeases takes renewals of the agents' leases for their heartbeat.
func (s *Service) followLeases(ctx context.Context) error {
	kv, err := s.bus.JS.KeyValue(ctx, streams.Leases)
	if err != nil {
		return fmt.Errorf("read bucket %s: %w", streams.Leases, err)
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", streams.Leases, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.Updates() {
			if e != nil {
				s.onLease(e)
			}
		}
	}()
	s.stops = append(s.stops, func() {
		_ = w.Stop() // the end of ctx may have stopped it already
		<-done
	})
	return nil
}

func (s *Service) onLease(e jetstream.KeyValueEntry) {
	machine, disk, ok := strings.Cut(e.Key(), ".")
	if !ok || streams.ValidName("machine", machine) != nil || streams.ValidName("disk", disk) != nil {
		s.log.Warn("lease of no disk", "key", e.Key())
		return
	}
	var h bus.Holder
	released := e.Operation() != jetstream.KeyValuePut
	if !released {
		if err := json.Unmarshal(e.Value(), &h); err != nil {
			s.log.Warn("unreadable lease", "key", e.Key(), "err", err)
		}
	}
	s.state.lease(machine, disk, e.Created().UTC(), h, released)
}

// consume calls fn for every message until stopped.
func (s *Service) consume(c jetstream.Consumer, fn func(jetstream.Msg)) error {
	cc, err := c.Consume(func(m jetstream.Msg) {
		if streams.Copied(m.Headers()) {
			s.refuse(s.base, m, errors.New("it is a copy of a stored message, which somebody had sent there"))
			_ = m.Term() // of no use again; ordered consumers need no answer
			return
		}
		fn(m)
	}, jetstream.PullMaxMessages(256), jetstream.PullExpiry(pullExpiry), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		s.log.Debug("consumer", "err", err) // the client recovers by itself; the bus logs lost connections
	}))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	s.stops = append(s.stops, func() {
		cc.Stop()
		<-cc.Closed()
	})
	return nil
}

// refuse makes a message that cannot be believed visible.
func (s *Service) refuse(ctx context.Context, m jetstream.Msg, err error) {
	s.log.Warn("message refused", "subject", m.Subject(), "err", err)
	t := strings.Split(m.Subject(), ".")
	name := t[len(t)-1]
	if len(t) == 4 {
		name = t[2]
	}
	if streams.ValidName("machine", name) != nil {
		return
	}
	what := fmt.Sprintf("a message on %s was refused: %v", m.Subject(), err)
	s.publish(ctx, "", &wire.Event{
		Time: time.Now().UnixNano(), Machine: name, Kind: "message-refused", Severity: wire.Warning, What: what[:min(len(what), wire.MaxText)],
		Try: "run the same version of leeward and leeward-agent everywhere",
	})
}
