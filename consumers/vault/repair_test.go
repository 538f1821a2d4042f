package vault

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// parts of a segment, from where to where.
func partsOf(t *testing.T, v *Vault, key string) map[string][2]int {
	t.Helper()
	_, r, _ := parseSegmentKey(key)
	d, err := v.disk(t.Context(), testDisk)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.read(t.Context(), r, partIndex)
	if err != nil {
		t.Fatal(err)
	}
	index := int(s.SumsOff + s.SumsLen)
	size := int(s.size)
	return map[string][2]int{
		"header": {0, 42}, "sums": {int(s.SumsOff), index}, "index": {index, index + int(s.IndexLen)},
		"trailer": {index + int(s.IndexLen), size - 46}, "footer": {size - 46, size},
	}
}

func flipped(st *storetest.Mem, key string, from, to int) *storetest.Mem {
	c := st.Clone()
	b := c.Bytes(key)
	bit := 8*from + rand.IntN(8*(to-from))
	b[bit/8] ^= 1 << (bit % 8)
	c.Set(key, b)
	return c
}

// wantTold fails unless each point restores right or is among the lost.
func (p *past) wantTold(t *testing.T, st *storetest.Mem, done *Repaired, what string) (lost int) {
	t.Helper()
	v := unlockTest(t, st)
	points, _, err := v.Points(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range points {
		told := slices.ContainsFunc(done.Lost, func(l LostPoint) bool { return l.ID == x.ID })
		at := x.Machines[0].Disks[0].At
		if told {
			lost++
			if err := v.Prove(t.Context(), x); err == nil {
				t.Errorf("%s: point %s is said to be lost and is not", what, x.ID)
			}
			continue
		}
		wantDisk(t, v, at, p.m.states[at])
	}
	if len(done.Left.Problems) == 0 && len(done.Lost) > 0 {
		t.Errorf("%s: points are lost, and nothing is wrong: %+v", what, done.Lost)
	}
	return lost
}

// Whatever of a segment is damaged but its frames, repair makes it anew, and every
// point comes back. What it cannot make anew it says, with the points that are lost.
func TestRepairSegments(t *testing.T) {
	p := newPast(t, 29, 30)
	v := unlockTest(t, p.st)
	whole, beyond := map[string]int{}, map[string]int{}
	step := 7 * slower
	if full() {
		step = 1
	}
	n := 0
	for _, key := range p.st.Keys() {
		if _, _, ok := parseSegmentKey(key); !ok {
			continue
		}
		for part, at := range partsOf(t, v, key) {
			if n++; n%step != 0 {
				continue
			}
			st := flipped(p.st, key, at[0], at[1])
			done, err := unlockTest(t, st).Repair(t.Context(), nil)
			if err != nil {
				t.Fatalf("%s of %s: %v", part, key, err)
			}
			p.wantTold(t, st, done, part+" of "+key)
			if len(done.Left.Problems) > 0 {
				beyond[part]++
				continue
			}
			whole[part]++
			if len(done.Done) == 0 || done.Done[0].Key != key || len(done.Lost) > 0 {
				t.Errorf("%s of %s: %+v", part, key, done)
			}
			w := openDisk(t, unlockTest(t, st)) // and the disk can be written on
			p.m.verifySums(w)
			commit(t, w, batch(w.Head(), 1, frame(CodecRaw, write{1, 1, text(1, 99)})))
		}
	}
	t.Logf("made anew: %v; beyond repair: %v", whole, beyond)
	for _, part := range []string{"header", "sums", "index"} {
		if beyond[part] > 0 || whole[part] == 0 && full() {
			t.Errorf("%s: %d made anew, %d beyond repair", part, whole[part], beyond[part])
		}
	}
	if full() && (whole["trailer"] == 0 || whole["footer"] == 0) {
		t.Error("no end was made anew")
	}
}

// Damaged data is lost; which points that hits is said exactly.
func TestRepairTellsWhatIsLost(t *testing.T) {
	p := newPast(t, 31, 40)
	v := unlockTest(t, p.st)
	hits, misses := 0, 0
	var keys []string
	for _, key := range p.st.Keys() {
		if _, _, ok := parseSegmentKey(key); ok {
			keys = append(keys, key)
		}
	}
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for _, key := range keys[:min(len(keys), 8/slower)] {
		end := partsOf(t, v, key)["sums"][0]
		if end <= 46 {
			continue // it has no frames
		}
		st := flipped(p.st, key, 46, end)
		done, err := unlockTest(t, st).Repair(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(done.Left.Problems) == 0 {
			t.Errorf("%s: nothing is wrong with it any more", key)
		}
		lost := p.wantTold(t, st, done, key)
		hits += lost
		misses += len(done.Kept)
	}
	if hits == 0 {
		t.Error("no point was lost: this test shows too little")
	}
	t.Logf("%d points lost, %d named by the check that restore all the same", hits, misses)
}

// Maps, pins and folded segments that are not needed yet are put right.
func TestRepairTheRest(t *testing.T) {
	p, _ := newMapped(t)
	v := unlockTest(t, p.st)
	if err := v.Pin(t.Context(), p.stay[0], "keep me"); err != nil {
		t.Fatal(err)
	}
	st := p.st.Clone()
	var pin string
	for _, k := range st.Keys() {
		if strings.HasPrefix(k, pinPrefix) {
			pin = k
		}
	}
	st = flipped(st, pin, 12, len(st.Bytes(pin)))
	// Maintain died before it deleted what it had folded.
	before := st.Clone()
	if _, err := unlockTest(t, st).Maintain(t.Context(), now(keepers, p.stay[:1]...)); err != nil {
		t.Fatal(err)
	}
	for _, k := range before.Keys() {
		if _, _, ok := parseSegmentKey(k); ok && st.Bytes(k) == nil {
			st.Set(k, before.Bytes(k))
		}
	}
	folded := ""
	for _, k := range st.Keys() {
		if _, r, ok := parseSegmentKey(k); ok && r.level == levelFolded && before.Bytes(k) == nil {
			folded = k
		}
	}
	if folded == "" {
		t.Fatal("nothing was folded")
	}
	st = flipped(st, folded, 0, len(st.Bytes(folded)))
	bad := ""
	for _, k := range st.Keys() {
		if _, _, ok := parseMapKey(k); ok {
			bad = k
		}
	}
	if bad != "" {
		st = flipped(st, bad, 0, len(st.Bytes(bad)))
	}
	done, err := unlockTest(t, st).Repair(t.Context(), nil)
	if err != nil || len(done.Left.Problems) > 0 || len(done.Lost) > 0 {
		t.Fatalf("%+v %v %+v", done, err, done.Left)
	}
	for _, key := range []string{bad, pin, folded} {
		if key != "" && !slices.ContainsFunc(done.Done, func(d Problem) bool { return d.Key == key }) {
			t.Errorf("%s: nothing is said of it: %+v", key, done.Done)
		}
	}
	if pins, bad, err := unlockTest(t, st).Pins(t.Context()); err != nil || len(bad) > 0 || len(pins) != 1 {
		t.Errorf("%v %v %v", pins, bad, err)
	}
	p.restores(t, st)
}
