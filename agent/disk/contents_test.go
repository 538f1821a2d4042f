package disk

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// What real tools make is recognised.
func TestContents(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want string
		make []string
	}{
		{"", nil},
		{"ext", []string{"mkfs.ext4", "-q", "-F"}},
		{"swap", []string{"mkswap", "-q"}},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 32<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.make != nil {
			if out, err := exec.Command(c.make[0], append(c.make[1:], path)...).CombinedOutput(); err != nil { //nolint:gosec // the table's
				t.Fatalf("%v: %v: %s", c.make, err, out)
			}
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := Contents(f, 32<<20); got != c.want {
			t.Errorf("%v: %q, want %q", c.make, got, c.want)
		}
		f.Close()
	}
}

func TestContentsOfPartitions(t *testing.T) {
	t.Parallel()
	b := make([]byte, 8<<20)
	b[510], b[511] = 0x55, 0xaa
	e := b[446:]
	e[4] = 0x83
	binary.LittleEndian.PutUint32(e[8:], 2048)
	copy(b[2048*512:], "XFSB")
	if got, want := Contents(bytes.NewReader(b), uint64(len(b))), "MBR, 1 partition: XFS"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h := b[512:]
	copy(h, "EFI PART")
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 4)
	binary.LittleEndian.PutUint32(h[84:], 128)
	for i, at := range []uint64{2048, 4096} {
		p := b[1024+128*i:]
		p[0] = 1
		binary.LittleEndian.PutUint64(p[32:], at)
	}
	copy(b[4096*512+0x10040:], "_BHRfS_M")
	if got, want := Contents(bytes.NewReader(b), uint64(len(b))), "GPT, 2 partitions: XFS, btrfs"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A damaged disk is no reason to fall over.
func FuzzContents(f *testing.F) {
	b := make([]byte, 4096)
	b[510], b[511] = 0x55, 0xaa
	copy(b[512:], "EFI PART")
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) { Contents(bytes.NewReader(b), uint64(len(b))) })
}
