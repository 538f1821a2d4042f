package embed

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// Who is revoked is cut off at once and never let in again, not after a restart
// either; others notice nothing.
func TestRevoke(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := start(t, c)
	a, err := s.Authority(within(t))
	if err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	token, err := a.Issue("web1", public, nil)
	if err != nil {
		t.Fatal(err)
	}
	user := nats.UserJWT(func() (string, error) { return token, nil }, kp.Sign)
	closed := make(chan struct{})
	nc, err := nats.Connect(s.ClientURL(), user, nats.Timeout(patience), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	other, _ := enrolled(t, s, "db1")
	if err := a.Revoke(within(t), public); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("the revoked user is still connected")
	}
	refused := func(s *Server) {
		t.Helper()
		nc, err := nats.Connect(s.ClientURL(), user, nats.Timeout(patience))
		if err == nil {
			nc.Close()
			t.Fatal("the revoked user is let in")
		}
		if !errors.Is(err, nats.ErrAuthorization) && !errors.Is(err, nats.ErrAuthRevoked) {
			t.Errorf("%v", err)
		}
	}
	refused(s)
	if err := other.FlushTimeout(patience); err != nil {
		t.Errorf("another machine: %v", err)
	}
	// Again is no change, and another one does not end the first.
	if err := a.Revoke(within(t), public); err != nil {
		t.Error(err)
	}
	gone, key := enrolled(t, s, "web2")
	gone.Close()
	if err := a.Revoke(within(t), key); err != nil {
		t.Error(err)
	}
	refused(s)
	stop(t, s)
	s = start(t, c)
	refused(s)
	if a, err = s.Authority(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := a.Refresh(within(t)); err != nil {
		t.Fatal(err)
	}
	refused(s)
	if _, err := a.Issue("web1", "not a key", nil); err == nil {
		t.Error("issued for nonsense")
	}
	if _, err := a.Issue("a.b", public, nil); err == nil {
		t.Error("issued for a name that is none")
	}
	if _, err := a.Issue("web1", public, []string{"*"}); err == nil {
		t.Error("issued for a group that is all groups")
	}
}

// A server sends answers wherever a request says. Nobody outside the account of
// the streams reaches a subject that way which is not its own: no stream is emptied
// or deleted, and what arrives elsewhere is marked as a copy.
func TestAnswersSentElsewhere(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	op := ensured(t, s)
	m, own := enrolledAs(t, s, "web1"), streams.ChangesSubject("web1", "sda")
	heard, err := op.Conn.SubscribeSync("leeward.>")
	if err != nil {
		t.Fatal(err)
	}
	// Control and process servers answer whatever they are asked.
	for _, subject := range []string{"leeward.api.>", "leeward.sums.>"} {
		if _, err := op.Conn.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond([]byte("{}")) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, subject := range []string{"leeward.events.m.k", streams.ReceiptsSubject("web1", "sda"), streams.MarkersSubject("web1")} {
		if _, err := op.JS.Publish(within(t), subject, []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	// What an agent stores, it can have copied. The header is what the server takes
	// for its own note of who asks.
	forged := nats.NewMsg(own)
	forged.Data = []byte("{}")
	forged.Header.Set("Nats-Request-Info", `{"acc":"`+s.trust.Core()+`"}`)
	if _, err := m.RequestMsgWithContext(within(t), forged); err != nil {
		t.Fatal(err)
	}
	asks := map[*nats.Conn][]string{
		m:                  {own, "leeward.sums.01.web1.sda", "$JS.API.INFO", "$JS.API.STREAM.INFO.CHANGES", "$JS.API.DIRECT.GET.CHANGES." + own, "$JS.API.DIRECT.GET.RECEIPTS.leeward.receipts.web1.sda"},
		dial(t, s, Agent):  {streams.ChangesSubject("db1", "sda"), "leeward.markers.db1"},
		dial(t, s, Tap):    {"$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.EVENTS", "$JS.API.DIRECT.GET.EVENTS.leeward.events.m.k"},
		dial(t, s, Viewer): {"leeward.api.status.show", "$SRV.PING", "$JS.API.INFO"},
		dial(t, s, Tester): {"leeward.api.failover.test"},
	}
	victims := []string{
		"$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.PURGE.CHANGES", "$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.DELETE.CHANGES", "$JS.API.CONSUMER.DELETE.CHANGES.process-01",
		streams.ReceiptsSubject("db1", "sda"), streams.ChangesSubject("db1", "sdb"), streams.MarkersSubject("erp"), "leeward.events.erp.x", "leeward.api.failover.start", "$KV.LEEWARD_LEASES.erp.sda",
	}
	for nc, subjects := range asks {
		for _, ask := range subjects {
			for _, victim := range victims {
				if err := nc.PublishRequest(ask, victim, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := nc.FlushTimeout(patience); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.RequestWithContext(within(t), streams.ChangesSubject("web1", "last"), nil); err != nil {
		t.Fatal(err)
	}
	for {
		g, err := heard.NextMsg(patience)
		if err != nil {
			t.Fatal(err)
		}
		if g.Subject == streams.ChangesSubject("web1", "last") {
			break
		}
		if slices.Contains(victims, g.Subject) && !streams.Copied(g.Header) {
			t.Errorf("an answer came out on %s: %q, %v", g.Subject, g.Data, g.Header)
		}
	}
	for name, want := range map[string]uint64{streams.Events: 1, streams.Changes: 2, streams.Receipts: 1} {
		st, err := op.JS.Stream(within(t), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		i := st.CachedInfo().State
		if i.Msgs < want || i.FirstSeq != 1 {
			t.Errorf("%s was emptied: %+v", name, i)
		}
		if name == streams.Changes && i.Consumers != streams.Partitions {
			t.Errorf("%d consumers left", i.Consumers)
		}
	}
}

func enrolledAs(t *testing.T, s *Server, machine string) *nats.Conn {
	t.Helper()
	nc, _ := enrolled(t, s, machine)
	return nc
}

// Servers of one's own that run from what ServerConfig prints judge the same
// users, and a revocation that one of them is told reaches all.
func TestOwnCluster(t *testing.T) {
	t.Parallel()
	tr, err := trust.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*server.Server
	route := ""
	for i := range 2 {
		text, err := tr.ServerConfig(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		o := &server.Options{}
		if err := o.ProcessConfigString(text + fmt.Sprintf("server_name: n%d\nlisten: 127.0.0.1:-1\ncluster { name: c, listen: 127.0.0.1:-1, routes: [%s] }\n", i, route)); err != nil {
			t.Fatal(err)
		}
		o.NoSigs, o.NoLog = true, true
		ns, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		ns.Start()
		t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
		if !ns.ReadyForConnections(patience) {
			t.Fatal("a server does not start")
		}
		route = fmt.Sprintf("%q", "nats://"+ns.ClusterAddr().String())
		nodes = append(nodes, ns)
	}
	for end := time.Now().Add(patience); nodes[0].NumRoutes() == 0 || nodes[1].NumRoutes() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no cluster")
		}
	}
	sys, err := bus.Connect(within(t), bus.Options{URL: nodes[0].ClientURL(), CredsFile: tr.SystemCreds()})
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close()
	a := tr.Authority(sys.Conn)
	if err := a.Refresh(within(t)); err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	token, err := a.Issue("web1", public, nil)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(nodes[1].ClientURL(), nats.UserJWT(func() (string, error) { return token, nil }, kp.Sign), nats.Timeout(patience), nats.NoReconnect(),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for subject, want := range map[string]bool{"leeward.changes.01.web1.sda": true, "leeward.changes.01.db1.sda": false} {
		if got := allowed(t, nc, subject, func() error { return nc.Publish(subject, nil) }); got != want {
			t.Errorf("%s: %v", subject, got)
		}
	}
	if err := a.Revoke(within(t), public); err != nil {
		t.Fatal(err)
	}
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("still connected to the other server")
	}
}
