package process

import (
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// TestRandomFaults lets everything fail at random at once: puts that fail, with and
// without effect, reads that fail, links lost and repeated on the way, servers that
// die. In the end the vault holds the disks as the agents do, in one chain.
func TestRandomFaults(t *testing.T) {
	t.Parallel()
	rounds := 6
	if os.Getenv("LEEWARD_FULL") != "" {
		rounds = 60
	}
	nats := streamstest.StartWith(t, t.TempDir())
	mem := storetest.NewMem()
	v, err := vault.Create(background(t), mem, vault.KeyFromPassphrase("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, nats: nats, b: nats.Bus(), v: v}
	rnd := rand.New(rand.NewPCG(3, 4))
	mem.Faults(func(op storetest.Op) storetest.Fault {
		switch rnd.IntN(12) {
		case 0:
			return storetest.Fault{Err: errDisk}
		case 1:
			return storetest.Fault{Err: errDisk, Done: true}
		case 2:
			return storetest.Fault{Delay: time.Duration(rnd.IntN(20)) * time.Millisecond}
		}
		return storetest.Fault{}
	})
	agents := []*agent{newAgent(t, r.b, "web1", "sda"), newAgent(t, r.b, "web2", "sda")}
	for _, a := range agents {
		r.hasty(a.machine, a.disk)
		a.publish(a.open("first"))
	}
	for round := range rounds {
		s := r.server()
		var all sync.WaitGroup
		for i, a := range agents {
			chance := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			all.Go(func() {
				for range 40 {
					m := a.write()
					switch chance.IntN(30) {
					case 0: // lost
					case 1:
						a.publish(m, m)
					case 2:
						a.publish(m, a.cut())
					default:
						a.publish(m)
					}
					a.obey()
				}
			})
		}
		all.Wait()
		if round < rounds-1 {
			s.kill()
		}
	}
	for _, a := range agents {
		a.publish(a.cut())
		a.persist()
	}
	mem.Faults(nil)
	r.empty()
	r.check()
	for _, a := range agents {
		a.verify(v)
		t.Logf("%s: %d epochs, %d resends", a.machine, a.at.Epoch, a.resends())
	}
}

// TestOneDiskDoesNotStarveOthers floods a disk whose commits hardly move, and looks
// how long another one waits.
func TestOneDiskDoesNotStarveOthers(t *testing.T) {
	t.Parallel()
	nats := streamstest.StartWith(t, t.TempDir())
	mem := storetest.NewMem()
	v, err := vault.Create(background(t), mem, vault.KeyFromPassphrase("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, nats: nats, b: nats.Bus(), v: v}
	mem.Faults(func(op storetest.Op) storetest.Fault {
		if op.Verb == "put" && strings.HasPrefix(op.Key, "disks/big/") {
			return storetest.Fault{Delay: time.Minute}
		}
		return storetest.Fault{}
	})
	s := r.server()
	big, small := newAgent(t, r.b, "big", "sda"), newAgent(t, r.b, "small", "sda")
	if streams.Partition("big", "sda") == streams.Partition("small", "sda") {
		t.Fatal("choose other names")
	}
	big.publish(big.open("first"))
	for range 50 {
		big.publish(big.carry(&wire.Block{Extents: []wire.Extent{{Start: uint64(big.rnd.IntN(agentBlocks - 240)), Count: 240}}}))
	}
	eventually(t, "the big disk's budget to be full", func() bool { return s.Stats().MemoryBytes > s.cfg.perDisk()-2<<20 })
	began := time.Now()
	small.publish(small.open("first"), small.write(), small.cut())
	small.settled()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the small disk waited for %s", d)
	}
	small.verify(v)
}

// TestDamageIsTold opens a disk whose newest segment is not as it was written.
func TestDamageIsTold(t *testing.T) {
	t.Parallel()
	nats := streamstest.StartWith(t, t.TempDir())
	mem := storetest.NewMem()
	v, err := vault.Create(background(t), mem, vault.KeyFromPassphrase("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, nats: nats, b: nats.Bus(), v: v}
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	a.publish(a.open("first"), a.write(), a.cut())
	a.settled()
	stop(t, s)
	for _, k := range mem.Keys() {
		if strings.HasSuffix(k, ".seg") {
			b := mem.Bytes(k)
			b[len(b)-40] ^= 1
			mem.Set(k, b)
		}
	}
	s = r.server()
	a.publish(a.write())
	eventually(t, "the event", func() bool { return len(events(t, r.b)["vault-damaged"]) == 1 })
	if st := s.Stats(); st.Disks["web1/sda"].Error == "" || left(t, r.b) != 1 {
		t.Errorf("with a damaged segment: %+v", st)
	}
}
