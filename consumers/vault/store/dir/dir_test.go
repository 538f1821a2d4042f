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
}

// When the disk is unmounted, or the directory is gone, nothing says that an object
// does not exist, and nothing is written where the disk should be.
func TestAway(t *testing.T) {
	ctx := t.Context()
	for name, vanish := range map[string]func(t *testing.T, root string) (back func()){
		"moved": func(t *testing.T, root string) func() {
			must(t, os.Rename(root, root+"-away"))
			return func() { must(t, os.Rename(root+"-away", root)) }
		},
		"an empty place": func(t *testing.T, root string) func() {
			must(t, os.Rename(root, root+"-away"))
			must(t, os.Mkdir(root, 0o700))
			return func() {
				left, err := os.ReadDir(root)
				if err != nil || len(left) > 0 {
					t.Errorf("something was written into the place of the disk: %v, %v", left, err)
				}
				must(t, os.RemoveAll(root))
				must(t, os.Rename(root+"-away", root))
			}
		},
		"another disk": func(t *testing.T, root string) func() {
			must(t, os.Rename(root, root+"-away"))
			if _, err := Create(root); err != nil {
				t.Fatal(err)
			}
			return func() {
				must(t, os.RemoveAll(root))
				must(t, os.CopyFS(root, os.DirFS(root+"-away"))) // mounted again: another inode
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := create(t)
			must(t, s.Put(ctx, "a/b", []byte("x")))
			back := vanish(t, s.root)
			_, get := s.Get(ctx, "a/b", 0, -1)
			_, stat := s.Stat(ctx, "a/c")
			for verb, err := range map[string]error{
				"get": get, "stat": stat, "put": s.Put(ctx, "a/d", nil), "delete": s.Delete(ctx, "a/b"), "sync": s.Sync(ctx, ""),
				"list": s.List(ctx, "", func(store.Info) error { return nil }),
			} {
				if !errors.Is(err, store.ErrAway) || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v, want ErrAway", verb, err)
				}
			}
			back()
			if b, err := s.Get(ctx, "a/b", 0, -1); err != nil || string(b) != "x" {
				t.Errorf("it is back: %q, %v", b, err)
			}
			must(t, s.Put(ctx, "a/e/f", nil))
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is young is not deleted, what is old is.
func TestKeep(t *testing.T) {
	s, err := OpenWith(t.TempDir(), Options{Create: true, Keep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	must(t, s.Put(ctx, "young", nil))
	must(t, s.Put(ctx, "old", nil))
	past := time.Now().Add(-61 * time.Minute)
	must(t, os.Chtimes(filepath.Join(s.root, "old"), past, past))
	if err := s.Delete(ctx, "young"); !errors.Is(err, store.ErrKept) {
		t.Errorf("young: %v, want ErrKept", err)
	}
	must(t, s.Delete(ctx, "old"))
	must(t, s.Delete(ctx, "none"))
	if _, err := s.Stat(ctx, "young"); err != nil {
		t.Error(err)
	}
	if _, err := OpenWith(s.root, Options{Keep: -1}); err == nil {
		t.Error("a negative time to keep")
	}
}
