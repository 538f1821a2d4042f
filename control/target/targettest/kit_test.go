package targettest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

func sample() []byte {
	data := make([]byte, 3<<20+1536)
	copy(data[8000:], bytes.Repeat([]byte("leeward "), 1000))
	data[len(data)-1] = 1
	return data
}

func TestDisks(t *testing.T) {
	t.Run("memory", func(t *testing.T) { targettest.TestDisk(t, targettest.Mem("d", sample())) })
	t.Run("image", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, sample(), 0o600); err != nil {
			t.Fatal(err)
		}
		d := targettest.Image(t, "d", path)
		targettest.TestDisk(t, d)
		if m := targettest.Mem("d", sample()); m.Digest() != d.Digest() {
			t.Error("the same bytes in memory have another digest")
		}
	})
}

// A disk that does not hold what it promises must not be restored in silence.
func TestALieIsFound(t *testing.T) {
	d := targettest.Mem("d", sample())
	d.Lie()
	if err := d.Restore(t.Context(), discard{}, nil); err == nil {
		t.Error("a wrong digest is not found")
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

var _ target.Restorer = (*targettest.Disk)(nil)
