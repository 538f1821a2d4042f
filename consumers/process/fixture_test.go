package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

const patience = 3 * time.Minute // a machine may be very busy; nobody waits that long when all is well

func background(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok, or fails with what.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %s for: %s", patience, what)
		}
	}
}

func newVault(t testing.TB, wrap func(store.Store) store.Store) *vault.Vault {
	t.Helper()
	st, err := vault.OpenStore("dir://"+t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		st = wrap(st)
	}
	v, err := vault.Create(background(t), st, vault.KeyFromPassphrase("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// restless is a server's tempo in tests.
func restless() tempo {
	return tempo{hold: 150 * time.Millisecond, reset: 100 * time.Millisecond, touch: 100 * time.Millisecond, idle: time.Hour,
		retry: 10 * time.Millisecond, retryMax: 100 * time.Millisecond, busMax: 100 * time.Millisecond, ask: 2 * time.Second, quiet: 10 * time.Second,
		look: 50 * time.Millisecond, request: 2 * time.Second, beat: 100 * time.Millisecond, leave: leaveTime}
}

func small() Config {
	return Config{BatchBytes: 1 << 20, BatchAge: 50 * time.Millisecond, MemoryBytes: 64 << 20, Workers: 4}
}

// few are the partitions of the disks in these tests, and 0: starting with all 64
// would take most of the time of most tests.
func few() []int {
	ps := []int{0}
	for _, d := range [][2]string{{"web1", "sda"}, {"web2", "sda"}, {"web2", "sdb"}, {"web3", "sda"}, {"big", "sda"}, {"small", "sda"}} {
		if p := streams.Partition(d[0], d[1]); !slices.Contains(ps, p) {
			ps = append(ps, p)
		}
	}
	return ps
}

// makeServer makes a server that is not started yet.
func makeServer(t testing.TB, b *bus.Bus, v *vault.Vault, c Config, partitions ...int) *Server {
	t.Helper()
	if partitions == nil {
		partitions = few()
	}
	level := slog.LevelError + 1
	if os.Getenv("LEEWARD_LOG") != "" {
		level = slog.LevelDebug
	}
	s, err := New(b, v, c, Options{Partitions: partitions, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))})
	if err != nil {
		t.Fatal(err)
	}
	s.tempo = restless()
	return s
}

// run runs a server until the test ends.
func (s *Server) run(t testing.TB) *Server {
	t.Helper()
	if err := s.Start(background(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.kill() })
	return s
}

// kill ends a server as kill -9 would: nothing is committed, said or acknowledged
// any more.
func (s *Server) kill() {
	s.cancel()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Stop(gone)
}

func stop(t testing.TB, s *Server) {
	t.Helper()
	if err := s.Stop(background(t)); err != nil {
		t.Fatal(err)
	}
}

const agentBlocks = 2048 // 8 MiB

// agent writes a disk and publishes its chain, as the real one does, but all in
// its own time. What it has sent and not seen confirmed it can send again.
type agent struct {
	t             testing.TB
	b             *bus.Bus
	machine, disk string
	pool          streams.Pool
	rnd           *rand.Rand
	image         []byte
	dirty         map[uint64]vault.Position // block: last link that carried it, until confirmed
	at            vault.Position
	prev          wire.Hash
	confirmed     vault.Position
	cuts          map[vault.Position][]byte // images
	obeyed        int                       // receipts that asked for a resend and got it

	mu       sync.Mutex
	receipts []*wire.Receipt
	sub      jetstream.ConsumeContext
}

func newAgent(t testing.TB, b *bus.Bus, machine, disk string) *agent {
	t.Helper()
	a := &agent{t: t, b: b, machine: machine, disk: disk, rnd: rand.New(rand.NewPCG(1, uint64(len(machine)))),
		image: make([]byte, agentBlocks*wire.BlockSize), dirty: map[uint64]vault.Position{}, cuts: map[vault.Position][]byte{}}
	cons, err := b.JS.OrderedConsumer(background(t), streams.Receipts, jetstream.OrderedConsumerConfig{FilterSubjects: []string{streams.ReceiptsSubject(machine, disk)}})
	if err != nil {
		t.Fatal(err)
	}
	a.sub, err = cons.Consume(func(m jetstream.Msg) {
		r, err := wire.DecodeReceipt(m.Data())
		if err != nil || m.Headers().Get("Leeward-Number") != fmt.Sprint(r.Number) {
			t.Errorf("receipt %v: %v", m.Headers(), err)
			return
		}
		a.mu.Lock()
		a.receipts = append(a.receipts, r)
		a.mu.Unlock()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.sub.Stop)
	return a
}

func (a *agent) id() vault.DiskID { return vault.DiskID{Machine: a.machine, Disk: a.disk} }

// message makes the next link without publishing it.
func (a *agent) message(c *wire.Change) *nats.Msg {
	a.t.Helper()
	c.Machine, c.Disk, c.Time = a.machine, a.disk, time.Now().UnixNano()
	c.Epoch, c.Number, c.Prev = a.at.Epoch, a.at.Number+1, a.prev
	switch {
	case c.Open != nil:
		c.Kind, c.Epoch, c.Number, c.Prev = wire.KindOpen, a.at.Epoch+1, 1, wire.Hash{}
	case c.Cut != nil:
		c.Kind = wire.KindCut
	default:
		c.Kind = wire.KindBlock
	}
	b, err := wire.Encode(c)
	if err != nil {
		a.t.Fatal(err)
	}
	a.at, a.prev = vault.Position{Epoch: c.Epoch, Number: c.Number}, wire.LinkHash(c, b)
	m := nats.NewMsg(a.pool.ChangesSubject(a.machine, a.disk))
	m.Data, m.Header = b, nats.Header(wire.Headers(c))
	return m
}

func (a *agent) publish(ms ...*nats.Msg) {
	a.t.Helper()
	for _, m := range ms {
		for {
			_, err := a.b.JS.PublishMsg(background(a.t), m)
			if err == nil {
				break
			}
			if !streams.Retryable(err) {
				a.t.Fatal(err)
			}
		}
	}
}

func (a *agent) open(reason string) *nats.Msg {
	return a.message(&wire.Change{Open: &wire.Open{Size: uint64(len(a.image)), Capture: "scan", Instance: "i" + fmt.Sprint(a.rnd.Uint64()),
		Reason: reason, MinEpoch: a.confirmed.Epoch, MinNumber: a.confirmed.Number}})
}

// write changes random blocks and makes the link that carries them.
func (a *agent) write() *nats.Msg {
	b := &wire.Block{}
	at := uint64(a.rnd.IntN(agentBlocks - 80))
	for range 1 + a.rnd.IntN(4) {
		e := wire.Extent{Start: at, Count: 1 + uint32(a.rnd.IntN(16))}
		if a.rnd.IntN(8) == 0 {
			e.Kind = wire.ExtentZero
		}
		for i := e.Start; i < e.Start+uint64(e.Count); i++ {
			block := a.image[i*wire.BlockSize : (i+1)*wire.BlockSize]
			for j := range block {
				block[j] = byte(i) * byte(1-min(1, e.Kind))
			}
			if e.Kind == wire.ExtentData {
				copy(block, fmt.Sprint(a.rnd.Uint64()))
			}
		}
		b.Extents = append(b.Extents, e)
		at += uint64(e.Count) + uint64(1+a.rnd.IntN(3))
	}
	return a.carry(b)
}

// carry fills a block from the image and makes its link.
func (a *agent) carry(b *wire.Block) *nats.Msg {
	for _, e := range b.Extents {
		data := a.image[e.Start*wire.BlockSize : (e.Start+uint64(e.Count))*wire.BlockSize]
		if e.Kind == wire.ExtentData {
			b.Data = append(b.Data, data...)
			for i := 0; i < len(data); i += wire.BlockSize {
				s := wire.SumOf(data[i : i+wire.BlockSize])
				b.Sums = append(b.Sums, s[:]...)
			}
		}
		for i := range uint64(e.Count) {
			a.dirty[e.Start+i] = vault.Position{Epoch: a.at.Epoch, Number: a.at.Number + 1}
		}
	}
	b.Raw = uint32(len(b.Data))
	return a.message(&wire.Change{Block: b})
}

func (a *agent) cut() *nats.Msg {
	m := a.message(&wire.Change{Cut: &wire.Cut{Point: fmt.Sprintf("p%d-%d", a.at.Epoch, a.at.Number), Group: "g", Time: time.Now().UnixNano(),
		Consistency: wire.Crash, Size: uint64(len(a.image))}})
	a.cuts[a.at] = bytes.Clone(a.image)
	return m
}

// newEpoch opens one and makes the links that carry everything that is not
// confirmed.
func (a *agent) newEpoch(reason string) []*nats.Msg {
	a.listen()
	ms := []*nats.Msg{a.open(reason)}
	for i := uint64(0); i < agentBlocks; i++ {
		if _, ok := a.dirty[i]; !ok {
			continue
		}
		e := wire.Extent{Start: i}
		for _, ok := a.dirty[i]; ok && e.Count < 64; _, ok = a.dirty[i] {
			e.Count, i = e.Count+1, i+1
		}
		i--
		ms = append(ms, a.carry(&wire.Block{Extents: []wire.Extent{e}}))
	}
	return ms
}

// listen forgets what the receipts have confirmed and reports whether the newest
// asks for a resend.
func (a *agent) listen() (last *wire.Receipt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.receipts {
		if p := (vault.Position{Epoch: r.Epoch, Number: r.Number}); !less(p, a.confirmed) {
			a.confirmed = p
		}
		last = r
	}
	for b, p := range a.dirty {
		if p.Epoch == a.confirmed.Epoch && p.Number <= a.confirmed.Number {
			delete(a.dirty, b)
		}
	}
	return last
}

// heard returns all receipts so far.
func (a *agent) heard() []*wire.Receipt {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.receipts
}

func (a *agent) resends() (n int) {
	for _, r := range a.heard() {
		if r.Resend {
			n++
		}
	}
	return n
}

// settled waits until the vault has confirmed everything the agent sent.
func (a *agent) settled() {
	a.t.Helper()
	eventually(a.t, "the receipt of the last link", func() bool { a.listen(); return a.confirmed == a.at })
}

// obey sends again what the receipts ask for and reports whether they did.
func (a *agent) obey() bool {
	n := a.resends()
	if n == a.obeyed {
		return false
	}
	a.obeyed = n
	ms := a.newEpoch("resend")
	for p := range a.cuts {
		if less(a.confirmed, p) {
			delete(a.cuts, p) // nobody knows whether it is in the vault
		}
	}
	a.publish(ms...)
	return true
}

// persist does what the receipts ask for until everything is confirmed.
func (a *agent) persist() {
	a.t.Helper()
	eventually(a.t, "the receipt of the last link, sending again as asked", func() bool {
		a.obey()
		a.listen()
		return a.confirmed == a.at
	})
}

// verify compares the vault with the agent's image and with every cut that is in
// the history of what the vault holds.
func (a *agent) verify(v *vault.Vault) {
	a.t.Helper()
	a.compare(v, a.at, a.image)
	for p, want := range a.cuts {
		a.compare(v, p, want)
	}
}

func (a *agent) compare(v *vault.Vault, p vault.Position, want []byte) {
	a.t.Helper()
	r, err := v.OpenAt(background(a.t), a.id(), p, vault.ReaderOptions{})
	if err != nil {
		a.t.Fatalf("open %s at %v: %v", a.id(), p, err)
	}
	defer r.Close()
	got := make([]byte, len(want))
	if _, err := r.ReadAt(got, 0); err != nil {
		a.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := 0; i < len(got); i += wire.BlockSize {
			if !bytes.Equal(got[i:i+wire.BlockSize], want[i:i+wire.BlockSize]) {
				a.t.Fatalf("%s at %v: block %d differs", a.id(), p, i/wire.BlockSize)
			}
		}
	}
	var d vault.Digest
	for i := 0; i < len(want); i += wire.BlockSize {
		d.Replace(uint64(i/wire.BlockSize), vault.Sum{}, vault.SumOf(want[i:i+wire.BlockSize]))
	}
	if r.Digest() != d {
		a.t.Fatalf("%s at %v: the digest is not that of its contents", a.id(), p)
	}
}

// events returns the kinds of the events in the stream, with their severities.
func events(t testing.TB, b *bus.Bus) map[string][]*wire.Event {
	t.Helper()
	ctx := background(t)
	s, err := b.JS.Stream(ctx, streams.Events)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]*wire.Event{}
	for seq := max(1, info.State.FirstSeq); seq <= info.State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		e, err := wire.DecodeEvent(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		out[e.Kind] = append(out[e.Kind], e)
	}
	return out
}

// left counts the messages in CHANGES.
func left(t testing.TB, b *bus.Bus) uint64 {
	t.Helper()
	s, err := b.JS.Stream(background(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(background(t), d)
}
