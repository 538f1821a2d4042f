package streams_test

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// layout reads back what the server made of our settings.
func layout(t *testing.T, js jetstream.JetStream) map[string]any {
	t.Helper()
	out := map[string]any{}
	ls := js.ListStreams(within(t))
	for info := range ls.Info() {
		out[info.Config.Name] = info.Config
	}
	if err := ls.Err(); err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(within(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	lc := s.ListConsumers(within(t))
	for info := range lc.Info() {
		out["consumer "+info.Name] = info.Config
	}
	if err := lc.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEnsureTwiceAndAtOnceAndAfterRestart(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	first := layout(t, s.Bus().JS)
	if n := len(first); n != 12+streams.Partitions {
		t.Fatalf("%d streams and consumers", n)
	}
	subject := streams.ChangesSubject("m", "d")
	if _, err := s.Bus().JS.Publish(within(t), subject, []byte("kept")); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := streams.Ensure(within(t), s.Bus().JS, streams.Default()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.Restart()
	if err := streams.Ensure(within(t), s.Bus().JS, streams.Default()); err != nil {
		t.Fatal(err)
	}
	if again := layout(t, s.Bus().JS); !reflect.DeepEqual(first, again) {
		t.Errorf("the layout changed:\n%+v\n%+v", first, again)
	}
	c, err := s.Bus().JS.Consumer(within(t), streams.Changes, streams.PartitionConsumer(streams.Partition("m", "d")).Durable)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Next(jetstream.FetchMaxWait(time.Minute), jetstream.FetchPriorityGroup(streams.AnyGroup))
	if err != nil || string(m.Data()) != "kept" {
		t.Fatalf("after the restart: %v", err)
	}
	// A message leaves the queue when it is acknowledged.
	if err := m.DoubleAck(within(t)); err != nil {
		t.Fatal(err)
	}
	st, err := s.Bus().JS.Stream(within(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	if n := st.CachedInfo().State.Msgs; n != 0 {
		t.Fatalf("%d messages left", n)
	}
}

func TestEnsureNewSize(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	c := streams.Default()
	c.ChangesBytes = 128 << 20
	if err := streams.Ensure(within(t), b.JS, c); err != nil {
		t.Fatal(err)
	}
	s, err := b.JS.Stream(within(t), streams.Changes)
	if err != nil || s.CachedInfo().Config.MaxBytes != c.ChangesBytes {
		t.Fatalf("%v, %v", s, err)
	}
	if err := streams.Ensure(within(t), b.JS, streams.Config{Replicas: 2, ChangesBytes: 1 << 30}); err == nil {
		t.Fatal("two replicas are accepted")
	}
}

// A full work queue refuses, says so in a way we recognise, keeps what it has,
// and takes more when something was drained.
func TestFullPushesBack(t *testing.T) {
	t.Parallel()
	s := streamstest.StartConfig(t, t.TempDir(), streams.Config{Replicas: 1, ChangesBytes: 64 << 20})
	js, subject := s.Bus().JS, streams.ChangesSubject("m", "d")
	payload := bytes.Repeat([]byte("x"), 1000<<10)
	publish := func(i int) error {
		_, err := js.Publish(within(t), subject, payload, jetstream.WithMsgID(fmt.Sprint(i)))
		return err
	}
	n := 0
	var err error
	for ; n < 70 && err == nil; n++ {
		err = publish(n)
	}
	if n < 60 || !streams.IsFull(err) || !streams.Retryable(err) {
		t.Fatalf("message %d: full %v: %v", n, streams.IsFull(err), err)
	}
	if _, err := js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: payload}); err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(within(t), streams.Changes, streams.PartitionConsumer(streams.Partition("m", "d")).Durable)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, err := c.Next(jetstream.FetchMaxWait(time.Minute), jetstream.FetchPriorityGroup(streams.AnyGroup))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.DoubleAck(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	// The refused message did not count as sent: the same id goes in now.
	if err := publish(n - 1); err != nil {
		t.Fatalf("after draining: %v", err)
	}
}

// What pushes back through the asynchronous publisher is recognised too.
func TestFullAsync(t *testing.T) {
	t.Parallel()
	s := streamstest.StartConfig(t, t.TempDir(), streams.Config{Replicas: 1, ChangesBytes: 64 << 20})
	payload := []byte("x") // what is full is a disk's part, of 64 messages: a disk that is busy delays no answer
	var acks []jetstream.PubAckFuture
	for range 70 {
		f, err := s.Bus().JS.PublishAsync(streams.ChangesSubject("m", "d"), payload)
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, f)
	}
	full := 0
	for _, f := range acks {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			if !streams.IsFull(err) {
				t.Fatalf("%v is not recognised", err)
			}
			full++
		case <-within(t).Done():
			t.Fatal("no answer")
		}
	}
	if full < 3 || full > 10 {
		t.Fatalf("%d of 70 refused", full)
	}
}

func TestNotRetryable(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	subject := streams.ChangesSubject("m", "d")
	if _, err := b.JS.Publish(within(t), subject, []byte("1")); err != nil {
		t.Fatal(err)
	}
	_, err := b.JS.Publish(within(t), subject, []byte("2"), jetstream.WithExpectLastSequencePerSubject(0))
	if err == nil || streams.Retryable(err) {
		t.Errorf("a fenced writer: %v", err)
	}
	_, err = b.JS.Publish(within(t), subject, make([]byte, streams.MaxMessage+1))
	if err == nil || streams.Retryable(err) {
		t.Errorf("a message that is too large: %v", err)
	}
	_, err = b.JS.Publish(within(t), "leeward.nowhere", nil)
	if err == nil || !streams.Retryable(err) {
		t.Errorf("no stream there (yet): %v", err)
	}
}

func TestServerAwayIsRetryable(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	s.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := s.Bus().JS.Publish(ctx, streams.ChangesSubject("m", "d"), []byte("1"))
	if err == nil || !streams.Retryable(err) {
		t.Fatalf("%v", err)
	}
	s.Restart()
	if _, err := s.Bus().JS.Publish(within(t), streams.ChangesSubject("m", "d"), []byte("2")); err != nil {
		t.Fatal(err)
	}
}

// A dedup window's worth of repeats stores a message once.
func TestRepeatIsStoredOnce(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	for i := range 3 {
		ack, err := b.JS.Publish(within(t), streams.ChangesSubject("m", "d"), []byte("x"), jetstream.WithMsgID("m/d/1/1"))
		if err != nil || ack.Duplicate != (i > 0) {
			t.Fatalf("publish %d: %+v, %v", i, ack, err)
		}
	}
}

// An appliance of an earlier version stops publishing again: process servers tell taps.
func TestEnsureEndsRepublishing(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	old := streams.Default().Streams()[0]
	old.RePublish = &jetstream.RePublish{Source: "leeward.changes.>", Destination: streams.TapPrefix + ">", HeadersOnly: true}
	if _, err := b.JS.UpdateStream(within(t), old); err != nil {
		t.Fatal(err)
	}
	sub, err := b.Conn.SubscribeSync(streams.TapPrefix + ">")
	if err != nil {
		t.Fatal(err)
	}
	subject := streams.ChangesSubject("m", "d")
	publish := func() {
		t.Helper()
		if _, err := b.JS.Publish(within(t), subject, []byte("secret")); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	m, err := sub.NextMsg(2 * time.Minute)
	if err != nil || m.Subject != streams.TapSubject(subject) || !strings.HasPrefix(m.Subject, streams.TapPrefix) {
		t.Fatalf("%+v, %v: the test itself does not hear", m, err)
	}
	if err := streams.Ensure(within(t), b.JS, streams.Default()); err != nil {
		t.Fatal(err)
	}
	publish()
	if m, err := sub.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("the server published on %s", m.Subject)
	}
	st, err := b.JS.Stream(within(t), streams.Changes)
	if err != nil || st.CachedInfo().Config.RePublish != nil || st.CachedInfo().State.Msgs != 2 {
		t.Errorf("%+v, %v", st.CachedInfo(), err)
	}
}

// An appliance of an earlier version gets the bound for each disk, with what it has in
// its stream.
func TestEnsureBoundsDisks(t *testing.T) {
	t.Parallel()
	s := streamstest.StartConfig(t, t.TempDir(), streams.Config{Replicas: 1, ChangesBytes: 64 << 20})
	js := s.Bus().JS
	if err := js.DeleteStream(within(t), streams.Changes); err != nil {
		t.Fatal(err)
	}
	c := streams.Config{Replicas: 1, ChangesBytes: 64 << 20}
	old := c.Streams()[0]
	old.MaxMsgsPerSubject, old.DiscardNewPerSubject = 0, false
	if _, err := js.CreateStream(within(t), old); err != nil {
		t.Fatal(err)
	}
	full, other := streams.ChangesSubject("full", "sda"), streams.ChangesSubject("other", "sda")
	for range 70 {
		if _, err := js.Publish(within(t), full, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	ensure := func(want int64) jetstream.Stream {
		t.Helper()
		if err := streams.Ensure(within(t), js, c); err != nil {
			t.Fatal(err)
		}
		st, err := js.Stream(within(t), streams.Changes)
		if err != nil || st.CachedInfo().Config.MaxMsgsPerSubject != want {
			t.Fatalf("a disk may have %d messages, want %d; %v", st.CachedInfo().Config.MaxMsgsPerSubject, want, err)
		}
		return st
	}
	st := ensure(-1)
	if n := st.CachedInfo().State.Msgs; n != 70 {
		t.Fatalf("of 70 messages %d are left", n)
	}
	if err := st.Purge(within(t), jetstream.WithPurgeKeep(60)); err != nil {
		t.Fatal(err)
	}
	ensure(64)
	for i := range 5 {
		_, err := js.Publish(within(t), full, []byte("x"))
		if i < 4 && err != nil || i == 4 && (!streams.IsFull(err) || !streams.Retryable(err)) {
			t.Errorf("message %d of a disk: %v", 61+i, err)
		}
	}
	if _, err := js.Publish(within(t), other, []byte("x")); err != nil {
		t.Errorf("another disk: %v", err)
	}
}
