package disk

import (
	"os"
	"path/filepath"
	"testing"
)

// A file system tells its disk, whatever that is called.
func TestOn(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"devices/sdq/sdq2", "devices/dm-0/slaves/sdq2", "class", "dev/by-uuid"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"devices/sdq/sdq2/partition", "dev/sdq", "dev/sdq2", "dev/sdr", "dev/dm-0"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"class/sdq": "../devices/sdq", "class/sdq2": "../devices/sdq/sdq2", "class/dm-0": "../devices/dm-0", "dev/by-uuid/aa-bb": "../sdq2"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"by-uuid/aa-bb": "sdq", "sdq2": "sdq", "sdq": "sdq", "sdr": "", "dm-0": "", "by-uuid/cc": ""} {
		got, err := on(filepath.Join(dir, "class"), filepath.Join(dir, "dev", path))
		if (err == nil) != (want != "") || want != "" && got != filepath.Join(dir, "dev", want) {
			t.Errorf("%s is on %s, %v", path, got, err)
		}
	}
}
