package vault

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// Beside -update, so that nobody writes the golden vault anew by the way.
var updateDamage = flag.Bool("update-damage", false, "make the damaged vaults and their reports anew")

// damages are the known ways in which a vault goes wrong. Each fixture in testdata/
// damaged holds the objects that differ from those of testdata/golden-v1, a list of
// those that are gone, and what a check and a repair have to say about it.
var damages = []struct {
	name string
	do   func(st *storetest.Mem)
}{
	{"marker-gone", func(st *storetest.Mem) { st.Remove(markerKey) }},
	{"marker-flipped", func(st *storetest.Mem) { flip(st, markerKey, 40) }},
	{"slot-gone", func(st *storetest.Mem) { st.Remove(firstKey(st, slotPrefix)) }},
	{"slot-flipped", func(st *storetest.Mem) { flip(st, firstKey(st, slotPrefix), 30) }},
	{"disk-key-gone", func(st *storetest.Mem) { st.Remove(diskKeyKey(testDisk)) }},
	{"disk-key-flipped", func(st *storetest.Mem) { flip(st, diskKeyKey(testDisk), 30) }},
	{"segment-gone", func(st *storetest.Mem) { st.Remove(segmentKey(testDisk, 1, 2)) }},
	{"first-segment-gone", func(st *storetest.Mem) { st.Remove(segmentKey(testDisk, 1, 1)) }},
	{"segment-header", func(st *storetest.Mem) { flip(st, segmentKey(testDisk, 1, 1), 20) }},
	{"segment-frame", func(st *storetest.Mem) { flip(st, segmentKey(testDisk, 1, 1), 300) }},
	{"segment-sums", func(st *storetest.Mem) { flip(st, segmentKey(testDisk, 1, 1), -620) }},
	{"segment-trailer", func(st *storetest.Mem) { flip(st, segmentKey(testDisk, 1, 2), -100) }},
	{"segment-footer", func(st *storetest.Mem) { flip(st, segmentKey(testDisk, 2, 1), -20) }},
	{"segment-torn", func(st *storetest.Mem) { cutShort(st, segmentKey(testDisk, 2, 1), 1500) }},
	{"segment-empty", func(st *storetest.Mem) { cutShort(st, segmentKey(testDisk, 2, 2), 0) }},
	{"segment-newer", func(st *storetest.Mem) { version(st, segmentKey(testDisk, 2, 2), -9) }},
	{"segments-swapped", func(st *storetest.Mem) {
		a, b := segmentKey(testDisk, 1, 2), segmentKey(testDisk, 2, 2)
		x, y := st.Bytes(a), st.Bytes(b)
		st.Set(a, y)
		st.Set(b, x)
	}},
	{"point-flipped", func(st *storetest.Mem) { flip(st, firstKey(st, pointPrefix), -5) }},
	{"point-newer", func(st *storetest.Mem) { version(st, firstKey(st, pointPrefix), 9) }},
	{"pin-without-point", func(st *storetest.Mem) { st.Set(pinPrefix+"g/20251122T100009.000000000Z-gone.pin", []byte("LWPIN")) }},
	{"strange-object", func(st *storetest.Mem) { st.Set("disks/machine-1/sda/notes.txt", []byte("hello")) }},
	{"map-of-nothing", func(st *storetest.Mem) {
		r := segmentRef{epoch: 1, first: 1, last: 4, until: Position{1, 4}, level: levelMap + 1, sum: 7}
		st.Set(r.key(testDisk), format.AppendMapHeader(nil, [format.SaltSize]byte{1}))
	}},
}

func firstKey(st *storetest.Mem, prefix string) string {
	for _, k := range st.Keys() {
		if strings.HasPrefix(k, prefix) {
			return k
		}
	}
	return ""
}

func flip(st *storetest.Mem, key string, at int) {
	b := st.Bytes(key)
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 4
	st.Set(key, b)
}

func version(st *storetest.Mem, key string, at int) {
	b := st.Bytes(key)
	if at < 0 {
		at += len(b)
	}
	b[at] = 9
	st.Set(key, b)
}

func cutShort(st *storetest.Mem, key string, n int) { st.Set(key, st.Bytes(key)[:n]) }

// told is what a person would hear about a vault.
func told(t *testing.T, st *storetest.Mem) string {
	t.Helper()
	var b strings.Builder
	v, err := Unlock(t.Context(), st, testKey)
	if err != nil {
		fmt.Fprintf(&b, "unlock: %v\n", err)
		return b.String()
	}
	r, err := v.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "check: %s\n", p)
	}
	done, err := v.Repair(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range done.Done {
		fmt.Fprintf(&b, "repair: %s\n", p)
	}
	for _, p := range done.Left.Problems {
		fmt.Fprintf(&b, "left: %s\n", p)
	}
	for _, p := range done.Lost {
		fmt.Fprintf(&b, "lost: %s of %s %s: %s\n", p.ID, p.Group, p.Disk, p.What)
	}
	for _, p := range done.Kept {
		fmt.Fprintf(&b, "proved: %s\n", p.ID)
	}
	return b.String()
}

// readGolden reads the vault in a directory into st.
func readGolden(t *testing.T, st *storetest.Mem, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		st.Set(filepath.ToSlash(strings.TrimPrefix(path, root+"/")), b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestGoldenDamage checks and repairs vaults with every known damage; what comes out
// is compared with what was written down. -update-damage writes it anew: read the difference.
func TestGoldenDamage(t *testing.T) {
	whole := storetest.NewMem()
	readGolden(t, whole, "testdata/golden-v1")
	for _, d := range damages {
		t.Run(d.name, func(t *testing.T) {
			root := filepath.Join("testdata/damaged", d.name)
			if *updateDamage {
				writeDamage(t, root, whole, d.do)
			}
			st := whole.Clone()
			if _, err := os.Stat(filepath.Join(root, "objects")); err == nil {
				readGolden(t, st, filepath.Join(root, "objects"))
			}
			gone, _ := os.ReadFile(filepath.Join(root, "gone.txt"))
			for _, key := range strings.Fields(string(gone)) {
				st.Remove(key)
			}
			got := told(t, st)
			path := filepath.Join(root, "report.txt")
			if *updateDamage {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got == "" {
				t.Error("nothing is said about it")
			}
		})
	}
}

// writeDamage writes what a damage changes.
func writeDamage(t *testing.T, root string, whole *storetest.Mem, do func(st *storetest.Mem)) {
	t.Helper()
	st := whole.Clone()
	do(st)
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var gone []string
	for _, k := range whole.Keys() {
		if b := st.Bytes(k); b == nil {
			gone = append(gone, k)
		}
	}
	if gone != nil {
		put("gone.txt", []byte(strings.Join(gone, "\n")+"\n"))
	}
	for _, k := range st.Keys() {
		if string(st.Bytes(k)) != string(whole.Bytes(k)) || whole.Bytes(k) == nil {
			put(filepath.Join("objects", k), st.Bytes(k))
		}
	}
}
