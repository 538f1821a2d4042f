package process

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// Taps hear of every change, in order and once, and nothing of what it holds.
func TestTapsHearHeaders(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	sub, err := b.Conn.SubscribeSync("leeward.tap.>")
	if err != nil {
		t.Fatal(err)
	}
	s := makeServer(t, b, newVault(t, nil), small()).run(t)
	a := newAgent(t, b, "web1", "sda")
	a.publish(a.open("new"))
	for range 5 {
		a.publish(a.write(), a.cut())
	}
	a.settled()
	s.reset(s.ctx, streams.Partition("web1", "sda")) // nothing is left to be delivered again
	a.publish(a.write())
	a.settled()
	var last uint64
	for i := range 12 {
		m, err := sub.NextMsg(patience)
		if err != nil {
			t.Fatalf("message %d: %v", i+1, err)
		}
		h := func(key string) string { return strings.Join(m.Header[key], "|") }
		seq, err := strconv.ParseUint(h("Nats-Sequence"), 10, 64)
		if err != nil || seq <= last {
			t.Errorf("sequence %s follows %d", h("Nats-Sequence"), last)
		}
		last = seq
		size, _ := strconv.Atoi(h("Nats-Msg-Size"))
		at, err := time.Parse(time.RFC3339Nano, h("Nats-Time-Stamp"))
		if m.Subject != streams.TapSubject(streams.ChangesSubject("web1", "sda")) || len(m.Data) != 0 || h("Leeward-Machine") != "web1" || h("Leeward-Number") != fmt.Sprint(i+1) ||
			h("Nats-Stream") != streams.Changes || h("Nats-Subject") != streams.ChangesSubject("web1", "sda") || size < 20 || err != nil || time.Since(at) > 2*patience {
			t.Errorf("%s %q, headers %v", m.Subject, m.Data, m.Header)
		}
	}
	if m, err := sub.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("and %v", m.Header)
	}
}

// delivery is as much of a message as a tap is told of.
type delivery struct{ jetstream.Msg }

func (delivery) Subject() string      { return streams.ChangesSubject("web1", "sda") }
func (delivery) Headers() nats.Header { return nats.Header{"Leeward-Kind": {"block"}} }
func (delivery) Data() []byte         { return make([]byte, 1000) }

// What is delivered again is not told again, what comes in a stream whose end was lost is,
// and a full queue holds nobody up.
func TestTapsAreNotWaitedFor(t *testing.T) {
	t.Parallel()
	taps := newTaps(nil) // nobody takes from its queue
	began := time.Now()
	tell := func(seq uint64, after time.Duration) {
		taps.tell(7, delivery{}, &jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Stream: seq}, Stream: streams.Changes, Timestamp: began.Add(after)})
	}
	for _, seq := range []uint64{1, 1, 2, 1, 2, 5} {
		tell(seq, time.Duration(seq)*time.Second)
	}
	tell(3, time.Minute) // another message than the third of before
	tell(3, time.Minute)
	tell(4, 30*time.Second) // of a leader whose clock is behind
	wants := []string{"1", "2", "5", "3", "4"}
	if n := len(taps.queue); n != len(wants) {
		t.Fatalf("%d wait, want %d", n, len(wants))
	}
	for _, want := range wants {
		if m := <-taps.queue; m.Header.Get("Nats-Sequence") != want || m.Header.Get("Nats-Msg-Size") != "1000" || len(m.Data) != 0 {
			t.Errorf("%v %q, want sequence %s", m.Header, m.Data, want)
		}
	}
	for seq := range uint64(2 * maxTold) {
		tell(10+seq, time.Hour)
	}
	if n := len(taps.queue); n != maxTold {
		t.Errorf("%d wait, want %d", n, maxTold)
	}
}
