package bus_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// heard collects what a Follower hands over.
type heard struct {
	mu  sync.Mutex
	all []string
}

func (h *heard) take(m jetstream.Msg) {
	h.mu.Lock()
	h.all = append(h.all, string(m.Data()))
	h.mu.Unlock()
}

func (h *heard) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

// await waits until exactly these messages were handed over.
func (h *heard) await(t *testing.T, want ...string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got := h.list()
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("handed over %v, want %v", got, want)
		}
	}
}

// insist publishes until JetStream has it; a server may just be away.
func insist(t *testing.T, js jetstream.JetStream, subject, text string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		_, err := js.Publish(ctx, subject, []byte(text), jetstream.WithMsgID(text))
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func follow(t *testing.T, js jetstream.JetStream, o bus.FollowOptions) (*bus.Follower, *heard) {
	t.Helper()
	h := &heard{}
	f, err := bus.Follow(within(t), js, streams.Receipts, o, h.take)
	if err != nil {
		t.Fatal(err)
	}
	return f, h
}

func TestFollowFromWhere(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	js := s.Bus().JS
	for i, disk := range []string{"a", "b", "a", "c"} {
		insist(t, js, streams.ReceiptsSubject("web", disk), fmt.Sprint(disk, i))
	}
	last, lastHeard := follow(t, js, bus.FollowOptions{Name: "last", Policy: jetstream.DeliverLastPerSubjectPolicy})
	all, allHeard := follow(t, js, bus.FollowOptions{Name: "all", Policy: jetstream.DeliverAllPolicy})
	third, thirdHeard := follow(t, js, bus.FollowOptions{Name: "third", Policy: jetstream.DeliverByStartSequencePolicy, Start: 3})
	insist(t, js, streams.ReceiptsSubject("web", "b"), "b4")
	lastHeard.await(t, "b1", "a2", "c3", "b4")
	allHeard.await(t, "a0", "b1", "a2", "c3", "b4")
	thirdHeard.await(t, "a2", "c3", "b4")
	for _, f := range []*bus.Follower{last, all, third} {
		f.Stop()
	}
	insist(t, js, streams.ReceiptsSubject("web", "b"), "b5")
	allHeard.await(t, "a0", "b1", "a2", "c3", "b4")
	st, err := js.Stream(within(t), streams.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	if n := st.CachedInfo().State.Consumers; n != 0 {
		t.Errorf("%d consumers are left", n)
	}
}

// A server that was away and a consumer that was deleted cost nothing, and nothing comes
// twice.
func TestFollowGoesOn(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	js, subject := s.Bus().JS, streams.ReceiptsSubject("web", "a")
	insist(t, js, subject, "1")
	f, h := follow(t, js, bus.FollowOptions{Name: "test", Policy: jetstream.DeliverLastPerSubjectPolicy})
	defer f.Stop()
	h.await(t, "1")
	s.Restart() // what it knew of consumers without memory is gone
	insist(t, js, subject, "2")
	h.await(t, "1", "2")
	st, err := js.Stream(within(t), streams.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	names := st.ConsumerNames(within(t))
	for name := range names.Name() {
		if err := st.DeleteConsumer(within(t), name); err != nil {
			t.Fatal(err)
		}
	}
	insist(t, js, subject, "3")
	h.await(t, "1", "2", "3")
}

// A stream that lost its newest messages gives their numbers again: what comes under
// them is new.
func TestFollowLostTail(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	js, subject := s.Bus().JS, streams.ReceiptsSubject("web", "a")
	for i := range 3 {
		insist(t, js, subject, fmt.Sprint("old", i))
	}
	f, h := follow(t, js, bus.FollowOptions{Name: "test", Policy: jetstream.DeliverAllPolicy})
	defer f.Stop()
	h.await(t, "old0", "old1", "old2")
	if err := js.DeleteStream(within(t), streams.Receipts); err != nil {
		t.Fatal(err)
	}
	if err := streams.Ensure(within(t), js, streams.Default()); err != nil {
		t.Fatal(err)
	}
	insist(t, js, subject, "new")
	h.await(t, "old0", "old1", "old2", "new")
}

// The node that has the consumer goes away: another one takes it, whichever it was.
func TestFollowInACluster(t *testing.T) {
	t.Parallel()
	c := streamstest.StartCluster(t)
	js, subject := c.Connect(0, "follower").JS, streams.ReceiptsSubject("web", "a")
	insist(t, js, subject, "1")
	var all []*heard
	at := map[string]bool{}
	for i := 0; len(at) < streamstest.Nodes && i < 30; i++ { // until each node has one
		f, h := follow(t, js, bus.FollowOptions{Name: "test", Policy: jetstream.DeliverLastPerSubjectPolicy})
		defer f.Stop()
		all = append(all, h)
		st, err := js.Stream(within(t), streams.Receipts)
		if err != nil {
			t.Fatal(err)
		}
		l := st.ListConsumers(within(t))
		for i := range l.Info() {
			at[i.Cluster.Leader] = true
		}
	}
	for _, h := range all {
		h.await(t, "1")
	}
	c.Kill(2)
	insist(t, js, subject, "2")
	for _, h := range all {
		h.await(t, "1", "2")
	}
}
