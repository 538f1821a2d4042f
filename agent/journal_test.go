package agent

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/streams/wire"
)

// The journal must never forget a block whose link is not confirmed, and must
// forget everything once the last link is.
func TestJournalNeverForgetsTooEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var j journal
		links := map[uint64][]wire.Extent{}
		number, confirmed := uint64(0), uint64(0)
		for range rapid.IntRange(1, 3000).Draw(t, "steps") {
			if number > 0 && rapid.IntRange(0, 40).Draw(t, "confirm") == 0 {
				confirmed = rapid.Uint64Range(confirmed, number).Draw(t, "to")
				j.confirm(confirmed)
				continue
			}
			number++
			e := []wire.Extent{{Start: rapid.Uint64Range(0, 1<<20).Draw(t, "start"), Count: rapid.Uint32Range(1, 64).Draw(t, "count")}}
			links[number] = e
			j.add(number, e)
			if len(j.generations) > maxGenerations {
				t.Fatalf("%d generations", len(j.generations))
			}
		}
		all := rapid.Bool().Draw(t, "all")
		if all {
			j.confirm(number)
		}
		left := j.take()
		for n, es := range links {
			if all || n <= confirmed {
				continue
			}
			for _, e := range es {
				for b := e.Start; b < e.Start+uint64(e.Count); b++ {
					if !left.Has(b) {
						t.Fatalf("block %d of link %d is forgotten, confirmed is %d", b, n, confirmed)
					}
				}
			}
		}
		if all && left.Len() > 0 {
			t.Fatalf("%d blocks remembered after everything was confirmed", left.Len())
		}
	})
}
