package vault

import (
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// Checks of a subset, one after the other, see every segment, and each about as much
// as was asked for.
func TestCheckSubset(t *testing.T) {
	m := newModel(t, 21, storetest.NewMem())
	m.life(80)
	st := m.st.(*storetest.Mem)
	var keys []string
	for _, k := range st.Keys() {
		if _, _, ok := parseSegmentKey(k); ok {
			keys = append(keys, k)
		}
	}
	v := unlockTest(t, st)
	seen := map[string]bool{}
	after, rounds := "", 0
	for ; len(seen) < len(keys); rounds++ {
		// A bit flips in the data of one segment: found when its turn has come, not before.
		r, err := v.Check(t.Context(), CheckOptions{Subset: 0.1, After: after})
		if err != nil || len(r.Problems) > 0 {
			t.Fatalf("%+v %v", r, err)
		}
		if r.Read == 0 || r.Next == "" || r.Read > int64(stored(st)) {
			t.Fatalf("%+v", r)
		}
		for _, k := range keys {
			if after <= r.Next && k > after && k <= r.Next || after > r.Next && (k > after || k <= r.Next) {
				seen[k] = true
			}
		}
		if after = r.Next; rounds > 40 {
			t.Fatal("the checks get nowhere")
		}
	}
	if rounds < 5 || rounds > 12 {
		t.Errorf("%d rounds of a tenth each", rounds)
	}
	target := keys[len(keys)/2]
	b := st.Bytes(target)
	b[60] ^= 1 // in the first frame, or where there is none in what every check reads
	st.Set(target, b)
	found := 0
	for range rounds + 1 {
		r, err := v.Check(t.Context(), CheckOptions{Subset: 0.1, After: after})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Problems {
			if p.Key == target {
				found++
			} else if !strings.HasPrefix(p.Key, pointPrefix) {
				t.Errorf("problem %s", p)
			}
		}
		after = r.Next
	}
	if found == 0 || found > 3 {
		t.Errorf("the damage was found %d times in %d rounds", found, rounds+1)
	}
	if _, err := v.Check(t.Context(), CheckOptions{Subset: 1.5}); err == nil {
		t.Error("a share of 150 %")
	}
}
