package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// voice publishes receipts and events. Receipts are part of the protocol: each is
// published until JetStream has it. Events are for people: a bounded queue, and
// few of the same kind.
type voice struct {
	js    jetstream.JetStream
	log   *slog.Logger
	tempo tempo
	queue chan *wire.Event
	done  sync.WaitGroup

	mu      sync.Mutex
	heard   map[string]heard
	failing map[vault.DiskID]error
	since   time.Time // when the store began to fail
}

type heard struct {
	at   time.Time
	more int
}

const (
	answerWait = 5 * time.Second // for one answer of JetStream
	maxEvents  = 256
	maxKinds   = 4096 // kinds of events that are remembered
)

func newVoice(js jetstream.JetStream, log *slog.Logger) *voice {
	return &voice{js: js, log: log, queue: make(chan *wire.Event, maxEvents), heard: map[string]heard{}, failing: map[vault.DiskID]error{}}
}

func (v *voice) start(ctx context.Context, t tempo) {
	v.tempo = t
	v.done.Go(func() {
		for {
			select {
			case e := <-v.queue:
				v.publish(ctx, e)
			case <-ctx.Done():
				return
			}
		}
	})
}

func (v *voice) wait() { v.done.Wait() }

// flush waits until the queue is empty, as long as ctx allows.
func (v *voice) flush(ctx context.Context) {
	for len(v.queue) > 0 && sleep(ctx, 10*time.Millisecond) {
	}
}

// receipt returns when JetStream has r, or with an error when ctx ends.
func (v *voice) receipt(ctx context.Context, r *wire.Receipt) error {
	b, err := wire.Encode(r)
	if err != nil {
		return fmt.Errorf("receipt of %s/%s: %w", r.Machine, r.Disk, err)
	}
	m := nats.NewMsg(streams.ReceiptsSubject(r.Machine, r.Disk))
	m.Data = b
	m.Header = nats.Header{
		"Leeward-Kind": {"receipt"}, "Leeward-Machine": {r.Machine}, "Leeward-Disk": {r.Disk},
		"Leeward-Epoch": {strconv.FormatUint(r.Epoch, 10)}, "Leeward-Number": {strconv.FormatUint(r.Number, 10)},
	}
	if r.Resend {
		m.Header.Set("Leeward-Resend", "true")
	}
	return v.insist(ctx, "publish the receipt of "+r.Machine+"/"+r.Disk, func(ctx context.Context) error {
		_, err := v.js.PublishMsg(ctx, m)
		return err
	})
}

// lastReceipt returns the newest receipt of a disk, nil if there is none.
func (v *voice) lastReceipt(ctx context.Context, id vault.DiskID) (*wire.Receipt, error) {
	var last *wire.Receipt
	err := v.insist(ctx, "read the last receipt of "+id.String(), func(ctx context.Context) error {
		s, err := v.js.Stream(ctx, streams.Receipts)
		if err != nil {
			return err
		}
		m, err := s.GetLastMsgForSubject(ctx, streams.ReceiptsSubject(id.Machine, id.Disk))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if last, err = wire.DecodeReceipt(m.Data); err != nil {
			v.log.Warn("the last receipt cannot be read, writing another", "machine", id.Machine, "disk", id.Disk, "err", err)
			last = nil
		}
		return nil
	})
	return last, err
}

// insist does try until it works or ctx ends.
func (v *voice) insist(ctx context.Context, what string, try func(context.Context) error) error {
	// A stream without a leader does not answer at all, and one that gets it a moment
	// later has not heard the question: so it is asked again soon, at first.
	patience := answerWait / 4
	for wait := v.tempo.retry; ; wait, patience = min(2*wait, v.tempo.busMax), min(2*patience, answerWait) {
		c, cancel := context.WithTimeout(ctx, patience)
		err := try(c)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		v.log.Warn("JetStream does not answer, trying again", "doing", what, "err", err, "in", wait)
		if !sleep(ctx, wait) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// event queues e, unless one of the same machine, disk and kind was just said.
func (v *voice) event(e *wire.Event) {
	now := time.Now()
	e.Time = now.UnixNano()
	key := e.Machine + "/" + e.Disk + "/" + e.Kind
	v.mu.Lock()
	h := v.heard[key]
	if now.Sub(h.at) < v.tempo.quiet {
		h.more++
		v.heard[key] = h
		v.mu.Unlock()
		return
	}
	if len(v.heard) >= maxKinds {
		clear(v.heard)
	}
	v.heard[key] = heard{at: now}
	v.mu.Unlock()
	if h.more > 0 {
		e.What += fmt.Sprintf(" (and %d more like this)", h.more)
	}
	e.What, e.Try = short(e.What), short(e.Try)
	v.log.Log(context.Background(), level(e.Severity), e.What, "event", e.Kind, "machine", e.Machine, "disk", e.Disk, "try", e.Try)
	select {
	case v.queue <- e:
	default:
		v.log.Warn("too many events, one was not published", "event", e.Kind)
	}
}

func (v *voice) publish(ctx context.Context, e *wire.Event) {
	b, err := wire.Encode(e)
	if err != nil {
		v.log.Error("an event cannot be encoded", "event", e.Kind, "err", err)
		return
	}
	m := nats.NewMsg(streams.EventsSubject(e.Machine, e.Kind))
	m.Data = b
	m.Header = nats.Header{"Leeward-Kind": {"event"}, "Leeward-Machine": {e.Machine}, "Leeward-Event": {e.Kind}, "Leeward-Severity": {string(e.Severity)}}
	_ = v.insist(ctx, "publish an event", func(ctx context.Context) error { // fails only when the server is going down
		_, err := v.js.PublishMsg(ctx, m)
		return err
	})
}

// trouble takes note that the store fails for a disk; the first one is an event.
func (v *voice) trouble(id vault.DiskID, err error) {
	v.mu.Lock()
	first := len(v.failing) == 0
	v.failing[id] = err
	if first {
		v.since = time.Now()
	}
	v.mu.Unlock()
	if first {
		v.event(&wire.Event{Machine: id.Machine, Disk: id.Disk, Kind: "store-failed", Severity: wire.Critical,
			What: fmt.Sprintf("the vault does not take changes, nothing is lost, it is tried again: %v", err),
			Try:  "see that the store can be reached and has room; replication goes on by itself"})
	}
}

// recovered takes note that the store works for a disk; the last one is an event.
func (v *voice) recovered(id vault.DiskID) {
	v.mu.Lock()
	_, was := v.failing[id]
	delete(v.failing, id)
	last, since := was && len(v.failing) == 0, v.since
	v.mu.Unlock()
	if last {
		v.event(&wire.Event{Machine: id.Machine, Disk: id.Disk, Kind: "store-recovered", Severity: wire.Info,
			What: fmt.Sprintf("the vault takes changes again after %s", time.Since(since).Round(time.Second))})
	}
}

// storeError is why the store fails, nil if it works.
func (v *voice) storeError() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, err := range v.failing {
		return err
	}
	return nil
}

func short(s string) string {
	if len(s) > wire.MaxText {
		return s[:wire.MaxText]
	}
	return s
}

func level(s wire.Severity) slog.Level {
	switch s {
	case wire.Info:
		return slog.LevelInfo
	case wire.Warning:
		return slog.LevelWarn
	}
	return slog.LevelError
}
