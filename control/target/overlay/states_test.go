package overlay

import (
	"testing"

	"pgregory.net/rapid"
)

// The states behave like a plain array of them.
func TestStatesAreAnArray(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 3*leafPages).Draw(t, "pages")
		s, model := newStates(n), make([]state, n)
		for range rapid.IntRange(1, 20).Draw(t, "sets") {
			from := rapid.Int64Range(0, n-1).Draw(t, "from")
			count := rapid.Int64Range(0, n-from).Draw(t, "count")
			if rapid.Bool().Draw(t, "aligned") {
				from = from / leafPages * leafPages
				count = min(leafPages, n-from)
			}
			to := state(rapid.IntRange(0, 3).Draw(t, "to"))
			s.set(from, count, to)
			for i := from; i < from+count; i++ {
				model[i] = to
			}
		}
		for p := int64(0); p < n; {
			st, count := s.run(p, n-p)
			if count < 1 {
				t.Fatalf("empty run at %d", p)
			}
			for i := p; i < p+count; i++ {
				if model[i] != st {
					t.Fatalf("page %d is %d, the run from %d says %d", i, model[i], p, st)
				}
			}
			if p+count < n && model[p+count] == st {
				t.Fatalf("the run from %d ends early at %d", p, p+count)
			}
			p += count
		}
		for i, leaf := range s.leaves {
			if leaf == s.allBase {
				for _, w := range leaf {
					if w != everyPage {
						t.Fatalf("the shared leaf was changed through leaf %d", i)
					}
				}
			}
		}
	})
}

func TestStatesOfAWholeDiskTakeNoMemory(t *testing.T) {
	const pages = 1 << 28 // 1 TiB
	s := newStates(pages)
	s.set(0, pages, isBase)
	for i, l := range s.leaves {
		if l != s.allBase {
			t.Fatalf("leaf %d is its own", i)
		}
	}
	if st, n := s.run(5, pages-5); st != isBase || n != pages-5 {
		t.Fatalf("run is %d pages of %d", n, st)
	}
}
