package process

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

func (r *rig) sums(a *agent, q *wire.SumsRequest) *wire.SumsReply {
	r.t.Helper()
	b, err := wire.Encode(q)
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := r.b.Conn.RequestWithContext(background(r.t), streams.SumsSubject(a.machine, a.disk), b)
	if err != nil {
		r.t.Fatal(err)
	}
	reply, err := wire.DecodeSumsReply(m.Data)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

func TestSumsOfWhatTheVaultHolds(t *testing.T) {
	r := newRig(t)
	s := makeServer(t, r.nats.Connect("process"), r.v, small())
	s.limits.Age = time.Hour // nothing is committed before somebody asks
	s.run(t)
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write(), a.write())
	eventually(t, "the links to be taken", func() bool { d := s.Stats().Disks["web1/sda"]; return d.Number == 1 && d.Pending == 2 })
	reply := r.sums(a, &wire.SumsRequest{Epoch: 1, Start: 1, Count: agentBlocks})
	if reply.Error != "" || len(reply.Sums) != 16*agentBlocks {
		t.Fatalf("%d bytes of sums, %q", len(reply.Sums), reply.Error)
	}
	for i := range agentBlocks {
		want := wire.Sum{} // beyond the end
		if i < agentBlocks-1 {
			want = wire.SumOf(a.image[(i+1)*wire.BlockSize : (i+2)*wire.BlockSize])
		}
		if want != wire.Sum(reply.Sums[16*i:16*i+16]) {
			t.Fatalf("sum of block %d is not that of what was sent", i+1)
		}
	}
	a.settled()
	if got := r.sums(a, &wire.SumsRequest{Epoch: 2, Count: 1}); got.Error == "" || len(got.Sums) != 0 {
		t.Errorf("sums of an epoch that is not there: %+v", got)
	}
	r.store.broken(errDisk)
	a.publish(a.write())
	eventually(t, "the link to be taken", func() bool { d := s.Stats().Disks["web1/sda"]; return d.Number == a.at.Number-1 && d.Pending == 1 })
	if got := r.sums(a, &wire.SumsRequest{Epoch: 1, Count: 1}); got.Error == "" {
		t.Errorf("sums while something waits that the vault does not take: %+v", got)
	}
	r.store.broken(nil)
	a.settled()
}

// TestReceiptsAreRebuilt is law 5: the state of NATS was lost.
func TestReceiptsAreRebuilt(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write(), a.cut())
	a.settled()
	r.empty()
	stop(t, s)
	n := len(a.heard())

	s = r.server() // RECEIPTS is up to date: silence
	other := newAgent(t, r.b, "web2", "sda")
	other.publish(other.open("first"))
	other.settled()
	if len(a.heard()) != n {
		t.Error("a receipt was published again for nothing")
	}
	stop(t, s)

	stream, err := r.b.JS.Stream(background(t), streams.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(background(t)); err != nil {
		t.Fatal(err)
	}
	s = r.server()
	eventually(t, "the receipts", func() bool { return len(a.heard()) > n && len(other.heard()) > 1 })
	if last := a.listen(); last.Epoch != a.at.Epoch || last.Number != a.at.Number || last.Hash != a.prev || last.Size != uint64(len(a.image)) || last.Resend {
		t.Errorf("receipt %+v, the agent stands at %v", last, a.at)
	}
	eventually(t, "the writers to be closed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.disks) == 0 })
	stop(t, s)

	// The other way round: what was confirmed is not in the vault.
	ahead := receipt(a.id(), vault.Head{Position: vault.Position{Epoch: 1, Number: 99}}, false, "")
	if err := s.voice.receipt(background(t), ahead); err != nil {
		t.Fatal(err)
	}
	r.server()
	eventually(t, "the resend", func() bool { return a.resends() == 1 })
	eventually(t, "the event", func() bool { return len(events(t, r.b)["vault-behind"]) == 1 })
}

func TestIdleDisksAreClosedAndOpenedAgain(t *testing.T) {
	r := newRig(t)
	s := makeServer(t, r.nats.Connect("process"), r.v, small())
	s.tempo.idle = 100 * time.Millisecond
	s.run(t)
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	for range 3 {
		eventually(t, "the writer to be closed", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.disks) == 0 })
		a.publish(a.write(), a.cut())
		a.settled()
	}
	a.verify(r.v)
	if d := s.Stats().Disks["web1/sda"]; d.Number != a.at.Number {
		t.Errorf("stats of a closed disk: %+v", d)
	}
}

func TestStopCommitsWhatItHas(t *testing.T) {
	r := newRig(t)
	s := makeServer(t, r.nats.Connect("process"), r.v, small())
	s.limits.Age = time.Hour
	s.run(t)
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"))
	for range 20 {
		a.publish(a.write())
	}
	eventually(t, "the links to be taken", func() bool {
		d := s.Stats().Disks["web1/sda"]
		return d.Pending+int(d.Number) == 21
	})
	stop(t, s)
	r.empty()
	a.settled()
	a.verify(r.v)
}

// TestRepeatOfAWaitingLink is not acknowledged before the link is in the vault.
func TestRepeatOfAWaitingLink(t *testing.T) {
	r := newRig(t)
	s := makeServer(t, r.nats.Connect("process"), r.v, small())
	s.limits.Age = time.Hour
	s.run(t)
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"))
	a.settled()
	r.empty()
	m := a.write()
	a.publish(m, a.write(), m)
	eventually(t, "the repeat", func() bool { return s.Stats().Repeats == 1 })
	r.b.Conn.Flush()
	if n := left(t, r.b); n != 3 {
		t.Errorf("%d of 3 messages are left, the vault holds none of their links", n)
	}
	stop(t, s)
	r.empty()
	a.settled()
	a.verify(r.v)
}

// TestHeadIsReadAgainBeforeTheVaultIsBlamed lets somebody else write and confirm
// links that this server has never seen.
func TestHeadIsReadAgainBeforeTheVaultIsBlamed(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	c, err := wire.DecodeChange(a.write().Data)
	if err != nil {
		t.Fatal(err)
	}
	batch, err := s.optimizer.Batch([]optimize.Link{{Change: c, Hash: a.prev}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.v.OpenDisk(background(t), a.id())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(background(t), batch); err != nil {
		t.Fatal(err)
	}
	a.confirmed = a.at
	a.publish(a.newEpoch("failover")...)
	a.publish(a.write())
	a.settled()
	r.empty()
	a.verify(r.v)
	if e := events(t, r.b); len(e) != 0 || a.resends() != 0 {
		t.Errorf("events: %v, %d resends", e, a.resends())
	}
}

func TestStopGivesUpWhenTheStoreDoesNotWork(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"))
	a.settled()
	r.store.broken(errDisk)
	a.publish(a.write())
	eventually(t, "the link to be taken", func() bool { d := s.Stats().Disks["web1/sda"]; return d.Number == a.at.Number-1 && d.Pending == 1 })
	ctx, cancel := contextWithTimeout(t, 200*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil {
		t.Error("Stop says that all is well")
	}
	if left(t, r.b) != 1 {
		t.Error("a link was acknowledged that the vault does not hold")
	}
	r.store.broken(nil)
	r.server()
	a.settled()
	a.verify(r.v)
}

func TestOwnedPartitionsOnly(t *testing.T) {
	r := newRig(t)
	mine, other := newAgent(t, r.b, "web1", "sda"), newAgent(t, r.b, "web2", "sda")
	p := streams.Partition("web1", "sda")
	if p == streams.Partition("web2", "sda") {
		t.Fatal("choose other names")
	}
	s := r.server(p)
	other.publish(other.open("first"), other.write())
	mine.publish(mine.open("first"), mine.write())
	mine.settled()
	if n := left(t, r.b); n != 2 {
		t.Errorf("%d messages are left, the two of the other partition should be", n)
	}
	if st := s.Stats(); len(st.Disks) != 1 {
		t.Errorf("disks: %v", st.Disks)
	}
	if _, err := New(r.b, r.v, small(), Options{Partitions: []int{64}}); err == nil {
		t.Error("there is no partition 64")
	}
}

// TestServerSurvivesItsBroker restarts NATS under load.
func TestServerSurvivesItsBroker(t *testing.T) {
	r := newRig(t)
	r.hasty("web1", "sda") // acknowledgements get lost, too
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"))
	for i := range 60 {
		a.publish(a.write())
		if i%20 == 10 {
			r.nats.Restart()
		}
	}
	a.publish(a.cut())
	a.persist()
	r.empty()
	a.verify(r.v)
	if st := s.Stats(); st.MemoryBytes != 0 {
		t.Errorf("afterwards: %+v", st)
	}
	t.Logf("%d resends, %d delivered again", a.resends(), s.Stats().Delivered)
}

// TestServerSurvivesTheLossOfItsConsumers deletes what a NATS without its state
// would not have.
func TestServerSurvivesTheLossOfItsConsumers(t *testing.T) {
	r := newRig(t)
	r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	n := len(a.heard())
	receipts, err := r.b.JS.Stream(background(t), streams.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	if err := receipts.Purge(background(t)); err != nil {
		t.Fatal(err)
	}
	p := streams.Partition("web1", "sda")
	if err := r.b.JS.DeleteConsumer(background(t), streams.Changes, streams.PartitionConsumer(p).Durable); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the receipt", func() bool { return len(a.heard()) > n })
	a.publish(a.write(), a.cut())
	a.settled()
	a.verify(r.v)
}

func TestServiceTellsItsNumbers(t *testing.T) {
	r := newRig(t)
	r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	eventually(t, "the numbers to tell of the last receipt", func() bool {
		m, err := r.b.Conn.RequestWithContext(background(t), "leeward.process.stats", nil)
		if err != nil {
			t.Fatal(err)
		}
		var st Stats
		if err := json.Unmarshal(m.Data, &st); err != nil {
			t.Fatalf("%s: %v", m.Data, err)
		}
		return st.Disks["web1/sda"].Number == a.at.Number
	})
	if m, err := r.b.Conn.RequestWithContext(background(t), "$SRV.STATS.leeward-process", nil); err != nil || !json.Valid(m.Data) {
		t.Errorf("%v", err)
	}
}
