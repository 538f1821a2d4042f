package streams_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

func TestPoolNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[streams.Pool]bool{
		"": true, "west": true, "dc-2": true, "7": true, "a-07": true,
		"West": false, "-a": false, "a.b": false, "a_b": false, "a b": false, "seventeen-letters": false, "*": false,
	} {
		if err := name.Validate(); (err == nil) != ok {
			t.Errorf("%q: %v", string(name), err)
		}
	}
	seen := map[string]streams.Pool{}
	for _, p := range []streams.Pool{"", "a", "a-0", "a-07", "b"} {
		s := p.ChangesSubject("web", "sda")
		if was, there := seen[s]; there {
			t.Errorf("pools %q and %q share subject %s", was, p, s)
		}
		seen[s] = p
		machine, disk, err := streams.ParseChanges(s)
		if err != nil || machine != "web" || disk != "sda" {
			t.Errorf("%s: %s/%s, %v", s, machine, disk, err)
		}
	}
	for _, s := range []string{
		"leeward.changes.west-99.web.sda", "leeward.changes.West-" + streams.ChangesSubject("web", "sda")[len("leeward.changes."):],
		"leeward.changes.-07.web.sda", "leeward.changes.west-7.web.sda", "leeward.changes.west-.web.sda",
	} {
		if _, _, err := streams.ParseChanges(s); err == nil {
			t.Errorf("%s is taken for a subject of changes", s)
		}
	}
	c := streams.Default()
	for text, want := range map[string]streams.PoolConfig{
		"west":         {Pool: "west", Replicas: 1, ChangesBytes: c.ChangesBytes},
		"west@azure":   {Pool: "west", Cluster: "azure", Replicas: 1, ChangesBytes: c.ChangesBytes},
		"west@azure:3": {Pool: "west", Cluster: "azure", Replicas: 3, ChangesBytes: c.ChangesBytes},
	} {
		if got, err := streams.ParsePool(text, c); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "@azure", "west@", "west@azure:2", "west@azure:x", "We"} {
		if _, err := streams.ParsePool(text, c); err == nil {
			t.Errorf("%q is taken for a pool", text)
		}
	}
}

// A pool beside streams that are in use: what is stored, waits for acknowledgement or was
// acknowledged stays so, and later looks of Ensure change nothing.
func TestPoolBesideStreamsInUse(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	old, there := streams.ChangesSubject("web", "sda"), streams.Pool("west").ChangesSubject("web", "sda")
	for _, text := range []string{"1", "2", "3"} {
		if _, err := b.JS.Publish(within(t), old, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	next := func(stream string, c jetstream.ConsumerConfig) jetstream.Msg {
		t.Helper()
		cons, err := b.JS.Consumer(within(t), stream, c.Durable)
		if err != nil {
			t.Fatal(err)
		}
		m, err := cons.Next(jetstream.FetchMaxWait(10*time.Second), jetstream.FetchPriorityGroup(streams.AnyGroup))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	n := streams.Partition("web", "sda")
	if err := next(streams.Changes, streams.PartitionConsumer(n)).DoubleAck(within(t)); err != nil {
		t.Fatal(err)
	}
	held := next(streams.Changes, streams.PartitionConsumer(n)) // delivered, not acknowledged
	before, err := b.JS.Stream(within(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	pool := streams.PoolConfig{Pool: "west", Replicas: 1, ChangesBytes: 64 << 20}
	for range 2 {
		if err := streams.EnsurePool(within(t), b.JS, pool); err != nil {
			t.Fatal(err)
		}
		if err := streams.Ensure(within(t), b.JS, streams.Default()); err != nil {
			t.Fatal(err)
		}
	}
	after, err := b.JS.Stream(within(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	x, y := before.CachedInfo().State, after.CachedInfo().State
	if x.Msgs != 2 || y.Msgs != x.Msgs || y.FirstSeq != x.FirstSeq || y.LastSeq != x.LastSeq || y.Consumers != x.Consumers {
		t.Fatalf("the stream was %+v and is %+v", x, y)
	}
	if err := held.DoubleAck(within(t)); err != nil {
		t.Fatal(err)
	}
	if m := next(streams.Changes, streams.PartitionConsumer(n)); string(m.Data()) != "3" {
		t.Fatalf("next is %q", m.Data())
	}
	for subject, stream := range map[string]string{old: streams.Changes, there: "CHANGES-west"} {
		ack, err := b.JS.Publish(within(t), subject, []byte("new"))
		if err != nil || ack.Stream != stream {
			t.Fatalf("%s: %+v, %v", subject, ack, err)
		}
		if last, err := streams.LastSequence(within(t), b.Conn, stream, subject); err != nil || last != ack.Sequence {
			t.Fatalf("%s: the last is %d, %v, it was stored as %d", subject, last, err, ack.Sequence)
		}
	}
	if last, err := streams.LastSequence(within(t), b.Conn, "CHANGES-west", streams.Pool("west").ChangesSubject("db", "sda")); err != nil || last != 0 {
		t.Fatalf("of a subject without messages: %d, %v", last, err)
	}
	if m := next("CHANGES-west", streams.Pool("west").PartitionConsumer(n)); m.Subject() != there {
		t.Fatalf("pool west has a message of %s", m.Subject())
	}
	all, err := streams.Pools(within(t), b.JS)
	if err != nil || !slices.Equal(all, []streams.Pool{"", "west"}) {
		t.Fatalf("pools %q, %v", all, err)
	}
}
