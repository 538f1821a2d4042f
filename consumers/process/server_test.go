package process

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flaky fails, stalls or counts what is put into a store.
type flaky struct {
	store.Store
	fail atomic.Pointer[error]
	puts atomic.Int64
	tear atomic.Bool // fail, but only after the object is there
	torn atomic.Int64
}

func (f *flaky) Put(ctx context.Context, key string, data []byte) error {
	f.puts.Add(1)
	if err := f.fail.Load(); err != nil {
		if f.tear.Load() {
			_ = f.Store.Put(ctx, key, data)
			f.torn.Add(1)
		}
		return *err
	}
	return f.Store.Put(ctx, key, data)
}

func (f *flaky) broken(err error) {
	if err == nil {
		f.fail.Store(nil)
		return
	}
	f.fail.Store(&err)
}

// rig is everything a test of the whole flow needs.
type rig struct {
	t     testing.TB
	nats  *streamstest.Server
	b     *bus.Bus
	store *flaky
	v     *vault.Vault
}

func newRig(t testing.TB) *rig {
	t.Helper()
	if t, ok := t.(*testing.T); ok {
		t.Parallel() // mostly waiting: for fsync and for time to pass
	}
	r := &rig{t: t, nats: streamstest.StartWith(t, t.TempDir())}
	r.b = r.nats.Bus()
	r.v = newVault(t, func(s store.Store) store.Store { r.store = &flaky{Store: s}; return r.store })
	return r
}

// server starts one on a connection of its own.
func (r *rig) server(partitions ...int) *Server {
	return makeServer(r.t, r.nats.Connect("process"), r.v, small(), partitions...).run(r.t)
}

func (r *rig) empty() {
	r.t.Helper()
	eventually(r.t, "CHANGES to be empty", func() bool { return left(r.t, r.b) == 0 })
}

// check reads everything that the vault holds.
func (r *rig) check() {
	r.t.Helper()
	rep, err := r.v.Check(background(r.t), vault.CheckOptions{ReadData: true})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range rep.Problems {
		r.t.Errorf("the vault has a problem: %v", p)
	}
}

// hasty makes JetStream deliver a disk's changes again after two seconds.
func (r *rig) hasty(machine, disk string) {
	r.t.Helper()
	c := streams.PartitionConsumer(streams.Partition(machine, disk))
	c.AckWait = 2 * time.Second
	if _, err := r.b.JS.UpdateConsumer(background(r.t), streams.Changes, c); err != nil {
		r.t.Fatal(err)
	}
}

func TestEverythingReachesTheVault(t *testing.T) {
	r := newRig(t)
	s, err := New(r.nats.Connect("process"), r.v, small(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	s.run(t) // all partitions, and as patient as in earnest
	var all sync.WaitGroup
	agents := []*agent{newAgent(t, r.b, "web1", "sda"), newAgent(t, r.b, "web2", "sda"), newAgent(t, r.b, "web2", "sdb")}
	for _, a := range agents {
		all.Go(func() {
			a.publish(a.open("first"))
			for i := range 120 {
				switch {
				case i%40 == 39:
					a.publish(a.newEpoch("restart")...)
				case i%10 == 9:
					a.publish(a.cut())
				default:
					a.publish(a.write())
				}
			}
			a.settled()
		})
	}
	all.Wait()
	r.empty()
	for _, a := range agents {
		a.verify(r.v)
		if len(a.cuts) < 5 {
			t.Fatalf("%d cuts were taken", len(a.cuts))
		}
	}
	if e := events(t, r.b); len(e) != 0 {
		t.Errorf("events of a quiet day: %v", e)
	}
	st := s.Stats()
	if st.Links < 360 || st.Refused != 0 || st.Repeats != 0 || st.Malformed != 0 || st.MemoryBytes != 0 || st.BytesStored == 0 || st.Commits == 0 || st.Commits > st.Links || len(st.Disks) != 3 {
		t.Errorf("stats: %+v", st)
	}
	if d := st.Disks["web1/sda"]; d.Epoch != agents[0].at.Epoch || d.Number != agents[0].at.Number || d.Pending != 0 || d.Lag != 0 {
		t.Errorf("stats of web1/sda: %+v, the agent stands at %v", d, agents[0].at)
	}
	stop(t, s)
}

func TestKilledBetweenCommitAndAck(t *testing.T) {
	r := newRig(t)
	a := newAgent(t, r.b, "web1", "sda")
	s := makeServer(t, r.nats.Connect("process"), r.v, small())
	reached := make(chan struct{}, 100)
	s.committed = func(vault.DiskID) {
		reached <- struct{}{}
		<-s.ctx.Done() // killed here
	}
	s.run(t)
	a.publish(a.open("first"), a.write(), a.write(), a.cut())
	<-reached
	s.kill()
	if left(t, r.b) != 4 {
		t.Fatalf("%d of 4 messages are left: some were acknowledged before their receipt", left(t, r.b))
	}
	if len(a.heard()) != 0 {
		t.Fatal("a receipt from the grave")
	}
	puts := r.store.puts.Load()
	began := time.Now()
	s = r.server()
	a.settled()
	r.empty()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the next server took over after %s: it waited for the acknowledgements of the dead one", d)
	}
	a.verify(r.v)
	st := s.Stats()
	// The open was in the vault; it is recognised, and not committed again.
	if st.Repeats != 1 || st.Links != 3 || r.store.puts.Load() == puts {
		t.Errorf("after the kill: %+v", st)
	}
	if e := events(t, r.b); len(e) != 0 {
		t.Errorf("events: %v", e)
	}
}

func TestDisorderAndRepeatsAreRepaired(t *testing.T) {
	r := newRig(t)
	s := makeServer(t, r.nats.Connect("process"), r.v, small())
	s.tempo.hold = time.Minute // how long it takes is not what this is about
	s.run(t)
	a := newAgent(t, r.b, "web1", "sda")
	rnd := rand.New(rand.NewPCG(7, 7))
	a.publish(a.open("first"))
	var ms []*nats.Msg
	for range 120 {
		ms = append(ms, a.write())
	}
	ms = append(ms, a.cut())
	for i := 0; i < len(ms); i += 12 { // disorder of a window of 12, everything twice
		w := append([]*nats.Msg{}, ms[i:min(i+12, len(ms))]...)
		w = append(w, w...)
		rnd.Shuffle(len(w), func(i, j int) { w[i], w[j] = w[j], w[i] })
		a.publish(w...)
	}
	a.settled()
	r.empty()
	a.verify(r.v)
	if n := a.resends(); n != 0 {
		t.Errorf("%d resends were asked for, nothing was missing", n)
	}
	if e := events(t, r.b); len(e) != 0 {
		t.Errorf("events: %v", e)
	}
}

func TestMissingLinkIsSentAgain(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write(), a.cut())
	a.settled()
	a.write() // lost
	lost := a.at
	for range 300 { // more than are held
		a.publish(a.write())
	}
	eventually(t, "the resend", func() bool { return a.resends() == 1 })
	last := a.listen()
	if last.Epoch != lost.Epoch || last.Number != lost.Number-1 || last.Reason != "link 4 of epoch 1 is missing" {
		t.Fatalf("receipt: %+v", last)
	}
	r.empty() // what is behind the gap is dropped, all of it
	a.persist()
	a.publish(a.write(), a.cut())
	a.settled()
	a.verify(r.v)
	if e := events(t, r.b); len(e["gap"]) != 1 || len(e) != 1 {
		t.Errorf("events: %v", e)
	}
	if a.resends() != 1 || s.Stats().Refused < 300 || s.Stats().MemoryBytes != 0 {
		t.Errorf("%d resends, %+v", a.resends(), s.Stats())
	}
}

func TestLostOpenIsSentAgain(t *testing.T) {
	r := newRig(t)
	r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.open("first") // lost
	a.publish(a.write(), a.write())
	a.persist()
	a.verify(r.v)
	if a.at.Epoch != 2 || a.resends() != 1 {
		t.Errorf("stands at %v after %d resends", a.at, a.resends())
	}
}

func TestForkIsRefused(t *testing.T) {
	r := newRig(t)
	r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write(), a.write())
	a.settled()
	image, at, prev, dirty := append([]byte{}, a.image...), a.at, a.prev, a.dirty
	a.prev = wire.Hash{1} // another's chain
	forked := a.write()
	a.image, a.at, a.prev, a.dirty = image, at, prev, dirty
	a.publish(forked)
	eventually(t, "the refusal", func() bool { return a.resends() == 1 })
	a.publish(a.write(), a.cut())
	a.settled()
	r.empty()
	a.verify(r.v)
	if e := events(t, r.b)["fork"]; len(e) != 1 || e[0].Severity != wire.Critical || e[0].Disk != "sda" {
		t.Errorf("events: %v", events(t, r.b))
	}
}

func TestStaleAgentIsFenced(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	stale := &agent{t: t, b: r.b, machine: a.machine, disk: a.disk, rnd: a.rnd, at: a.at, prev: a.prev,
		image: append([]byte{}, a.image...), dirty: map[uint64]vault.Position{}}
	var late []*nats.Msg
	for range 20 {
		late = append(late, stale.write())
	}
	a.publish(a.newEpoch("failover")...)
	a.publish(a.write())
	a.settled()
	before := len(a.heard())
	a.publish(late...)
	r.empty()
	eventually(t, "the receipt for the stale agent", func() bool { a.listen(); return len(a.heard()) > before })
	a.publish(a.cut())
	a.settled()
	a.verify(r.v)
	if last := a.heard()[before]; last.Epoch != 2 || last.Resend || last.Reason == "" {
		t.Errorf("the stale agent is told %+v", last)
	}
	if len(a.heard()) > before+3 {
		t.Errorf("%d receipts for one stale agent", len(a.heard())-before)
	}
	if e := events(t, r.b); len(e["fenced"]) != 1 || len(e) != 1 || s.Stats().Refused != 20 {
		t.Errorf("events: %v, %+v", e, s.Stats())
	}
}

func TestVaultBehindItsReceipts(t *testing.T) {
	r := newRig(t)
	r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.at, a.confirmed = vault.Position{Epoch: 4, Number: 9}, vault.Position{Epoch: 4, Number: 9}
	a.publish(a.open("restart"), a.write())
	eventually(t, "the refusal", func() bool { return a.resends() == 1 })
	r.empty()
	if last := a.listen(); last.Epoch != 0 || last.Number != 0 || last.Reason == "" {
		t.Errorf("receipt: %+v", last)
	}
	if e := events(t, r.b); len(e["vault-behind"]) != 1 || e["vault-behind"][0].Severity != wire.Critical || len(e) != 1 {
		t.Errorf("events: %v", e)
	}
	a.confirmed, a.obeyed = vault.Position{}, 0
	a.persist() // knowing nothing, it is welcome
	a.verify(r.v)
}

func TestMalformedMessagesAreTerminated(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"))
	a.settled()
	garbage, foreign := a.write(), newAgent(t, r.b, "web2", "sda").open("first")
	garbage.Data = garbage.Data[:len(garbage.Data)/2]
	foreign.Subject = streams.ChangesSubject("web3", "sda")
	bad := nats.NewMsg("leeward.changes.00.web1.sda") // not its partition
	// What another agent stored and had the server copy here.
	first, last := a.write(), a.write()
	copied := &nats.Msg{Subject: last.Subject, Data: last.Data, Header: nats.Header{"Nats-Stream": {streams.Changes}, "Nats-Sequence": {"1"}}}
	a.publish(garbage, first, foreign, bad, copied, last)
	eventually(t, "four refusals", func() bool { return s.Stats().Malformed == 4 })
	a.persist()
	r.empty()
	a.verify(r.v)
	eventually(t, "the events", func() bool { return len(events(t, r.b)["malformed"]) >= 3 })
	for i, want := range []string{"message 2 on leeward.changes.", "message 4 on leeward.changes.", "message 5 on leeward.changes.00.web1.sda"} {
		found := false
		for _, e := range events(t, r.b)["malformed"] {
			found = found || len(e.What) > len(want) && e.What[:len(want)] == want
		}
		if !found {
			t.Errorf("event %d: none starts with %q", i, want)
		}
	}
	if a.resends() != 1 {
		t.Errorf("%d resends", a.resends())
	}
}

func TestTwoServersOnTheSamePartitions(t *testing.T) {
	r := newRig(t)
	a := newAgent(t, r.b, "web1", "sda")
	r.hasty("web1", "sda") // what the zombie has taken to its grave comes soon
	zombie := r.server()
	survivor := r.server()
	a.publish(a.open("first"))
	for i := range 150 {
		if i%15 == 14 {
			a.publish(a.cut())
		} else {
			a.publish(a.write())
		}
		if i%10 == 0 {
			a.obey()
		}
		if i == 100 {
			zombie.kill()
		}
	}
	a.persist()
	r.empty()
	a.verify(r.v)
	if survivor.Stats().Links == 0 {
		t.Error("the survivor committed nothing")
	}
	r.check()
	t.Logf("%d resends, epoch %d", a.resends(), a.at.Epoch)
}

var errDisk = errors.New("no space left on device")

func TestStoreFailsForAWhile(t *testing.T) {
	r := newRig(t)
	r.hasty("web1", "sda") // passes many times over if deliveries are not kept alive
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	r.store.broken(errDisk)
	for range 10 {
		a.publish(a.write())
	}
	eventually(t, "the links to be taken", func() bool { d := s.Stats().Disks["web1/sda"]; return d.Number == 2 && d.Pending == 10 })
	began := time.Now()
	eventually(t, "two deadlines to pass", func() bool { return time.Since(began) > 5*time.Second })
	st := s.Stats()
	if st.Store == "" || st.Disks["web1/sda"].Error == "" || st.Disks["web1/sda"].Lag < 5*time.Second || left(t, r.b) != 10 {
		t.Errorf("while it fails: %+v, %d messages left", st, left(t, r.b))
	}
	if st.Delivered > 5 { // none on a machine that is not busy
		t.Errorf("%d deliveries of 10 messages were not kept alive", st.Delivered)
	}
	for range 60 {
		a.publish(a.carry(&wire.Block{Extents: []wire.Extent{{Start: uint64(a.rnd.IntN(agentBlocks - 240)), Count: 240}}}))
	}
	limit := s.cfg.perDisk()
	eventually(t, "the budget to be full", func() bool { return s.Stats().MemoryBytes > limit-2<<20 })
	for range 50 {
		if m := s.Stats().MemoryBytes; m > limit || left(t, r.b) != 70 {
			t.Fatalf("%d bytes wait, the limit is %d; %d of 70 messages are left", m, limit, left(t, r.b))
		}
	}
	r.store.broken(nil)
	a.publish(a.cut())
	a.settled()
	r.empty()
	a.verify(r.v)
	eventually(t, "the events", func() bool { return len(events(t, r.b)) == 2 })
	if e := events(t, r.b); len(e["store-failed"]) != 1 || len(e["store-recovered"]) != 1 || a.resends() != 0 {
		t.Errorf("events: %v, %d resends", e, a.resends())
	}
	if st := s.Stats(); st.MemoryBytes != 0 || st.Store != "" {
		t.Errorf("afterwards: %+v", st)
	}
}

// TestPutThatFailedButHappened is a store whose answer got lost.
func TestPutThatFailedButHappened(t *testing.T) {
	r := newRig(t)
	r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write())
	a.settled()
	r.store.tear.Store(true)
	r.store.broken(errDisk)
	a.publish(a.write(), a.write())
	// Not Stats().Store: the next try finds the object and all is well again, before anybody has looked.
	eventually(t, "the failure", func() bool { return r.store.torn.Load() > 0 })
	r.store.broken(nil)
	a.publish(a.cut())
	a.settled()
	r.empty()
	a.verify(r.v)
	if e := events(t, r.b); len(e["fork"])+len(e["gap"])+len(e["fenced"]) != 0 {
		t.Errorf("events: %v", e)
	}
}
