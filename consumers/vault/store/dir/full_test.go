package dir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// A full disk gives a clear error, leaves nothing half-written, and the same put
// works when there is room again.
func TestFull(t *testing.T) {
	mount := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "leeward-test", mount).CombinedOutput(); err != nil {
		skip(t, "mounting a tmpfs", string(out))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
	s, err := Create(filepath.Join(mount, "vault"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := s.Put(ctx, "a/one", make([]byte, 700<<10)); err != nil {
		t.Fatal(err)
	}
	err = s.Put(ctx, "a/two", make([]byte, 700<<10))
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "free some space") {
		t.Fatalf("full: %v", err)
	}
	if _, err := s.Stat(ctx, "a/two"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("half an object: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(s.root, tempDir)); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := s.Delete(ctx, "a/one"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(ctx, "a/two", make([]byte, 700<<10)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// skip skips a test for want of a feature that root on our kernels has.
func skip(t *testing.T, feature, why string) {
	t.Helper()
	if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
		t.Fatalf("%s does not work: %s", feature, why)
	}
	t.Skipf("needs %s: %s", feature, why)
}
