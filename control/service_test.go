package control

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// lab is a real bus, a real vault and a service over both.
type lab struct {
	*testing.T
	bus   *bus.Bus
	vault *vaulttest.Vault
	dir   string

	notifyEvery time.Duration // if set
	tidyEvery   time.Duration // if set
}

var web = vault.DiskID{Machine: "web", Disk: "sda"}

func newLab(t *testing.T) *lab {
	return &lab{T: t, bus: streamstest.Start(t), vault: vaulttest.New(t), dir: t.TempDir()}
}

// patience is for a busy machine.
const patience = 2 * time.Minute

// start runs a service; stop may be called early.
func (l *lab) start() (s *Service, stop func()) {
	l.Helper()
	cfg := Default()
	cfg.Dir = l.dir
	cfg.DrillEvery = 50 * time.Millisecond
	if l.tidyEvery > 0 {
		cfg.TidyEvery = l.tidyEvery
	}
	if l.notifyEvery > 0 {
		cfg.NotifyEvery = l.notifyEvery
	}
	s, err := New(cfg, l.bus, l.vault.Vault, slog.New(slog.NewTextHandler(l.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		l.Fatal(err)
	}
	if err := s.Start(l.Context()); err != nil {
		l.Fatal(err)
	}
	done := false
	stop = func() {
		if !done {
			done = true
			if err := s.Stop(context.Background()); err != nil {
				l.Error(err)
			}
		}
	}
	l.Cleanup(stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		l.Fatal("the service does not get ready")
	}
	return s, stop
}

func publish(l *lab, subject string, b []byte, err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
	if _, err := l.bus.JS.Publish(l.Context(), subject, b); err != nil {
		l.Fatal(err)
	}
}

func encoded[M interface {
	*wire.Marker | *wire.Receipt | *wire.Event
}](l *lab, subject string, m M) {
	l.Helper()
	var b []byte
	var err error
	switch m := any(m).(type) {
	case *wire.Marker:
		b, err = wire.Encode(m)
	case *wire.Receipt:
		b, err = wire.Encode(m)
	case *wire.Event:
		b, err = wire.Encode(m)
	}
	publish(l, subject, b, err)
}

func (l *lab) receipt(id vault.DiskID, at vault.Position) {
	l.Helper()
	encoded(l, streams.ReceiptsSubject(id.Machine, id.Disk), &wire.Receipt{
		Machine: id.Machine, Disk: id.Disk, Epoch: at.Epoch, Number: at.Number, Size: vaulttest.Size, Time: time.Now().UnixNano(),
	})
}

func (l *lab) marker(id string, disk vault.DiskID, at vault.Position) {
	l.Helper()
	encoded(l, streams.MarkersSubject(disk.Machine), &wire.Marker{
		ID: id, Group: disk.Machine, Time: time.Now().UnixNano(), Consistency: wire.Crash, Frozen: int64(3 * time.Millisecond),
		Members: []wire.Member{{
			Machine: disk.Machine, Facts: wire.Facts{Host: "web.example", CPUs: 2, Memory: 1 << 30, Firmware: "bios"},
			Disks: []wire.DiskCut{{Disk: disk.Disk, Epoch: at.Epoch, Number: at.Number, Size: vaulttest.Size, Frozen: true}},
		}},
	})
}

func (l *lab) event(kind string, s wire.Severity) {
	l.Helper()
	encoded(l, streams.EventsSubject("web", kind), &wire.Event{
		Time: time.Now().UnixNano(), Machine: "web", Disk: "sda", Kind: kind, Severity: s, What: "it happened",
	})
}

// eventually polls until ok, or fails the test saying what was wanted.
func (l *lab) eventually(what string, ok func() bool) {
	l.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			l.Fatalf("not in time: %s", what)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-l.Context().Done():
			l.Fatal(l.Context().Err())
		}
	}
}

func (l *lab) unacked() int {
	c, err := l.bus.JS.Consumer(l.Context(), streams.Markers, MarkersConsumer)
	if err != nil {
		l.Fatal(err)
	}
	i, err := c.Info(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return i.NumAckPending + int(i.NumPending)
}

func ids(t *testing.T, s *Service, machine string) string {
	all, err := s.Points(t.Context(), api.Query{Machine: machine})
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, p := range all {
		out = append(out, p.ID)
	}
	return strings.Join(out, " ")
}

func TestMarkerBecomesAPoint(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	at := vault.Position{Epoch: 1, Number: 4} // where the cut will be
	l.marker("p1", web, at)
	l.eventually("the marker is pending", func() bool { return s.decider.pending() == 1 })
	if _, err := l.vault.Vault.Point(t.Context(), "p1"); err == nil {
		t.Fatal("listed before the vault has it")
	}
	if got := l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7, 2: 8}); got != at {
		t.Fatalf("the cut is at %v", got)
	}
	l.receipt(web, at)
	l.eventually("p1 is listed", func() bool { return ids(t, s, "web") == "p1" })
	p, err := l.vault.Vault.Point(t.Context(), "p1")
	if err != nil {
		t.Fatal(err)
	}
	d := p.Machines[0].Disks[0]
	if p.Frozen != 3*time.Millisecond || p.Machines[0].Memory != 1<<30 || d.At != at || d.Digest != l.vault.Head(web).Digest || d.Size != vaulttest.Size || !d.Frozen {
		t.Errorf("the point is %+v", p)
	}
	l.eventually("the marker is acknowledged", func() bool { return l.unacked() == 0 })
	l.eventually("an event tells of it", func() bool {
		all, err := s.Events(t.Context(), api.Query{Kind: "point"})
		return err == nil && len(all) == 1 && all[0].Machine == "web" && strings.Contains(all[0].What, "p1")
	})
	all, err := s.Machines(t.Context(), api.Query{})
	if err != nil || len(all) != 1 {
		t.Fatalf("machines: %+v, %v", all, err)
	}
	m := all[0]
	if m.Host != "web.example" || m.Points != 1 || m.LatestPoint.ID != "p1" || m.RPO == nil || *m.RPO > patience.Seconds() || len(m.Disks) != 1 {
		t.Errorf("machine is %+v", m)
	}
	k := m.Disks[0]
	if k.Capture != "scan" || k.Guarantee == "" || k.Epoch != 1 || k.Number != 4 || k.SizeBytes != vaulttest.Size || *k.BacklogMessages != 0 {
		t.Errorf("disk is %+v", k)
	}
	if _, err := s.Points(t.Context(), api.Query{Machine: "mail"}); api.AsError(err).Code != api.CodeNotFound {
		t.Errorf("points of an unknown machine: %v", err)
	}
	if p, err := s.Point(t.Context(), "p"); err != nil || p.ID != "p1" {
		t.Errorf("point by the start of its id: %v, %v", p, err)
	}
}

func TestAbandonedMarker(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	first := l.vault.Write(t, web, "p0", "web", false, map[int]byte{1: 7})
	l.marker("p1", web, vault.Position{Epoch: first.Epoch, Number: first.Number + 5}) // lost with the agent
	second := l.vault.Write(t, web, "p2", "web", true, map[int]byte{1: 9})
	l.receipt(web, second)
	l.eventually("an event tells why", func() bool {
		all, err := s.Events(t.Context(), api.Query{Kind: health.Abandoned})
		return err == nil && len(all) == 1 && strings.Contains(all[0].What, "p1 will not exist") && all[0].Severity == "info"
	})
	l.eventually("the marker is acknowledged", func() bool { return l.unacked() == 0 })
	if got := ids(t, s, "web"); got != "" {
		t.Errorf("listed: %s", got)
	}
}

// Everything control knows is rebuilt, and what was pending is decided.
func TestRestartDecidesWhatWasPending(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, stop := l.start()
	a := l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7})
	l.marker("p1", web, a)
	l.receipt(web, a)
	l.event(health.Resync, wire.Warning)
	b := vault.Position{Epoch: 1, Number: a.Number + 3}
	l.marker("p2", web, b)
	l.eventually("p1 is decided, p2 is not", func() bool { return l.unacked() == 1 })
	stop()
	// While it is away the vault gets on, and the receipt is lost.
	if got := l.vault.Write(t, web, "p2", "web", false, map[int]byte{2: 9}); got != b {
		t.Fatalf("the cut is at %v", got)
	}
	s, _ := l.start()
	l.eventually("p2 is listed", func() bool { return ids(t, s, "web") == "p1 p2" })
	l.eventually("the resync is over", func() bool {
		all, err := s.Machines(t.Context(), api.Query{})
		return err == nil && len(all[0].Issues) == 0
	})
	all, err := s.Events(t.Context(), api.Query{Kind: health.Resync})
	if err != nil || len(all) != 1 {
		t.Errorf("events before the start: %v, %v", all, err)
	}
	// The marker is acknowledged when it is delivered again, after AckWait: not waited for.
}

// A crash between listing a point and acknowledging its marker.
func TestListedTwice(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	at := l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7})
	l.marker("p1", web, at)
	s, stop := l.start()
	l.receipt(web, at)
	l.eventually("p1 is listed", func() bool { return ids(t, s, "web") == "p1" })
	stop()
	if err := l.bus.JS.DeleteConsumer(t.Context(), streams.Markers, MarkersConsumer); err != nil {
		t.Fatal(err) // forget every acknowledgement
	}
	s, _ = l.start()
	l.eventually("the marker is acknowledged again", func() bool { return l.unacked() == 0 })
	all, bad, err := l.vault.Points(t.Context(), "")
	if err != nil || len(all) != 1 || len(bad) != 0 || ids(t, s, "web") != "p1" {
		t.Errorf("points: %v %v %v", all, bad, err)
	}
}

func TestUnbelievableMessages(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	for _, subject := range []string{"leeward.markers.web", "leeward.receipts.web.sda", "leeward.events.web.tea"} {
		if _, err := l.bus.JS.Publish(t.Context(), subject, []byte("\x97nonsense")); err != nil {
			t.Fatal(err)
		}
	}
	// A receipt on another disk's subject.
	encoded(l, "leeward.receipts.mail.sda", &wire.Receipt{Machine: "web", Disk: "sda", Epoch: 9, Number: 9})
	// A copy that somebody had the server send there.
	b, err := wire.Encode(&wire.Receipt{Machine: "web", Disk: "sda", Epoch: 9, Number: 9, Size: vaulttest.Size, Time: 1})
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("leeward.receipts.web.sda")
	m.Data, m.Header = b, nats.Header{"Nats-Stream": {"CHANGES"}, "Nats-Sequence": {"1"}}
	if _, err := l.bus.JS.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	l.eventually("four refusals are told", func() bool {
		all, err := s.Events(t.Context(), api.Query{Kind: "message-refused"})
		return err == nil && len(all) == 4
	})
	l.eventually("the marker is not delivered again", func() bool { return l.unacked() == 0 })
	if all, err := s.Machines(t.Context(), api.Query{Machine: "web"}); err != nil || len(all) != 0 {
		t.Errorf("a lie was believed: %+v, %v", all, err)
	}
}

func TestLeasesAreHeartbeats(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	lease, err := bus.AcquireLease(t.Context(), l.bus.JS, "web", "sda", bus.ThisProcess("instance-1"), bus.LeaseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	disk := func() api.Disk {
		all, err := s.Machines(t.Context(), api.Query{Machine: "web"})
		if err != nil || len(all) == 0 {
			return api.Disk{}
		}
		return all[0].Disks[0]
	}
	l.eventually("the agent is online", func() bool { return disk().Held && disk().Instance == "instance-1" })
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.eventually("the agent is offline", func() bool { return !disk().Held })
}

func TestSettleWaitsForTheVault(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	at := l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7})
	l.receipt(web, at)
	l.eventually("the disk is known", func() bool { return s.state.knows("web") })
	if _, err := l.bus.JS.Publish(t.Context(), streams.ChangesSubject("web", "sda"), []byte("a change")); err != nil {
		t.Fatal(err)
	}
	l.marker("p1", web, at)
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := s.settle(short, "web"); err == nil {
		t.Fatal("settled with a change on the bus")
	}
	st, err := l.bus.JS.Stream(t.Context(), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.settle(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, s, "web"); got != "p1" {
		t.Errorf("settled, and the points are %q", got)
	}
}

// The whole way over the bus: client, service, job.
func TestFailoverOverTheAPI(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.vault.Point(t, "p1", "web", "crash", time.Now())
	s, _ := l.start()
	srv, err := api.Serve(l.bus.Conn, s, "1.2.3", slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop(context.Background())
	c := api.NewClient(l.bus.Conn)
	r := failover.Request{ID: "r1", Machine: "web", Target: "qemu", Options: failover.Options{Serial: "hello"}, Point: "no-such-point"}
	j, err := c.Test(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for j.State.Running() {
		if j, err = c.WatchJob(t.Context(), j.ID, j.Revision); err != nil {
			t.Fatal(err)
		}
	}
	if j.State != failover.Failed || !strings.Contains(j.Error, "no-such-point") {
		t.Errorf("job is %+v", j)
	}
	l.eventually("an event tells of it", func() bool {
		all, err := c.Events(t.Context(), api.Query{Kind: "test-failover"})
		return err == nil && len(all) == 1 && all[0].Severity == "warning"
	})
	if j, err = c.Cleanup(t.Context(), j.ID); err != nil || j.State != failover.Cleaned {
		t.Errorf("cleanup: %+v, %v", j, err)
	}
	for name, bad := range map[string]failover.Request{
		"not_found": {Machine: "mail", Target: "qemu", Options: failover.Options{Serial: "x"}},
		"usage":     {Machine: "web", Target: "moon", Options: failover.Options{Serial: "x"}},
	} {
		if _, err := c.Test(t.Context(), bad); err == nil || string(api.AsError(err).Code) != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	st, err := c.Status(t.Context())
	if err != nil || !st.Ready || st.Points != 1 || st.Machines != 1 || st.Vault.ID != l.vault.ID() {
		t.Errorf("status: %+v, %v", st, err)
	}
	v, err := c.Vault(t.Context())
	if err != nil || fmt.Sprint(v.Disks) != "[web/sda]" {
		t.Errorf("vault: %+v, %v", v, err)
	}
}

func TestEventsHaveHeadersAndAreSaidOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	s.publish(t.Context(), "once", &wire.Event{Time: 1, Machine: "web", Kind: "tea", Severity: wire.Info, What: "tea"})
	s.publish(t.Context(), "once", &wire.Event{Time: 1, Machine: "web", Kind: "tea", Severity: wire.Info, What: "tea"})
	st, err := l.bus.JS.Stream(t.Context(), streams.Events)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetMsg(t.Context(), 1)
	if err != nil || m.Header.Get("Leeward-Event") != "tea" || st.CachedInfo().State.Msgs != 1 {
		t.Errorf("event: %+v, %v, %d messages", m, err, st.CachedInfo().State.Msgs)
	}
}
