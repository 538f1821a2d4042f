package trace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var someHead = head{
	Boot: "1f0c", Instance: "leeward-kept_sda_8_0_00000001", Inode: 77, Device: "8:0", Sequence: "3", Identity: "naa.5000",
	Size: 1 << 40, Filter: filterText, PageSize: 4096, CPUs: 2, Granule: 8,
}

const filterText = `dev == 8388608 && nr_sector > 0 && !(rwbs ~ "R*")`

// The head is what the next version of the agent must still understand.
func TestGoldenHead(t *testing.T) {
	b, err := someHead.encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "head.json")
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != strings.TrimSpace(string(want)) {
		t.Errorf("got  %s\nwant %s", b, want)
	}
	if h, err := decodeHead(append(want, make([]byte, 100)...)); err != nil || h != someHead {
		t.Errorf("got %+v, %v", h, err)
	}
}

func FuzzHead(f *testing.F) {
	b, err := someHead.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"page_size":4096,"cpus":1,"granule":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHead(b)
		if err != nil {
			return
		}
		if s := h.shape(h.Size%(1<<40) + 1); s.inbox < 4096 || s.cpus < s.inbox+h.PageSize || s.map1 < s.cpus+16*h.CPUs || s.map2 <= s.map1 || s.size <= s.map2 {
			t.Fatalf("%+v: parts overlap: %+v", h, s)
		}
	})
}

func TestGranule(t *testing.T) {
	for blocks, want := range map[uint64]uint64{1: 1, 1 << 25: 1, 1<<25 + 1: 2, 1 << 32: 128, 1<<32 + 1: 256} {
		if g := granule(blocks); g != want {
			t.Errorf("%d blocks: %d, want %d", blocks, g, want)
		}
		h := someHead
		h.Granule = granule(blocks)
		if s := h.shape(blocks); s.map2-s.map1 > mapLimit {
			t.Errorf("%d blocks: a map of %d bytes", blocks, s.map2-s.map1)
		}
	}
}
