package vault

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

func TestRecords(t *testing.T) {
	st := storetest.NewMem()
	v := newTestVault(t, st)
	at := time.Unix(1700000000, 5).UTC()
	put := func(kind, name string, version uint64, value string) {
		t.Helper()
		if err := v.PutRecord(t.Context(), &Record{Kind: kind, Name: name, Version: version, Time: at, By: "ada", Gone: value == "", Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	put("policy", "default", 1, "one")
	put("policy", "default", 2, "two")
	put("policy", "default-2", 1, "other")
	put("plan", "shop", 0x10, "sixteen")
	put("plan", "shop", 0x9, "nine")
	put("group", "web", 1, "x")
	put("group", "web", 2, "")
	want := func(v *Vault, want ...string) {
		t.Helper()
		all, bad, err := v.Records(t.Context())
		if err != nil || len(bad) > 0 || len(all) != len(want) {
			t.Fatalf("%+v, %v, %v; want %q", all, bad, err, want)
		}
		for i, r := range all {
			if got := fmt.Sprintf("%s/%s %d %v %s", r.Kind, r.Name, r.Version, r.Gone, r.Value); got != want[i] || !r.Time.Equal(at) || r.By != "ada" {
				t.Errorf("%s at %s by %s, want %s", got, r.Time, r.By, want[i])
			}
		}
	}
	now := []string{"group/web 2 true ", "plan/shop 16 false sixteen", "policy/default-2 1 false other", "policy/default 2 false two"} // as keys sort
	want(unlockTest(t, st), now...)
	wantClean(t, v)
	if o, err := v.Inspect(t.Context(), recordKey("plan", "shop", 16)); err != nil || string(o.(*Object).Record.Value) != "sixteen" || o.(*Object).Kind != "record" {
		t.Errorf("%+v, %v", o, err)
	}

	// Of two who write the same version one is told, and append-only rights suffice.
	if err := v.PutRecord(t.Context(), &Record{Kind: "plan", Name: "shop", Version: 16}); !errors.Is(err, ErrExists) {
		t.Errorf("the same version again: %v", err)
	}
	only, err := v.AppendOnly()
	if err != nil {
		t.Fatal(err)
	}
	if err := only.DropRecords(t.Context(), 1); err == nil {
		t.Error("old versions were dropped without the right to delete")
	}
	if err := v.DropRecords(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	want(v, now...)
	if r := wantClean(t, v); r.Bytes == 0 {
		t.Error("nothing was checked")
	}
	for _, r := range []Record{{Kind: "a/b", Name: "x", Version: 1}, {Kind: "a", Name: "", Version: 1}, {Kind: "a", Name: "x"}, {Kind: "a", Name: "x", Version: 1, Value: make([]byte, MaxRecord+1)}} {
		if err := v.PutRecord(t.Context(), &r); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.60v: %v", r, err)
		}
	}
}

// A version that is damaged, or that stands where another belongs, is named, and the
// one before counts.
func TestRecordDamaged(t *testing.T) {
	for name, harm := range map[string]func(st *storetest.Mem, key string){
		"flipped": func(st *storetest.Mem, key string) { b := st.Bytes(key); b[len(b)-1] ^= 1; st.Set(key, b) },
		"moved":   func(st *storetest.Mem, key string) { st.Set(key, st.Bytes(recordKey("policy", "p", 1))) },
		"short":   func(st *storetest.Mem, key string) { st.Set(key, st.Bytes(key)[:20]) },
	} {
		t.Run(name, func(t *testing.T) {
			st := storetest.NewMem()
			v := newTestVault(t, st)
			for n := uint64(1); n <= 2; n++ {
				if err := v.PutRecord(t.Context(), &Record{Kind: "policy", Name: "p", Version: n, Value: []byte{byte(n)}}); err != nil {
					t.Fatal(err)
				}
			}
			harm(st, recordKey("policy", "p", 2))
			all, bad, err := v.Records(t.Context())
			if err != nil || len(bad) != 1 || !errors.Is(bad[0], ErrDamaged) || len(all) != 1 || all[0].Version != 1 {
				t.Fatalf("%+v, %v, %v", all, bad, err)
			}
			if r, err := v.Check(t.Context(), CheckOptions{}); err != nil || len(r.Problems) != 1 {
				t.Fatalf("%+v, %v", r, err)
			}
			if _, err := v.Repair(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			wantClean(t, v)
		})
	}
}
