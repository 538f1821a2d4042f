package vault

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// Going back from any position, maps follow each other without gap or overlap, there
// are less segments than the fan before the first, and few maps.
func TestMapsFor(t *testing.T) {
	for _, fan := range []int{2, 3, 16} {
		made := map[mapRange]bool{}
		for n := range 5000 {
			all := mapsFor(n, fan)
			at := 0
			for _, m := range all {
				if m.from != at || m.to <= m.from || m.to%fan != 0 {
					t.Fatalf("fan %d, %d segments: %+v", fan, n, all)
				}
				at = m.to
				made[m] = true
			}
			levels := 1
			for step := fan; step <= n; step *= fan {
				levels++
			}
			if n-at >= fan || len(all) > levels {
				t.Fatalf("fan %d, %d segments: %+v", fan, n, all)
			}
		}
		if len(made) > 5000/fan {
			t.Errorf("fan %d: %d maps for 5000 segments", fan, len(made))
		}
	}
}

// newMapped is a vault with a long history and maps of it, of several levels.
func newMapped(t *testing.T) (p *past, maps []string) {
	t.Helper()
	for seed := uint64(17); seed < 40; seed++ {
		p, maps = newPast(t, seed, 70), nil
		v := unlockTest(t, p.st)
		if done, err := v.Maintain(t.Context(), now(Retention{})); err != nil {
			t.Fatalf("%+v, %v", done, err)
		}
		levels := map[uint8]bool{}
		for _, k := range p.st.Keys() {
			if _, r, ok := parseMapKey(k); ok {
				maps = append(maps, k)
				levels[r.level] = true
			}
		}
		if len(levels) > 1 {
			return p, maps
		}
	}
	t.Fatal("no history has maps of several levels")
	return nil, nil
}

// Readers use maps, and do without when they are lost, damaged or out of date: never
// is anything else read.
func TestMapsMayBeLost(t *testing.T) {
	p, maps := newMapped(t)
	p.verify(t, p.st)
	used := 0
	p.st.Faults(func(op storetest.Op) storetest.Fault {
		if op.Verb == "get" && strings.HasSuffix(op.Key, mapSuffix) {
			used++
		}
		return storetest.Fault{}
	})
	p.verify(t, p.st)
	p.st.Faults(nil)
	if used == 0 {
		t.Fatal("maps are not used")
	}
	if !full() {
		rand.Shuffle(len(maps), func(i, j int) { maps[i], maps[j] = maps[j], maps[i] })
		maps = maps[:4/slower+1]
	}
	for _, k := range maps {
		whole := p.st.Bytes(k)
		for range 2 {
			st := p.st.Clone()
			b := bytes.Clone(whole)
			bit := rand.IntN(8 * len(b))
			b[bit/8] ^= 1 << (bit % 8)
			st.Set(k, b)
			p.restores(t, st)
			if !detected(t, st, k) {
				t.Errorf("%s: bit %d flipped: not detected", k, bit)
			}
		}
		for _, n := range []int{rand.IntN(len(whole)), len(whole) - 1} {
			st := p.st.Clone()
			st.Set(k, whole[:n])
			p.restores(t, st)
		}
	}
	bare, _ := withoutMaps(p.st)
	p.verify(t, bare)
}

// restores makes sure that every point restores, damaged maps or not.
func (p *past) restores(t *testing.T, st *storetest.Mem) {
	t.Helper()
	v := unlockTest(t, st)
	points, bad, err := v.Points(t.Context(), "")
	if err != nil || len(bad) > 0 || len(points) == 0 {
		t.Fatal(bad, err)
	}
	rand.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	for _, x := range points[:min(len(points), 3)] {
		at := x.Machines[0].Disks[0].At
		wantDisk(t, v, at, p.m.states[at])
	}
}

// A map of segments that were replaced behind its back is not believed.
func TestStaleMap(t *testing.T) {
	p, maps := newMapped(t)
	old := map[string][]byte{}
	for _, k := range maps {
		old[k] = p.st.Bytes(k)
	}
	if _, err := unlockTest(t, p.st).Maintain(t.Context(), now(keepers, p.stay...)); err != nil {
		t.Fatal(err)
	}
	p.verify(t, p.st)
	back := 0
	for k, b := range old {
		if p.st.Bytes(k) == nil {
			p.st.Set(k, b)
			back++
		}
	}
	if back == 0 {
		t.Fatal("no map was replaced")
	}
	p.restores(t, p.st)
	r, err := unlockTest(t, p.st).Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil || len(r.Problems) == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, x := range r.Problems {
		if !strings.HasSuffix(x.Key, mapSuffix) || !strings.Contains(x.What, "is not there") {
			t.Errorf("problem %s", x)
		}
	}
	// The next maintenance removes it.
	if _, err := unlockTest(t, p.st).Maintain(t.Context(), now(keepers, p.stay...)); err != nil {
		t.Fatal(err)
	}
	p.verify(t, p.st)
}

// A map that says other than its segments, though it opens, is found by a check that
// reads everything.
func TestLyingMap(t *testing.T) {
	p, maps := newMapped(t)
	v := unlockTest(t, p.st)
	d, err := v.disk(t.Context(), testDisk)
	if err != nil {
		t.Fatal(err)
	}
	h, err := d.history(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, k := range maps {
		_, r, _ := parseMapKey(k)
		of := h[r.epoch].chain(r.last, func(segmentRef) bool { return true })
		of = of[at(of, r.first):]
		if len(of) < 2 || d.sumOfKeys(of) != r.sum {
			continue
		}
		// It leaves out what its last segment wrote.
		all, err := d.gather(t.Context(), of)
		if err != nil {
			t.Fatal(err)
		}
		less, err := d.gather(t.Context(), of[:len(of)-1])
		if err != nil {
			t.Fatal(err)
		}
		w := mapWriter{d: d, ref: r, stack: less.newestFirst(), number: map[frameSource]uint32{}}
		if err := w.write(t.Context(), all.first, all.last); err != nil {
			t.Fatal(err)
		}
		st := p.st.Clone()
		st.Set(k, w.buf)
		if detected(t, st, k) {
			found++
		}
	}
	if found < 2 { // a segment may have changed nothing
		t.Errorf("%d of %d lies were found", found, len(maps))
	}
}

// Maps made in one go and from other maps say the same.
func TestMapsAreAlike(t *testing.T) {
	p, maps := newMapped(t)
	v := unlockTest(t, p.st)
	d, err := v.disk(t.Context(), testDisk)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range maps {
		_, r, _ := parseMapKey(k)
		s, err := d.openMap(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		s.chart.parts = newParts(partsBudget)
		h, err := d.history(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		of := h[r.epoch].chain(r.last, func(segmentRef) bool { return true })
		of = of[at(of, r.first):]
		maker := &mapMaker{d: d, parts: newParts(partsBudget)}
		for _, x := range of {
			s, err := d.read(t.Context(), x, partIndex)
			if err == nil {
				err = maker.add(t.Context(), s)
			}
			if err == nil {
				err = maker.shrink(t.Context()) // each a map of its own
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		whole := maker.newestFirst()
		for _, n := range s.chart.numbers {
			want, err1 := whole.placed(t.Context(), n)
			got, err2 := stack{s.chart}.placed(t.Context(), n)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			if r.first == 1 && s.BaseEpoch == 0 {
				want = slices.DeleteFunc(want, func(p placed) bool { return p.source == segmentRef{} })
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%s page %d:\n got %+v\nwant %+v", k, n, got, want)
			}
		}
	}
}

func TestHexPrefixes(t *testing.T) {
	covers := func(all []string, n uint64) bool {
		text := fmt.Sprintf("%016x", n)
		return slices.ContainsFunc(all, func(p string) bool { return strings.HasPrefix(text, p) })
	}
	for range 2000 {
		from := rand.Uint64() >> rand.IntN(64)
		to := from + rand.Uint64N(5000)
		if to < from {
			continue
		}
		all := hexPrefixes(from, to)
		if len(all) > 40 || !slices.IsSorted(all) {
			t.Fatalf("%x to %x: %v", from, to, all)
		}
		for _, n := range []uint64{from, to, from + (to-from)/2, from + (to-from)/3} {
			if !covers(all, n) {
				t.Fatalf("%x to %x: %v lacks %x", from, to, all, n)
			}
		}
		if from > 256 && covers(all, from-256) || to < 1<<63 && covers(all, to+256) {
			t.Fatalf("%x to %x: %v is too much", from, to, all)
		}
	}
	if got := hexPrefixes(0x1a3f0, 0x1a412); fmt.Sprint(got) != "[000000000001a3 000000000001a4]" {
		t.Error(got)
	}
}
