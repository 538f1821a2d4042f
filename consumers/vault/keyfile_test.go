package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// A key file opens its own slot, with nothing to wait for; what is nearly its text opens
// nothing, and neither does a passphrase that somebody chose.
func TestKeyFileSlot(t *testing.T) {
	text := NewKeyText()
	path := filepath.Join(t.TempDir(), "k")
	if err := os.WriteFile(path, []byte(text+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := KeyFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	st := storetest.NewMem()
	v, err := Create(t.Context(), st, k)
	if err != nil {
		t.Fatal(err)
	}
	// Argon2id as it is by default takes tens of milliseconds where nothing else runs.
	best := time.Hour
	for range 5 {
		began := time.Now()
		if got := opensWith(t, st, k, nil); got.key != v.key {
			t.Fatal("it opened to another key")
		}
		best = min(best, time.Since(began))
	}
	t.Logf("opened in %v", best)
	opensWith(t, st, KeyFromPassphrase(NewKeyText()), ErrWrongKey)
	opensWith(t, st, cheapKey("a passphrase"), ErrWrongKey)
	other := "2" // at one place: a letter of the prefix would make it a passphrase
	if text[10:11] == other {
		other = "3"
	}
	opensWith(t, st, KeyFromPassphrase(text[:10]+other+text[11:]), ErrInvalid)
	slots, _, err := v.Keys(t.Context())
	if err != nil || len(slots) != 1 || slots[0].Kind != "file" {
		t.Fatalf("%+v %v", slots, err)
	}
	whole := st.Bytes(slotKey(slots[0].ID))
	for bit := range len(whole) * 8 { // a flipped bit never opens, and is told from a wrong key
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		st.Set(slotKey(slots[0].ID), b)
		if _, err := Unlock(t.Context(), st, k); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	st.Set(slotKey(slots[0].ID), whole)
	o, err := v.Inspect(t.Context(), slotKey(slots[0].ID))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(o); err != nil || !strings.Contains(string(b), `"kind":"file"`) || strings.Contains(string(b), text[7:20]) {
		t.Errorf("%s, %v", b, err)
	}
	wantClean(t, v)
}

// An earlier program took every line of a key file for a passphrase: what it made of a
// key's text opens, too, and rotation replaces it by a slot that is opened at once.
func TestKeyFileTakenForPassphrase(t *testing.T) {
	text := NewKeyText()
	st := storetest.NewMem()
	old := cheapKey(text)
	old.random = nil
	if _, err := Create(t.Context(), st, old); err != nil {
		t.Fatal(err)
	}
	v := opensWith(t, st, KeyFromPassphrase(text), nil)
	if _, err := v.RotateKey(t.Context(), KeyFromPassphrase(text)); err != nil {
		t.Fatal(err)
	}
	slots, _, err := opensWith(t, st, KeyFromPassphrase(text), nil).Keys(t.Context())
	if err != nil || len(slots) != 1 || slots[0].Kind != "file" {
		t.Fatalf("%+v %v", slots, err)
	}
}

// TestGoldenKeyFile opens a vault with a key file that an earlier build made.
func TestGoldenKeyFile(t *testing.T) {
	const root, text = "testdata/golden-file-slot", "LWKEY1-AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPQ-EID6IMHM"
	k := KeyFromPassphrase(text)
	if *update {
		st := storetest.NewMem()
		if _, err := Create(t.Context(), st, k); err != nil {
			t.Fatal(err)
		}
		for _, key := range st.Keys() {
			path := filepath.Join(root, key)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, st.Bytes(key), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	st := storetest.NewMem()
	readGolden(t, st, root)
	wantClean(t, opensWith(t, st, k, nil))
}
