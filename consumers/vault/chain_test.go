package vault

import (
	"errors"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

// chainOf makes a disk of one epoch with five segments of two links each, after the
// change has been made to the trailer of the one that starts at link 5, or, with drop,
// without that one.
func chainOf(t *testing.T, change func(*format.Trailer), drop bool) (*Vault, string) {
	st, v := memVault(t)
	w := openDisk(t, v)
	b := opening(1, 16*BlockSize)
	b.Last, b.Hash = 2, hashAt(1, 2, 0)
	commit(t, w, b)
	for range 4 {
		commit(t, w, batch(w.Head(), 2, frame(CodecRaw, write{w.Head().Number, 1, text(1, 1)})))
	}
	key := segmentKey(testDisk, 1, 5)
	d, err := v.disk(t.Context(), testDisk)
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.read(t.Context(), segmentRef{epoch: 1, first: 5}, partIndex|partSums)
	if err != nil {
		t.Fatal(err)
	}
	st.Remove(key)
	if drop {
		return v, key
	}
	change(s.Trailer)
	p := &plan{frames: s.frames, data: [][]byte{text(1, 1)}, sums: s.sums}
	forged, err := d.write(nil, segmentRef{epoch: 1, first: 5}, p, s.Trailer)
	if err != nil {
		t.Fatal(err)
	}
	st.Set(key, forged)
	return v, key
}

// What is sealed with the right key, but does not belong where it is, is found too: it
// comes from a writer with a fault.
func TestChainIsChecked(t *testing.T) {
	changes := map[string]func(*format.Trailer){
		"prev":      func(t *format.Trailer) { t.Prev[0] ^= 1 },
		"hash":      func(t *format.Trailer) { t.Hash[0] ^= 1 },
		"last":      func(t *format.Trailer) { t.Last++ },
		"short":     func(t *format.Trailer) { t.Last-- },
		"base":      func(t *format.Trailer) { t.BaseHash[0] ^= 1 },
		"digest":    func(t *format.Trailer) { t.Digest[0] ^= 1 },
		"blocks":    func(t *format.Trailer) { t.Zeros++ },
		"unchanged": func(*format.Trailer) {},
		"missing":   nil,
	}
	for name, change := range changes {
		v, key := chainOf(t, change, change == nil)
		_, openErr := v.OpenDisk(t.Context(), testDisk)
		_, readErr := v.OpenAt(t.Context(), testDisk, Position{1, 10}, ReaderOptions{})
		r, err := v.Check(t.Context(), CheckOptions{ReadData: true})
		if err != nil {
			t.Fatal(err)
		}
		if name == "unchanged" {
			if openErr != nil || readErr != nil || len(r.Problems) != 0 {
				t.Errorf("%s: %v, %v, %v", name, openErr, readErr, r.Problems)
			}
			continue
		}
		if len(r.Problems) == 0 {
			t.Errorf("%s: the check finds nothing", name)
		}
		if name == "digest" {
			continue // of an instant in between: only a check looks at that
		}
		var damage *DamageError
		if !errors.As(readErr, &damage) || !strings.HasPrefix(damage.Key, segmentsPrefix(testDisk)) {
			t.Errorf("%s: OpenAt: %v", name, readErr)
		}
		if !errors.Is(openErr, ErrDamaged) {
			t.Errorf("%s: OpenDisk: %v", name, openErr)
		}
		if name == "missing" && (damage == nil || damage.Key != key || !strings.Contains(damage.What, "missing")) {
			t.Errorf("%s: %v does not name %s", name, readErr, key)
		}
	}
}
