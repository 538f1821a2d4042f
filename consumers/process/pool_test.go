package process

import (
	"slices"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// west is the pool of the other site.
const west streams.Pool = "west"

// serve runs a process server of a pool that shares its partitions.
func serve(t *testing.T, b *bus.Bus, v *vault.Vault, pool streams.Pool, standby bool) *Server {
	t.Helper()
	c := small()
	c.Pool, c.Standby = pool, standby
	s := makeServer(t, b, v, c)
	s.fixed = nil
	s.tempo = patient()
	s.tempo.request, s.tempo.beat = restless().request, restless().beat
	return s.run(t)
}

// owns waits until a server has all partitions of its pool, or none.
func owns(t *testing.T, s *Server, n int) {
	t.Helper()
	eventually(t, "the partitions to be shared", func() bool { return len(s.owned()) == n })
}

func makePool(t *testing.T, b *bus.Bus, cluster string) {
	t.Helper()
	if err := streams.EnsurePool(background(t), b.JS, streams.PoolConfig{Pool: west, Cluster: cluster, Replicas: 1, ChangesBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
}

// handled lists the disks whose changes a server has taken.
func handled(s *Server) (all []string) {
	for id, d := range s.Stats().Disks {
		if d.Links > 0 {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

// steps has an agent publish some links and waits for the receipt of the last.
func (a *agent) steps(n int) {
	a.t.Helper()
	for range n {
		a.publish(a.write())
	}
	a.publish(a.cut())
	a.settled()
}

// Two sites with NATS nodes and a process server each. Changes of a disk of the pool are
// stored at its site and handled there only; when its server dies they wait, unless one
// stands by for it elsewhere, which gives them back when the server is there again.
func TestPoolAtAnotherSite(t *testing.T) {
	t.Parallel()
	n := streamstest.StartSites(t)
	v := newVault(t, nil)
	home, away := n.Connect(streamstest.Home+"1", "home"), n.Connect(streamstest.Away+"1", "away")
	makePool(t, home, streamstest.Away)
	for stream, cluster := range map[string]string{west.Stream(): streamstest.Away, streams.Changes: streamstest.Home} {
		st, err := home.JS.Stream(background(t), stream)
		if err != nil || st.CachedInfo().Cluster.Name != cluster {
			t.Fatalf("stream %s is in %+v, %v", stream, st.CachedInfo().Cluster, err)
		}
	}
	a, b := serve(t, home, v, "", false), serve(t, away, v, west, false)
	owns(t, a, streams.Partitions)
	owns(t, b, streams.Partitions)
	here, there := newAgent(t, home, "web1", "sda"), newAgent(t, away, "web2", "sda")
	there.pool = west
	for _, x := range []*agent{here, there} {
		x.publish(x.open("first"))
		x.steps(20)
	}
	only := func(s *Server, disk string) {
		t.Helper()
		eventually(t, "the server to say what it has handled", func() bool { return len(handled(s)) > 0 })
		if got := handled(s); !slices.Equal(got, []string{disk}) {
			t.Fatalf("a server has handled %v, it should be %s alone", got, disk)
		}
	}
	only(a, "web1/sda")
	only(b, "web2/sda")

	// Nobody of the pool is there: its changes wait where they are, all else goes on.
	b.kill()
	there.publish(there.write(), there.write(), there.cut())
	before := there.confirmed
	here.steps(20)
	if there.listen(); there.confirmed != before {
		t.Fatalf("somebody has handled changes of %s: %s after %s", there.id(), there.confirmed, before)
	}
	only(a, "web1/sda")
	st, err := away.JS.Stream(background(t), west.Stream())
	if err != nil || st.CachedInfo().State.Msgs < 3 { // and what the server had not said before it died
		t.Fatalf("3 changes should wait at the other site: %+v, %v", st.CachedInfo().State, err)
	}

	// One that stands by, at home, takes over, and lets go.
	s := serve(t, n.Connect(streamstest.Home+"2", "standby"), v, west, true)
	owns(t, s, streams.Partitions)
	there.settled()
	there.steps(10)
	c := serve(t, n.Connect(streamstest.Away+"1", "away again"), v, west, false)
	owns(t, c, streams.Partitions)
	owns(t, s, 0)
	links := s.Stats().Links
	there.steps(10)
	if got := s.Stats().Links; got != links {
		t.Fatalf("the one that stands by has committed %d links more", got-links)
	}
	for _, x := range []*agent{here, there} {
		x.persist()
		x.verify(v)
		if x.resends() > 0 {
			t.Errorf("disk %s was asked to send again %d times", x.id(), x.resends())
		}
	}
}

// A site in use gets a pool, and a disk is moved to it and back: its chain goes on, nothing
// that the vault has is sent again, and the image is right all the time.
func TestDiskMovesToPool(t *testing.T) {
	r := newRig(t)
	a := serve(t, r.nats.Connect("a"), r.v, "", false)
	owns(t, a, streams.Partitions)
	x := newAgent(t, r.b, "web1", "sda")
	x.publish(x.open("first"))
	x.steps(20)
	x.publish(x.write(), x.write()) // on their way while the pool is made
	makePool(t, r.b, "")
	x.steps(5)
	if x.at.Epoch != 1 || x.resends() > 0 {
		t.Fatalf("the chain did not go on: it is at %s, %d resends", x.at, x.resends())
	}
	b := serve(t, r.nats.Connect("b"), r.v, west, false)
	owns(t, b, streams.Partitions)
	for i, pool := range []streams.Pool{west, "", west} {
		// The old pool may still have to do with what was sent to it.
		x.publish(x.write(), x.write())
		x.pool = pool
		moved := x.newEpoch("moved to another pool")
		if len(moved) > 64 { // of a disk of 2048 blocks
			t.Fatalf("%d links are sent again", len(moved))
		}
		x.publish(moved...)
		x.steps(10)
		x.verify(r.v)
		if want := uint64(i + 2); x.at.Epoch != want {
			t.Fatalf("epoch %d, want %d: it was opened again", x.at.Epoch, want)
		}
	}
	if n := x.resends(); n > 0 {
		t.Errorf("the disk was asked to send again %d times", n)
	}
}
