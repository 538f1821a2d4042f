package process

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/streams"
)

// Whoever comes and goes in whatever order: everything is owned, by somebody who
// lives, in balance, and nothing moves that need not.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tb table
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			live := map[string]member{}
			for _, id := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 1, 8, rapid.ID).Draw(t, "live") {
				live[fmt.Sprint("s", id)] = member{Standby: rapid.IntRange(0, 2).Draw(t, "standby") == 0}
			}
			work := workers(live)
			before := tb
			var changed bool
			if tb, changed = plan(tb, live); changed != (tb.Generation == before.Generation+1) {
				t.Fatalf("changed %v, generation %d after %d", changed, tb.Generation, before.Generation)
			}
			count := map[string]int{}
			moved, orphans := 0, 0
			for i, s := range tb.Partitions {
				was := before.Partitions[i]
				_, ownerLives := live[s.Owner]
				if _, ok := work[s.holder()]; !ok || !ownerLives {
					t.Fatalf("partition %d is %+v of %v", i, s, live)
				}
				if _, ok := live[was.Owner]; ok && s.Owner != was.Owner {
					t.Fatalf("partition %d was taken from its living owner: %+v, %+v", i, was, s)
				}
				count[s.holder()]++
				if _, ok := work[was.holder()]; !ok {
					orphans++
				} else if s.holder() != was.holder() {
					moved++
				}
			}
			least, most := streams.Partitions, 0
			for id := range work {
				least, most = min(least, count[id]), max(most, count[id])
			}
			if most-least > 1 {
				t.Fatalf("out of balance: %v", count)
			}
			if again, changed := plan(tb, live); changed || again.Generation != tb.Generation {
				t.Fatal("a second look changes it again")
			}
			if orphans == streams.Partitions && moved > 0 {
				t.Fatalf("%d moved of nothing", moved)
			}
			// Some of those that were asked let go.
			for id := range live {
				if rapid.Bool().Draw(t, "lets go") {
					var left []int
					for i, s := range tb.Partitions {
						if s.Owner == id && s.Next != "" {
							left = append(left, i)
						}
					}
					tb, _ = let(tb, id, left)
				}
			}
		}
	})
}

// sharing makes a server that shares all partitions with others like it.
func (r *rig) sharing(name string) *Server {
	r.t.Helper()
	level := slog.LevelError + 1
	if os.Getenv("LEEWARD_LOG") != "" {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("server", name)
	s, err := New(r.nats.Connect(name), r.v, small(), Options{Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	s.tempo = patient() // a gap of a moment, on a busy machine, is not a loss
	s.tempo.request, s.tempo.beat = restless().request, restless().beat
	return s.run(r.t)
}

// shared waits until the servers own everything, each its part.
func shared(t testing.TB, servers ...*Server) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d servers to share the partitions", len(servers)), func() bool {
		var all []int
		for _, s := range servers {
			n := s.owned()
			if d := streams.Partitions / len(servers); len(n) < d || len(n) > d+1 {
				return false
			}
			all = append(all, n...)
		}
		slices.Sort(all)
		return len(all) == streams.Partitions && len(slices.Compact(all)) == streams.Partitions
	})
}

// writers are agents that write until stopped and then verify their disks. finish returns
// how often disks were sent again.
func (r *rig) writers(n int) (finish func() (again int)) {
	var agents []*agent
	stop, done := make(chan struct{}), make(chan struct{}, n)
	for i := range n {
		a := newAgent(r.t, r.b, fmt.Sprintf("web%d", i), "sda")
		agents = append(agents, a)
		go func() {
			defer func() { done <- struct{}{} }()
			a.publish(a.open("first"))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond): // the pace of the load
				}
				if i%10 == 9 {
					a.publish(a.cut())
				} else {
					a.publish(a.write())
				}
				a.obey()
			}
		}()
	}
	return func() (again int) {
		r.t.Helper()
		close(stop)
		for range n {
			<-done
		}
		for _, a := range agents {
			a.persist()
			a.verify(r.v)
			again += a.obeyed
		}
		r.empty()
		r.check()
		return again
	}
}

// nothingAgain is finish where every owner leaves or is missed in time.
func nothingAgain(t *testing.T, finish func() int) {
	t.Helper()
	if n := finish(); n > 0 {
		t.Errorf("disks were sent again %d times: a change of owner lost something", n)
	}
}

// Servers come, go and are killed under load; each time the others share what is
// there, and no agent has to send anything again.
func TestServersShare(t *testing.T) {
	r := newRig(t)
	a := r.sharing("a")
	shared(t, a)
	finish := r.writers(6)
	b, c := r.sharing("b"), r.sharing("c")
	shared(t, a, b, c)
	stop(t, b)
	shared(t, a, c)
	c.kill()
	shared(t, a)
	nothingAgain(t, finish)
	stop(t, a)
	d := r.sharing("d") // from what the others left
	shared(t, d)
}

// A server that nobody hears but that goes on working is a zombie: others take its
// partitions over, JetStream serves it no more, and the vault takes each link once.
func TestZombieServer(t *testing.T) {
	r := newRig(t)
	z := r.sharing("zombie")
	shared(t, z)
	finish := r.writers(6)
	eventually(t, "the zombie to commit", func() bool { return z.Stats().Commits > 5 })
	z.share.end() // neither says nor hears anything any more, and owns all, as it thinks
	b := r.sharing("b")
	shared(t, b)
	eventually(t, "the new owner to commit", func() bool { return b.Stats().Commits > 20 })
	// What it had asked for before may still come, for so long as a request lives.
	eventually(t, "the zombie to be served no more", func() bool {
		before, links := z.Stats().BytesIn, b.Stats().Links
		eventually(t, "the new owner to go on", func() bool { return b.Stats().Links > links+50 })
		return z.Stats().BytesIn == before
	})
	if n := z.Stats().Disks; len(n) == 0 {
		t.Error("the zombie saw no disk: this test shows nothing")
	}
	// What it had fetched and not committed is waited for, fetched again, or found in the vault.
	nothingAgain(t, finish)
}

// All is lost on the bus, the table with it: the servers write another.
func TestTableIsLost(t *testing.T) {
	r := newRig(t)
	a, b := r.sharing("a"), r.sharing("b")
	shared(t, a, b)
	if err := r.b.JS.DeleteKeyValue(background(t), streams.Shares); err != nil {
		t.Fatal(err)
	}
	finish := r.writers(3)
	shared(t, a, b)
	c := r.sharing("c")
	shared(t, a, b, c)
	nothingAgain(t, finish)
}

// A server whose bus is away for a while keeps its partitions.
func TestBusAwayMovesNothing(t *testing.T) {
	r := newRig(t)
	a, b := r.sharing("a"), r.sharing("b")
	shared(t, a, b)
	mine := a.owned()
	r.nats.Kill()
	eventually(t, "the connection to be gone", func() bool { return !a.conn.IsConnected() })
	ctx, cancel := context.WithTimeout(context.Background(), 15*a.tempo.beat)
	defer cancel()
	<-ctx.Done() // longer than a server may be missed
	r.nats.Restart()
	finish := r.writers(2)
	nothingAgain(t, finish)
	shared(t, a, b)
	if got := a.owned(); !slices.Equal(got, mine) {
		t.Errorf("owned %v, now %v", mine, got)
	}
}
