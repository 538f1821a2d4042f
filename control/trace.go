package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

var _ api.Tracer = (*Service)(nil)

// early is how much earlier than its cut a marker may seem to be stored: the
// machine's clock and the server's differ.
const early = 2 * time.Minute

// maxLook bounds how many messages are looked at for one point.
const maxLook = 5000

// Trace implements api.Tracer. Where the time of a point went is read from what
// the streams still hold: markers for a month, a thousand receipts of each disk.
// Times are those of the clock that noted them, so a span across two machines is
// as right as their clocks agree.
func (s *Service) Trace(ctx context.Context, id string) (*api.Trace, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	p, err := failover.ByID(s.state.pointsOf(""), id)
	if err != nil {
		return nil, err
	}
	t := &api.Trace{
		Schema: "leeward.trace.v1", TraceID: streams.TraceID("point", p.ID), Point: p.ID, Group: p.Group, Time: p.Time.UTC(),
		TotalSeconds: p.Listed.Sub(p.Time).Seconds(), Spans: []api.Span{}, Missing: []string{},
	}
	add := func(name, machine, disk string, from, to time.Time) {
		t.Spans = append(t.Spans, api.Span{
			Name: name, Machine: machine, Disk: disk, SpanID: streams.SpanID("point", p.ID, strings.TrimSpace(name+" "+machine+" "+disk)),
			Start: from.UTC(), Seconds: to.Sub(from).Seconds(),
		})
	}
	known := p.Time // when the last thing that the point waited for was there
	later := func(at time.Time) {
		if at.After(known) {
			known = at
		}
	}
	m, stored, err := s.findMarker(ctx, p)
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		t.Missing = append(t.Missing, "the marker is no longer in the stream")
	default:
		if m.Frozen > 0 {
			add("freeze", "", "", p.Time, p.Time.Add(time.Duration(m.Frozen)))
		}
		add("publish marker", "", "", p.Time, stored)
		later(stored)
	}
	for _, k := range p.Machines {
		for _, d := range k.Disks {
			r, heard, err := s.findReceipt(ctx, p.Time, vault.DiskID{Machine: k.Machine, Disk: d.Disk}, d.At)
			if err != nil {
				return nil, err
			}
			if r == nil {
				t.Missing = append(t.Missing, fmt.Sprintf("the receipt of disk %s/%s is no longer in the stream", k.Machine, d.Disk))
				continue
			}
			held := time.Unix(0, r.Time)
			add("stream, process, store", k.Machine, d.Disk, p.Time, held)
			add("receipt", k.Machine, d.Disk, held, heard)
			later(heard)
		}
	}
	add("list", "", "", known, p.Listed)
	sortSpans(t.Spans)
	return t, nil
}

// findMarker looks for a point's marker; nil if it is gone. stored is when JetStream
// had it.
func (s *Service) findMarker(ctx context.Context, p *vault.Point) (m *wire.Marker, stored time.Time, err error) {
	err = s.look(ctx, streams.Markers, streams.MarkersSubject(p.Group), p.Time.Add(-early), func(x jetstream.Msg, at time.Time) bool {
		w, derr := wire.DecodeMarker(x.Data())
		if derr != nil || w.ID != p.ID {
			return false
		}
		m, stored = w, at
		return true
	})
	return m, stored, err
}

// findReceipt looks for the first receipt that covers a cut; nil if it is gone.
func (s *Service) findReceipt(ctx context.Context, cut time.Time, id vault.DiskID, at vault.Position) (r *wire.Receipt, heard time.Time, err error) {
	err = s.look(ctx, streams.Receipts, streams.ReceiptsSubject(id.Machine, id.Disk), cut.Add(-early), func(x jetstream.Msg, when time.Time) bool {
		w, derr := wire.DecodeReceipt(x.Data())
		if derr != nil || w.Epoch < at.Epoch || w.Epoch == at.Epoch && w.Number < at.Number {
			return false
		}
		r, heard = w, when
		return true
	})
	return r, heard, err
}

// look hands the messages of a subject since a time to found, until that says yes
// or there are no more.
func (s *Service) look(ctx context.Context, stream, subject string, since time.Time, found func(jetstream.Msg, time.Time) bool) error {
	c, err := s.bus.JS.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", stream, err)
	}
	defer func() {
		name := c.CachedInfo()
		if name != nil {
			_ = s.bus.JS.DeleteConsumer(context.WithoutCancel(ctx), stream, name.Name) // or it ends by itself in some minutes
		}
	}()
	for n := 0; n < maxLook; {
		batch, err := c.FetchNoWait(256)
		if err != nil {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		was := n
		done := false
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err != nil {
				return fmt.Errorf("read %s: %w", stream, err)
			}
			done = done || found(m, meta.Timestamp)
		}
		if err := batch.Error(); err != nil && !errors.Is(err, jetstream.ErrNoMessages) {
			return fmt.Errorf("read %s: %w", stream, err)
		}
		if done || n == was {
			return nil
		}
	}
	return nil
}

// sortSpans puts spans in the order in which they began.
func sortSpans(all []api.Span) {
	slices.SortStableFunc(all, func(a, b api.Span) int { return a.Start.Compare(b.Start) })
}
