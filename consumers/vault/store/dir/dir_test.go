package dir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

func create(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "new", "vault"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return create(t) })
}

func TestOpenWantsADirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("file: %v", err)
	}
	if _, err := Create(filepath.Join(file, "below")); err == nil {
		t.Error("created a directory below a file")
	}
}

// Nothing but whole objects is ever listed, and old leftovers go away.
func TestLeftovers(t *testing.T) {
	s := create(t)
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(s.root, tempDir)
	old, young := filepath.Join(tmp, "OLD"), filepath.Join(tmp, "YOUNG")
	for _, f := range []string{old, young, filepath.Join(s.root, "a", ".hidden")} {
		if err := os.WriteFile(f, []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b", filepath.Join(s.root, "a", "link")); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.root)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	if err := again.List(t.Context(), "", func(i store.Info) error { keys = append(keys, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || keys[0] != "a/b" {
		t.Errorf("listed %v", keys)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("old leftover: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("young leftover: %v", err)
	}
	if err := again.Sync(t.Context(), "a/"); err != nil {
		t.Error(err)
	}
	if err := again.Sync(t.Context(), "none/"); err != nil {
		t.Error(err)
	}
}

// A put that fails leaves nothing behind, and works again when it can.
func TestPutLeavesNothing(t *testing.T) {
	s := create(t)
	if err := s.Put(t.Context(), "p", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "p/q", nil); err == nil {
		t.Error("put below an object")
	}
	if err := s.Put(t.Context(), "p", nil); !errors.Is(err, store.ErrExists) {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Join(s.root, tempDir))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	// Somebody clears the directory away under us: the second put makes it again.
	if err := os.RemoveAll(s.root); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a/b", nil); err == nil {
		t.Error("put into nothing")
	}
	if err := s.Put(t.Context(), "a/b", nil); err != nil {
		t.Error(err)
	}
}
