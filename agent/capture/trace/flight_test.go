package trace

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever is handed over, joined and completed on which CPU, and however that falls
// between the readings of the rings: nothing is taken for done that is not, and when the
// disk is at rest everything is.
func TestFlightLandsWhenAllIsDone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const cpus = 3
		type note struct {
			queued, done uint64
			bio          int
		}
		var rings [cpus][]note
		var size []uint64         // of each bio handed over
		under := map[int]bool{}   // not completed
		pending := map[int]bool{} // as far as the rings tell
		var seen sums
		f := newFlight()
		// Before recording began something was handed over.
		for range rapid.IntRange(0, 2).Draw(rt, "older") {
			n := rapid.Uint64Range(1, 9).Draw(rt, "size")
			rings[0] = append(rings[0], note{done: n, bio: -1})
		}
		happen := func() {
			for range rapid.IntRange(0, 3).Draw(rt, "happens") {
				cpu := rapid.IntRange(0, cpus-1).Draw(rt, "cpu")
				if rapid.Bool().Draw(rt, "hand over") {
					n := rapid.Uint64Range(1, 9).Draw(rt, "size")
					under[len(size)] = true
					rings[cpu] = append(rings[cpu], note{queued: n, bio: len(size)})
					size = append(size, n)
					continue
				}
				var sum uint64
				for b := range size {
					if under[b] && rapid.Bool().Draw(rt, "joined") {
						sum += size[b]
						delete(under, b)
					}
				}
				if sum > 0 {
					rings[cpu] = append(rings[cpu], note{done: sum, bio: -1})
				}
			}
		}
		read := func() {
			for c := range rings {
				for _, n := range rings[c] {
					seen.queued += n.queued
					seen.discarded += n.done
					if n.bio >= 0 {
						pending[n.bio] = true
					}
				}
				rings[c] = nil
				happen()
			}
		}
		land := func() {
			read()
			done := seen.discarded
			read()
			ok, err := f.settled(seen.queued, done)
			if err != nil {
				rt.Fatal(err)
			}
			if !ok {
				return
			}
			for b := range pending {
				if under[b] {
					rt.Fatalf("discard %d is taken for done", b)
				}
			}
			clear(pending)
		}
		for c := range rings { // at the beginning nothing else is there
			for _, n := range rings[c] {
				seen.discarded += n.done
			}
			rings[c] = nil
		}
		f.absorb(seen.queued, seen.discarded)
		for range rapid.IntRange(1, 12).Draw(rt, "looks") {
			happen()
			land()
		}
		for b := range under {
			rings[1] = append(rings[1], note{done: size[b], bio: -1})
			delete(under, b)
		}
		happen = func() {}
		land()
		if len(pending) > 0 {
			rt.Fatalf("%d discards are under way for ever", len(pending))
		}
	})
}

func TestFlightDoubts(t *testing.T) {
	f := newFlight()
	if _, err := f.settled(8, 16); err == nil || !strings.Contains(err.Error(), "8 sectors") {
		t.Errorf("more was completed than handed over: %v", err)
	}
	if !f.absorb(8, 16) || f.absorb(8, 16) {
		t.Error("what is older was not absorbed once")
	}
	if ok, err := f.settled(8, 16); !ok || err != nil {
		t.Errorf("after that: %v, %v", ok, err)
	}
	now := time.Unix(1e9, 0)
	if err := f.stuck(now, 16); err != nil {
		t.Error(err)
	}
	f.pending.Add(1, 1)
	for _, c := range []struct {
		after time.Duration
		done  uint64
		want  bool
	}{{stuckAfter, 16, false}, {stuckAfter + time.Minute, 16, true}, {stuckAfter + 2*time.Minute, 24, false}, {2*stuckAfter + time.Minute, 24, false}, {3 * stuckAfter, 24, true}} {
		if err := f.stuck(now.Add(c.after), c.done); (err != nil) != c.want {
			t.Errorf("after %v: %v", c.after, err)
		}
	}
}
