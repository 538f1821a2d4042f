package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// rsaWrapper wraps as Azure Key Vault does: RSA-OAEP-256.
type rsaWrapper struct {
	name string
	key  *rsa.PrivateKey
	down error
}

func (w *rsaWrapper) Name() string { return w.name }

func (w *rsaWrapper) Wrap(_ context.Context, secret []byte) ([]byte, error) {
	return rsa.EncryptOAEP(sha256.New(), rand.Reader, &w.key.PublicKey, secret, nil)
}

func (w *rsaWrapper) Unwrap(_ context.Context, wrapped []byte) ([]byte, error) {
	if w.down != nil {
		return nil, w.down
	}
	return rsa.DecryptOAEP(sha256.New(), nil, w.key, wrapped, nil)
}

func newRSAWrapper(t *testing.T, name string) *rsaWrapper {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return &rsaWrapper{name: name, key: key}
}

func opensWith(t *testing.T, st *storetest.Mem, k Key, want error) *Vault {
	t.Helper()
	v, err := Unlock(t.Context(), st, k)
	if !errors.Is(err, want) {
		t.Fatalf("unlock: %v, want %v", err, want)
	}
	return v
}

func TestKeySlots(t *testing.T) {
	st, v := memVault(t)
	h := commit(t, openDisk(t, v), opening(1, 8*BlockSize, frame(CodecRaw, write{1, 1, text(1, 1)})))
	want := make([]byte, 8*BlockSize)
	copy(want[BlockSize:], text(1, 1))
	second := cheapKey("second")
	id, err := v.AddKey(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	slots, bad, err := v.Keys(t.Context())
	if err != nil || len(bad) > 0 || len(slots) != 2 {
		t.Fatalf("%+v %v %v", slots, bad, err)
	}
	for _, s := range slots {
		if s.Kind != "passphrase" || s.Used == (s.ID == id) {
			t.Errorf("%+v", s)
		}
	}
	opensWith(t, st, testKey, nil)
	v2 := opensWith(t, st, second, nil)
	wantDisk(t, v2, h.Position, want)
	if err := v2.RemoveKey(t.Context(), id); !errors.Is(err, ErrInvalid) {
		t.Errorf("removed the slot in use: %v", err)
	}
	if err := v2.RemoveKey(t.Context(), "nosuchslot"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed what is not there: %v", err)
	}
	third := cheapKey("third")
	if _, err := v2.RotateKey(t.Context(), third); err != nil {
		t.Fatal(err)
	}
	opensWith(t, st, second, ErrWrongKey)
	opensWith(t, st, testKey, nil)
	v3 := opensWith(t, st, third, nil)
	if err := v3.RemoveKey(t.Context(), v.slot); err != nil {
		t.Fatal(err)
	}
	opensWith(t, st, testKey, ErrWrongKey)
	if err := v.RemoveKey(t.Context(), v3.slot); !errors.Is(err, ErrInvalid) {
		t.Errorf("a vault whose slot is gone removed the last one: %v", err)
	}
	wantDisk(t, opensWith(t, st, third, nil), h.Position, want)
	wantClean(t, v3)
}

func TestOuterSlot(t *testing.T) {
	st, v := memVault(t)
	w := newRSAWrapper(t, "https://keys.example/keys/leeward/1")
	if _, err := v.AddKey(t.Context(), KeyFromWrapper(w)); err != nil {
		t.Fatal(err)
	}
	got := opensWith(t, st, KeyFromWrapper(w), nil)
	if got.key != v.key {
		t.Fatal("it opened to another key")
	}
	opensWith(t, st, KeyFromWrapper(newRSAWrapper(t, "https://keys.example/keys/other/1")), ErrWrongKey)
	w.down = errors.New("the key vault does not answer")
	opensWith(t, st, KeyFromWrapper(w), w.down)
	w.down = nil
	slots, _, err := v.Keys(t.Context())
	if err != nil || len(slots) != 2 {
		t.Fatalf("%+v %v", slots, err)
	}
	for _, s := range slots {
		if (s.Kind == "outer") != (s.Name == w.name) {
			t.Errorf("%+v", s)
		}
		if _, err := v.Inspect(t.Context(), slotKey(s.ID)); err != nil {
			t.Error(err)
		}
		whole := st.Bytes(slotKey(s.ID))
		for bit := range len(whole) * 8 { // a flipped bit never opens, and is told from a wrong key
			b := bytes.Clone(whole)
			b[bit/8] ^= 1 << (bit % 8)
			st.Set(slotKey(s.ID), b)
			if _, err := readSlot(t.Context(), st, slotKey(s.ID)); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatalf("bit %d of a %s slot: %v", bit, s.Kind, err)
			}
		}
		st.Set(slotKey(s.ID), whole)
	}
	if err := opensWith(t, st, KeyFromWrapper(w), nil).RemoveKey(t.Context(), v.slot); err != nil {
		t.Fatal(err)
	}
	wantClean(t, opensWith(t, st, KeyFromWrapper(w), nil))
	// A vault may be made with such a key alone.
	fresh := storetest.NewMem()
	if _, err := Create(t.Context(), fresh, KeyFromWrapper(w)); err != nil {
		t.Fatal(err)
	}
	opensWith(t, fresh, KeyFromWrapper(w), nil)
	opensWith(t, fresh, testKey, ErrWrongKey)
}

// Rotation that dies anywhere leaves a vault that opens with one of the two keys.
func TestRotateCrash(t *testing.T) {
	st, _ := memVault(t)
	next := cheapKey("next")
	for n := 1; ; n++ {
		for _, done := range []bool{false, true} {
			c := st.Clone()
			v := unlockTest(t, c)
			from := c.Ops()
			c.Faults(func(op storetest.Op) storetest.Fault {
				if op.N < from+n {
					return storetest.Fault{}
				}
				return storetest.Fault{Err: errCrash, Done: done && op.N == from+n}
			})
			_, err := v.RotateKey(t.Context(), next)
			c.Faults(nil)
			if err == nil {
				if n < 4 {
					t.Fatalf("only %d operations", n)
				}
				return
			}
			_, err1 := Unlock(t.Context(), c, testKey)
			_, err2 := Unlock(t.Context(), c, next)
			if err1 != nil && err2 != nil {
				t.Fatalf("operation %d, done %v: nothing opens the vault: %v, %v", n, done, err1, err2)
			}
		}
	}
}
