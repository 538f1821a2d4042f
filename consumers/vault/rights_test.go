package vault

import (
	"errors"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// A process server's vault writes and reads, and cannot prune.
func TestAppendOnly(t *testing.T) {
	_, v := memVault(t)
	a, err := v.AppendOnly()
	if err != nil || a.ID() != v.ID() {
		t.Fatal(err)
	}
	w := openDisk(t, a)
	const size = 8 * BlockSize
	h := commit(t, w, cutAt(opening(1, size, frame(CodecRaw, write{1, 1, text(1, 1)})), size))
	want := make([]byte, size)
	copy(want[BlockSize:], text(1, 1))
	wantDisk(t, v, h.Position, want)
	if err := a.Store().Delete(t.Context(), markerKey); !errors.Is(err, store.ErrDenied) {
		t.Errorf("delete: %v, want ErrDenied", err)
	}
}
