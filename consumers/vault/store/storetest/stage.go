package storetest

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// testStage holds for every store: those that are no store.Stager are staged by waiting.
func testStage(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, size := range []int{0, 5, 4096, 300<<10 + 17, 1 << 20, 3<<20 + 1} {
		data := make([]byte, size)
		rand.NewChaCha8([32]byte{byte(size)}).Read(data)
		key := "g/" + string(rune('a'+size%26)) + "x"
		first, err := store.Stage(ctx, s, key, data)
		if err != nil {
			t.Fatal(err)
		}
		second, err := store.Stage(ctx, s, key, append([]byte("other"), data...))
		if err != nil {
			t.Fatal(err)
		}
		if got := keys(t, s, key); len(got) != 0 {
			t.Errorf("%d bytes: %v is seen before it is committed", size, got)
		}
		if err := first.Commit(ctx); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if err := second.Commit(ctx); !errors.Is(err, store.ErrExists) {
			t.Errorf("%d bytes: the second: %v, want ErrExists", size, err)
		}
		first.Abort()
		second.Abort()
		if b, err := s.Get(ctx, key, 0, -1); err != nil || !bytes.Equal(b, data) {
			t.Errorf("%d bytes: %d come back, %v", size, len(b), err)
		}
	}
	gone, err := store.Stage(ctx, s, "g/gone", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	gone.Abort()
	put(t, s, "g/gone", "y") // nothing is in the way
	if g, err := store.Stage(ctx, s, "../g", nil); err == nil {
		if err = g.Commit(ctx); !errors.Is(err, store.ErrKey) {
			t.Errorf("a bad key: %v, want ErrKey", err)
		}
	} else if !errors.Is(err, store.ErrKey) {
		t.Errorf("a bad key: %v, want ErrKey", err)
	}
	late, err := store.Stage(ctx, s, "g/late", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := late.Commit(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	if err := late.Commit(ctx); err != nil {
		t.Errorf("again: %v", err)
	}
	late.Abort()
}
