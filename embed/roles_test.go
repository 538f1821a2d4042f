package embed

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// dial makes a raw connection as a role.
func dial(t *testing.T, s *Server, r Role) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL(), nats.UserCredentials(s.CredsFile(r)), nats.CustomInboxPrefix(bus.InboxPrefix(public(t, s, r))), nats.Timeout(patience),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// public is the public key of a role's ready user.
func public(t *testing.T, s *Server, r Role) string {
	t.Helper()
	key, err := s.trust.PublicKey(r)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// allowed does something with subject and reports whether the server let it pass.
func allowed(t *testing.T, nc *nats.Conn, subject string, do func() error) bool {
	t.Helper()
	if err := do(); err != nil {
		t.Fatal(err)
	}
	// A refusal comes before the answer to this one and is noted when it is read.
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	err := nc.LastError()
	return !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), ` to "`+subject+`"`)
}

const (
	change  = "leeward.changes.01.m.d"
	lease   = "$KV.LEEWARD_LEASES.m.d"
	receipt = "leeward.receipts.m.d"
)

func TestWhoMayPublish(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	yes, no := map[Role][]string{}, map[Role][]string{}
	yes[Admin] = []string{change, receipt, "leeward.markers.g", "leeward.events.m.k", lease, "$JS.API.STREAM.PURGE.X", "anything.else"}
	yes[Agent] = []string{
		change, "leeward.markers.g", "leeward.events.m.k", "leeward.sums.01.m.d", lease, "leeward.barrier.m.report", "leeward.policy.m.ask",
		"$JS.API.STREAM.INFO.CHANGES", "$JS.API.STREAM.INFO.RECEIPTS", "$JS.API.STREAM.INFO.KV_LEEWARD_LEASES",
		"$JS.API.DIRECT.GET.RECEIPTS." + receipt, "$JS.API.DIRECT.GET.CHANGES." + change, "$JS.API.DIRECT.GET.KV_LEEWARD_LEASES." + lease,
	}
	no[Agent] = []string{
		receipt, "leeward.barrier.m.order", "leeward.policy.m.set", "leeward.tap.changes.01.m.d", "leeward.other", "anything.else", "_INBOX.x", "$KV.OTHER.x", "$SYS.REQ.SERVER.PING",
		"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.DELETE.CHANGES", "$JS.API.STREAM.PURGE.CHANGES", "$JS.API.STREAM.UPDATE.CHANGES",
		"$JS.API.STREAM.MSG.DELETE.CHANGES", "$JS.API.CONSUMER.CREATE.CHANGES.x", "$JS.API.CONSUMER.CREATE.RECEIPTS.x", "$JS.API.CONSUMER.DURABLE.CREATE.CHANGES.x",
		"$JS.API.CONSUMER.MSG.NEXT.CHANGES.process-01", "$JS.API.CONSUMER.DELETE.CHANGES.process-01", "$JS.API.CONSUMER.CREATE.KV_LEEWARD_LEASES.x",
		"$JS.API.STREAM.PURGE.KV_LEEWARD_LEASES", "$JS.ACK.CHANGES.process-01.1.1.1.1.1",
	}
	yes[Tap] = []string{
		"$SYS.REQ.USER.INFO", "$JS.API.INFO", "$JS.API.STREAM.INFO.CHANGES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.LIST.CHANGES", "$JS.API.CONSUMER.INFO.CHANGES.process-01",
		"$JS.API.DIRECT.GET.KV_LEEWARD_LEASES." + lease,
	}
	no[Tap] = []string{
		"leeward.barrier.m.order", "leeward.barrier.m.report", change, receipt, "leeward.markers.g", "leeward.events.m.k", "leeward.sums.01.m.d", lease, "anything.else", "_INBOX.x", "leeward.tap.changes.01.m.d", "$SYS.REQ.SERVER.PING",
		"$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.UPDATE.EVENTS", "$JS.API.STREAM.MSG.DELETE.EVENTS",
		"$JS.API.STREAM.MSG.GET.CHANGES", "$JS.API.DIRECT.GET.CHANGES." + change, "$JS.API.CONSUMER.CREATE.CHANGES.x", "$JS.API.CONSUMER.MSG.NEXT.CHANGES.process-01",
		"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.x", "$JS.API.CONSUMER.DELETE.EVENTS.x", "$JS.API.CONSUMER.DELETE.MARKERS.control-markers", "$JS.API.CONSUMER.PAUSE.EVENTS.x",
		"$JS.API.CONSUMER.CREATE.MARKERS.control-markers", "$JS.API.CONSUMER.CREATE.MARKERS.control-markers.leeward.markers.g",
		"$JS.API.CONSUMER.MSG.NEXT.MARKERS.control-markers", "$JS.ACK.MARKERS.control-markers.1.1.1.1.1", "$JS.ACK.CHANGES.process-01.1.1.1.1.1",
	}
	for _, st := range []string{"MARKERS", "RECEIPTS", "EVENTS"} {
		yes[Tap] = append(yes[Tap], "$JS.API.DIRECT.GET."+st, "$JS.API.STREAM.MSG.GET."+st)
		// A consumer could be told to deliver anywhere.
		no[Tap] = append(no[Tap], "$JS.API.CONSUMER.CREATE."+st+".x", "$JS.API.CONSUMER.CREATE."+st+".x.leeward.>",
			"$JS.API.CONSUMER.MSG.NEXT."+st+".x", "$JS.ACK."+st+".x.1.1.1.1.1")
	}
	for r := range yes {
		nc := dial(t, s, r)
		for want, list := range map[bool][]string{true: yes[r], false: no[r]} {
			for _, subject := range list {
				if allowed(t, nc, subject, func() error { return nc.Publish(subject, nil) }) != want {
					t.Errorf("%s publishes %s: allowed must be %v", r, subject, want)
				}
			}
		}
	}
}

func TestWhoMaySubscribe(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	own := func(r Role) string { return bus.InboxPrefix(public(t, s, r)) + ".x.y" }
	yes, no := map[Role][]string{}, map[Role][]string{}
	yes[Admin] = []string{">", "leeward.>", "leeward.changes.>", own(Agent)}
	yes[Agent] = []string{receipt, "leeward.receipts.m.>", "leeward.markers.g", "leeward.barrier.m.order", "leeward.policy.m.set", own(Agent)}
	no[Agent] = []string{"leeward.barrier.m.report", "leeward.policy.m.ask", change, "leeward.changes.>", "leeward.>", ">", "leeward.tap.>", "leeward.events.>", "leeward.sums.01.m.d", "_INBOX.>", own(Admin), own(Tap), "$KV.>", "$JS.>", "leeward.*.m.d"}
	yes[Tap] = []string{"leeward.>", receipt, "leeward.tap.>", "leeward.events.>", own(Tap)}
	no[Tap] = []string{change, "leeward.changes.>", "leeward.sums.>", "leeward.sums.01.m.d", ">", "*.>", "_INBOX.>", own(Agent), "$JS.>", "$KV.>", "$SYS.>"}
	for r := range yes {
		nc := dial(t, s, r)
		for want, list := range map[bool][]string{true: yes[r], false: no[r]} {
			for _, subject := range list {
				if allowed(t, nc, subject, func() error { _, err := nc.SubscribeSync(subject); return err }) != want {
					t.Errorf("%s subscribes to %s: allowed must be %v", r, subject, want)
				}
			}
		}
	}
	// A tap stands in no queue, or it would take requests from those who answer.
	tap := dial(t, s, Tap)
	for _, subject := range []string{"leeward.>", "leeward.*.>", receipt, "leeward.sums.01.m.d"} {
		if allowed(t, tap, subject, func() error { _, err := tap.QueueSubscribeSync(subject, "leeward-process"); return err }) {
			t.Errorf("tap joins a queue on %s", subject)
		}
	}
}

// A tap on everything sees of a change that it happened, and not its contents.
func TestTapSeesHeaders(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	op := ensured(t, s)
	worker := connect(t, s, Process)
	tap := connect(t, s, Tap)
	sub, err := tap.Conn.SubscribeSync("leeward.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := tap.Conn.Flush(); err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg(streams.ChangesSubject("m", "d"))
	m.Data = []byte("what stands on the disk")
	m.Header.Set("Leeward-Kind", "block")
	if _, err := op.JS.PublishMsg(within(t), m); err != nil {
		t.Fatal(err)
	}
	// As process servers do.
	told := nats.NewMsg(streams.TapSubject(m.Subject))
	told.Header = m.Header
	if err := worker.Conn.PublishMsg(told); err != nil {
		t.Fatal(err)
	}
	if err := worker.Conn.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if _, err := op.JS.Publish(within(t), receipt, []byte("all")); err != nil {
		t.Fatal(err)
	}
	first, err := sub.NextMsg(patience)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(first.Subject, "leeward.tap.changes.") || len(first.Data) != 0 || first.Header.Get("Leeward-Kind") != "block" {
		t.Errorf("%s %v %q", first.Subject, first.Header, first.Data)
	}
	second, err := sub.NextMsg(patience)
	if err != nil || second.Subject != receipt || string(second.Data) != "all" {
		t.Errorf("%+v, %v", second, err)
	}
	if more, err := sub.NextMsg(50 * time.Millisecond); err == nil {
		t.Errorf("and %s", more.Subject)
	}
}

// What an agent does in its life works with an agent's key.
func TestAgentsDay(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	op := ensured(t, s)
	a, err := bus.Connect(within(t), bus.Options{Context: s.ContextFile(Agent)})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	l, err := bus.AcquireLease(within(t), a.JS, "m", "d", bus.ThisProcess("one"), bus.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.AcquireLease(within(t), a.JS, "m", "d", bus.ThisProcess("two"), bus.LeaseOptions{}); !errors.Is(err, bus.ErrHeld) {
		t.Errorf("%v", err)
	}
	heard, err := a.Conn.SubscribeSync(receipt)
	if err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{streams.ChangesSubject("m", "d"), streams.MarkersSubject("g"), streams.EventsSubject("m", "point")} {
		if _, err := a.JS.Publish(within(t), subject, []byte("x"), jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
			t.Errorf("%s: %v", subject, err)
		}
	}
	if _, err := op.JS.Publish(within(t), receipt, []byte("got it")); err != nil {
		t.Fatal(err)
	}
	if m, err := heard.NextMsg(patience); err != nil || string(m.Data) != "got it" {
		t.Errorf("receipt: %v", err)
	}
	for name, subject := range map[string]string{streams.Receipts: receipt, streams.Changes: streams.ChangesSubject("m", "d")} {
		st, err := a.JS.Stream(within(t), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.GetLastMsgForSubject(within(t), subject); err != nil {
			t.Errorf("last of %s: %v", subject, err)
		}
	}
	answer, err := op.Conn.QueueSubscribe(streams.SumsPartition(streams.Partition("m", "d")), "leeward-process", func(m *nats.Msg) { _ = m.Respond([]byte("sums")) })
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Unsubscribe() //nolint:errcheck // the connection goes too
	if err := op.Conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Conn.RequestWithContext(within(t), streams.SumsSubject("m", "d"), nil); err != nil || string(m.Data) != "sums" {
		t.Errorf("sums: %v", err)
	}
	if err := l.Release(within(t)); err != nil {
		t.Error(err)
	}
}

// A tap reads the small streams by direct get.
func TestTapReads(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	op := ensured(t, s)
	if _, err := op.JS.Publish(within(t), "leeward.events.m.k", []byte("x")); err != nil {
		t.Fatal(err)
	}
	tap := connect(t, s, Tap)
	st, err := tap.JS.Stream(within(t), streams.Events)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := st.GetLastMsgForSubject(within(t), "leeward.events.m.k"); err != nil || string(m.Data) != "x" {
		t.Errorf("direct get: %v", err)
	}
}
