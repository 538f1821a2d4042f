package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
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

// Names of the consumers of RECEIPTS and EVENTS begin so.
const (
	ReceiptsConsumer = "control-receipts"
	EventsConsumer   = "control-events"
)

func markersConfig() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable: MarkersConsumer, Name: MarkersConsumer, DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 32768, MaxDeliver: -1,
		// After a crash what was not decided is read again by replay; deliveries only
		// carry the acknowledgement, and may take their time.
		AckWait: time.Minute, MaxWaiting: 64,
	}
}

// followTime is how long a stream may take until it can be followed. Then the state is
// rebuilt from the beginning.
const followTime = 15 * time.Second

// againTime is how long it is tried to read markers again: about as long as they take to
// come by themselves.
const againTime = time.Minute

// follow starts to read the streams. Each stop function ends one reader and is
// called in reverse order.
func (s *Service) follow(ctx context.Context) error {
	for _, start := range []func(context.Context) error{func(context.Context) error { return s.hear() }, s.followReceipts, s.followLeases, s.followEvents, s.followMarkers} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// hear takes in receipts and markers when they are said, beside reading them from their
// streams. In a cluster that has just lost a node it takes a while until a stream has a
// leader, its consumers have theirs and a delivery comes; what is said comes at once. It
// is no less true: a receipt says what the vault holds, and a point is made of what the
// vault answers. What is not heard, or is not understood, is found in the streams.
func (s *Service) hear() error {
	for subject, take := range map[string]func(*nats.Msg){
		streams.AllReceipts: func(m *nats.Msg) {
			if r, err := receiptOf(m.Subject, m.Data); err == nil {
				s.onReceipt(s.base, r)
			}
		},
		streams.AllMarkers: func(m *nats.Msg) {
			if w, err := markerOf(m.Subject, m.Data); err == nil {
				s.state.marker(w)
				s.decider.marker(w, nil)
			}
		},
	} {
		sub, err := s.bus.Conn.Subscribe(subject, func(m *nats.Msg) {
			if !streams.Copied(m.Header) {
				take(m)
			}
		})
		if err != nil {
			return fmt.Errorf("hear %s: %w", subject, err)
		}
		done := make(chan struct{})
		sub.SetClosedHandler(func(string) { close(done) })
		s.stops = append(s.stops, func() {
			if sub.Unsubscribe() == nil { // it ends with the connection
				<-done
			}
		})
	}
	return nil
}

func receiptOf(subject string, data []byte) (*wire.Receipt, error) {
	r, err := wire.DecodeReceipt(data)
	if err == nil && subject != streams.ReceiptsSubject(r.Machine, r.Disk) {
		err = fmt.Errorf("it speaks of disk %s/%s", r.Machine, r.Disk)
	}
	return r, err
}

func markerOf(subject string, data []byte) (*wire.Marker, error) {
	w, err := wire.DecodeMarker(data)
	if err == nil && subject != streams.MarkersSubject(w.Group) {
		err = fmt.Errorf("it speaks of group %s", w.Group)
	}
	return w, err
}

func (s *Service) onReceipt(ctx context.Context, r *wire.Receipt) {
	if s.state.receipt(r) {
		s.lookupOpen(ctx, r)
	}
	s.decider.receipt(r)
}

func (s *Service) followReceipts(ctx context.Context) error {
	return s.read(ctx, streams.Receipts, bus.FollowOptions{Name: ReceiptsConsumer, Policy: jetstream.DeliverLastPerSubjectPolicy}, func(m jetstream.Msg) {
		r, err := receiptOf(m.Subject(), m.Data())
		if err != nil {
			s.refuse(ctx, m, err)
			return
		}
		s.onReceipt(ctx, r)
	})
}

func (s *Service) followMarkers(ctx context.Context) error {
	c, err := s.bus.JS.CreateOrUpdateConsumer(ctx, streams.Markers, markersConfig())
	if err != nil {
		return fmt.Errorf("create consumer %s: %w", MarkersConsumer, err)
	}
	delivered, err := s.replay(ctx, c)
	if err != nil {
		return err
	}
	s.marked.Store(delivered)
	again := func() { s.again(ctx, c) }
	if err := s.consume(c, func(m jetstream.Msg) {
		s.onMarker(ctx, m, m)
		if meta, err := m.Metadata(); err == nil && meta.Sequence.Stream > s.marked.Load() {
			s.marked.Store(meta.Sequence.Stream) // only this callback writes it
		}
	}, again); err != nil {
		return err
	}
	s.reconnected(again)
	return nil
}

// reconnected calls fn whenever a connection was made anew.
func (s *Service) reconnected(fn func()) {
	changes := s.bus.Conn.StatusChanged(nats.CONNECTED)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case _, ok := <-changes:
				if !ok {
					return
				}
				fn()
			case <-quit:
				return
			}
		}
	}()
	s.stops = append(s.stops, func() {
		s.bus.Conn.RemoveStatusListener(changes)
		close(quit)
		<-done
	})
}

// again reads the markers again that may have been delivered into a connection that was
// gone: they would come again only when their acknowledgement wait has passed.
func (s *Service) again(ctx context.Context, c jetstream.Consumer) {
	if s.base.Err() != nil || !s.reading.CompareAndSwap(false, true) {
		return
	}
	s.wg.Go(func() {
		defer s.reading.Store(false)
		ctx, cancel := context.WithTimeout(ctx, againTime)
		defer cancel()
		for ctx.Err() == nil {
			_, err := s.replay(ctx, c)
			if err == nil {
				return
			}
			s.log.Debug("markers were not read again", "err", err)
			if !s.sleep(retryEvery) {
				return
			}
		}
	})
}

// replay reads the markers that were delivered, to whomever, and not acknowledged, so
// that they need not wait to be delivered again. It returns the sequence of the newest
// that was delivered.
func (s *Service) replay(ctx context.Context, c jetstream.Consumer) (delivered uint64, err error) {
	info, err := c.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("look at consumer %s: %w", MarkersConsumer, err)
	}
	if info.NumAckPending == 0 {
		return info.Delivered.Stream, nil
	}
	return info.Delivered.Stream, s.readMarkers(ctx, info.AckFloor.Stream+1, info.Delivered.Stream)
}

// readMarkers reads a range of MARKERS.
func (s *Service) readMarkers(ctx context.Context, first, last uint64) error {
	o, err := s.bus.JS.OrderedConsumer(ctx, streams.Markers, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first,
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
			if meta.Sequence.Stream > last {
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
	w, err := markerOf(m.Subject(), m.Data())
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
	return s.read(ctx, streams.Events, bus.FollowOptions{Name: EventsConsumer, Policy: jetstream.DeliverByStartSequencePolicy, Start: start}, func(m jetstream.Msg) {
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

// read follows a stream that needs no acknowledgements.
func (s *Service) read(ctx context.Context, stream string, o bus.FollowOptions, fn func(jetstream.Msg)) error {
	ctx, cancel := context.WithTimeout(ctx, followTime)
	defer cancel()
	o.Log = s.log
	f, err := bus.Follow(ctx, s.bus.JS, stream, o, s.original(fn))
	if err != nil {
		return err
	}
	s.stops = append(s.stops, f.Stop)
	return nil
}

// original makes fn meet no copies of stored messages.
func (s *Service) original(fn func(jetstream.Msg)) func(jetstream.Msg) {
	return func(m jetstream.Msg) {
		if streams.Copied(m.Headers()) {
			s.refuse(s.base, m, errors.New("it is a copy of a stored message, which somebody had sent there"))
			_ = m.Term() // of no use again; nobody waits for the answer of the others
			return
		}
		fn(m)
	}
}

// consume calls fn for every delivery until stopped, and missed when the server was
// silent, or another connection had to be made: what it sent meanwhile may be lost.
func (s *Service) consume(c jetstream.Consumer, fn func(jetstream.Msg), missed func()) error {
	cc, err := c.Consume(s.original(fn), jetstream.PullMaxMessages(256), jetstream.PullExpiry(pullExpiry), jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		s.log.Debug("consumer", "err", err) // the client recovers by itself; the bus logs lost connections
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			missed()
		}
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
