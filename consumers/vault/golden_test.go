package vault

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

var update = flag.Bool("update", false, "make the golden vault anew")

// TestGoldenVault reads a vault that an earlier build wrote. When this fails, vaults
// of users fail: never run it with -update unless the format's version changed.
func TestGoldenVault(t *testing.T) {
	const root = "testdata/golden-v1"
	if *update {
		s := newSpecimen(t)
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		for _, key := range s.st.Keys() {
			path := filepath.Join(root, key)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, s.st.Bytes(key), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	st := storetest.NewMem() // a copy: opening a directory tidies it up
	readGolden(t, st, root)
	v := unlockTest(t, st)
	if r := wantClean(t, v); r.Segments != 4 || r.Points != 4 {
		t.Fatalf("report %+v", r)
	}
	for at, want := range newSpecimen(t).states {
		wantDisk(t, v, at, want)
	}
	points, bad, err := v.Points(t.Context(), "")
	if err != nil || len(bad) > 0 || len(points) != 4 || points[0].Machines[0].NICs[0] != "eth0 00:11" {
		t.Errorf("points %v, %v, %v", points, bad, err)
	}
	w := openDisk(t, v)
	commit(t, w, batch(w.Head(), 1, frame(CodecRaw, write{1, 1, text(1, 99)})))
	wantClean(t, v)
}

// Reading a vault changes nothing in its directory, so it may be on read-only media.
func TestReadingChangesNothing(t *testing.T) {
	root := t.TempDir()
	st, err := dir.Create(root)
	if err != nil {
		t.Fatal(err)
	}
	v := newTestVault(t, st)
	h := commit(t, openDisk(t, v), opening(1, 8*BlockSize, frame(CodecRaw, write{1, 1, text(1, 1)})))
	files := snapshot(t, root)
	v = unlockTest(t, st)
	want := make([]byte, 8*BlockSize)
	copy(want[BlockSize:], text(1, 1))
	wantDisk(t, v, h.Position, want)
	wantClean(t, v)
	if now := snapshot(t, root); now != files {
		t.Errorf("reading changed the directory from\n%s to\n%s", files, now)
	}
}

func snapshot(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err == nil {
			b.WriteString(path + " " + i.ModTime().String() + "\n")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
