package process

import (
	"testing"

	"github.com/leeward-dr/leeward/streams"
)

// The more partitions have a backlog, the less is fetched ahead for each; what was asked
// for when that changes is not lost.
func TestFetchesLessAheadForMany(t *testing.T) {
	r := newRig(t)
	s := r.server()
	a := newAgent(t, r.b, "web1", "sda")
	one, p := s.ahead(), streams.Partition("web1", "sda")
	crowd := func(n uint64) { // of partitions that are not this server's
		for p := range streams.Partitions {
			if s.parts[p] == nil {
				s.behind[p].Store(n)
			}
		}
	}
	a.publish(a.open("first"))
	a.settled() // it is fetching
	for round := range 4 {
		crowd(uint64(1 - round%2))
		if many := s.ahead(); round%2 == 0 && (many > one/2 || many < 2*streams.MaxMessage) {
			t.Fatalf("%d bytes ahead for many, %d for one", many, one)
		}
		for range 20 {
			a.publish(a.write())
		}
		eventually(t, "more or less to be fetched", func() bool { a.publish(a.write()); return s.fetching[p].Load() == int64(s.ahead()) })
	}
	a.publish(a.cut())
	a.settled()
	r.empty()
	a.verify(r.v)
	if a.resends() != 0 {
		t.Errorf("%d resends", a.resends())
	}
}
