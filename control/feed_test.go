package control

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// The active control is killed together with a node: the next one must not need what
// the first had there, above all not its consumer of RECEIPTS, which lived on one node.
func TestNextControlWithoutANode(t *testing.T) {
	t.Parallel()
	c := streamstest.StartCluster(t)
	first := &lab{T: t, bus: c.Connect(0, "first"), vault: vaulttest.New(t), dir: t.TempDir()}
	looker := c.Connect(1, "looker")
	_, stop := first.start()
	// Killed, it would leave its consumers behind. A connection that is closed does that.
	first.bus.Close()
	stop()
	st, err := looker.JS.Stream(t.Context(), streams.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	l := st.ListConsumers(t.Context())
	for info := range l.Info() {
		for i := range streamstest.Nodes {
			if info.Cluster.Leader == c.Name(i) {
				at = i
			}
		}
	}
	if l.Err() != nil || at < 0 {
		t.Fatalf("the first control has left no consumer of %s: %v", streams.Receipts, l.Err())
	}
	second := &lab{T: t, bus: c.Connect((at+1)%streamstest.Nodes, "second"), vault: first.vault, dir: t.TempDir()}
	pos := second.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7})
	second.marker("p1", web, pos)
	second.receipt(web, pos)
	c.Kill(at)
	s, _ := second.start()
	second.eventually("p1 is listed", func() bool { return ids(t, s, "web") == "p1" })
	p, err := s.Point(t.Context(), "p1")
	if err != nil || p.Listed.Sub(p.Time) > time.Minute {
		t.Errorf("the point is %+v, %v", p, err)
	}
}

// What is said is heard, also while no stream can take it.
func TestHearsWithoutStreams(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	for _, name := range []string{streams.Receipts, streams.Markers} {
		if err := l.bus.JS.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	at := l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7})
	say := func(subject string, b []byte, err error, header nats.Header) {
		t.Helper()
		if err == nil {
			err = l.bus.Conn.PublishMsg(&nats.Msg{Subject: subject, Data: b, Header: header})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	lie := &wire.Receipt{Machine: "web", Disk: "sda", Epoch: 9, Number: 9, Size: vaulttest.Size, Time: time.Now().Add(time.Hour).UnixNano()}
	b, err := wire.Encode(lie)
	say(streams.ReceiptsSubject("web", "sda"), b, err, nats.Header{"Nats-Stream": {"CHANGES"}, "Nats-Sequence": {"1"}}) // a copy
	say(streams.ReceiptsSubject("mail", "sda"), b, err, nil)                                                            // of another disk
	b, err = wire.Encode(&wire.Marker{ID: "p1", Group: "web", Time: time.Now().UnixNano(), Consistency: wire.Crash, Members: []wire.Member{{
		Machine: "web", Facts: wire.Facts{Host: "web.example", CPUs: 2, Memory: 1 << 30, Firmware: "bios"},
		Disks: []wire.DiskCut{{Disk: "sda", Epoch: at.Epoch, Number: at.Number, Size: vaulttest.Size, Frozen: true}},
	}}})
	say(streams.MarkersSubject("mail"), b, err, nil) // of another group
	say(streams.MarkersSubject("web"), b, err, nil)
	l.eventually("the marker was heard", func() bool { return s.decider.pending() == 1 })
	b, err = wire.Encode(&wire.Receipt{Machine: "web", Disk: "sda", Epoch: at.Epoch, Number: at.Number, Size: vaulttest.Size, Time: time.Now().UnixNano()})
	say(streams.ReceiptsSubject("web", "sda"), b, err, nil)
	l.eventually("p1 is listed", func() bool { return ids(t, s, "web") == "p1" })
	all, err := s.Machines(t.Context(), api.Query{})
	if err != nil || len(all) != 1 || len(all[0].Disks) != 1 || all[0].Disks[0].Epoch != at.Epoch {
		t.Errorf("a lie was believed: %+v, %v", all, err)
	}
}

// A receipt that never comes: the vault is asked soon.
func TestReceiptIsLost(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	s, _ := l.start()
	l.marker("p1", web, l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 7}))
	l.eventually("p1 is listed", func() bool { return ids(t, s, "web") == "p1" })
	l.eventually("its marker is acknowledged", func() bool { return l.unacked() == 0 })
}
