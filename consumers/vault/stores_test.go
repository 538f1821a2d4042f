package vault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
)

// wholeLife is what a vault goes through, in a store that a URL names: written, read,
// pruned, opened again.
func wholeLife(t *testing.T, url string) (v *Vault, at Position, want []byte) {
	t.Helper()
	ctx := t.Context()
	st, err := OpenStore(url, true)
	if err != nil {
		t.Fatal(err)
	}
	v = newTestVault(t, st)
	w := openDisk(t, v)
	const size = 200 * BlockSize
	want = make([]byte, size)
	var h Head
	commit(t, w, opening(1, size, frame(CodecZstd, write{0, 60, text(60, 1)})))
	copy(want, text(60, 1))
	for i := range 6 {
		start := uint64(20 + i*25)
		data := text(25, uint64(i+2))
		copy(want[start*BlockSize:], data)
		h = commit(t, w, cutAt(batch(w.Head(), 1, frame(CodecZstd, write{start, 25, data})), size))
		if err := v.PutPoint(ctx, pointAt(fmt.Sprintf("p%d", i), testTime.Add(time.Duration(i)*time.Minute), h)); err != nil {
			t.Fatal(err)
		}
	}
	done, err := v.Maintain(ctx, now(keepers))
	if err != nil || len(done.Removed) == 0 || done.Deleted == 0 {
		t.Fatalf("prune: %+v, %v", done, err)
	}
	again, err := OpenStore(url, false)
	if err != nil {
		t.Fatal(err)
	}
	v = unlockTest(t, again)
	wantDisk(t, v, h.Position, want)
	wantClean(t, v)
	return v, h.Position, want
}

// A vault in Azure: written, restored, checked and pruned, and two writers who race
// for its segments: exactly one wins each.
func TestAzure(t *testing.T) {
	a := azuritetest.Start(t)
	t.Setenv("AZURE_STORAGE_CONNECTION_STRING", a.ConnectionString())
	t.Run("whole life", func(t *testing.T) { wholeLife(t, a.URL("life")) })
	t.Run("race", func(t *testing.T) {
		st, err := OpenStore(a.URL("race"), true)
		if err != nil {
			t.Fatal(err)
		}
		race(t, st)
	})
}

// A vault in six directories: any two are lost, the rest serves, repair makes it whole.
func TestShards(t *testing.T) {
	root := t.TempDir()
	var urls []string
	for i := range 6 {
		urls = append(urls, filepath.Join(root, fmt.Sprint("disk", i)))
	}
	url := "shard:4+2:" + strings.Join(urls, ",")
	_, at, want := wholeLife(t, url)
	for _, pair := range [][2]int{{0, 1}, {2, 5}, {3, 4}} {
		for _, i := range pair {
			if err := os.RemoveAll(urls[i]); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(urls[i], 0o700); err != nil {
				t.Fatal(err)
			}
		}
		st, err := OpenStore(url, false)
		if err != nil {
			t.Fatal(err)
		}
		v := unlockTest(t, st)
		wantDisk(t, v, at, want)
		wantClean(t, v)
		fixed := 0
		err = st.(store.Repairer).Repair(t.Context(), true, func(f store.Finding) {
			if fixed++; !f.Fixed {
				t.Errorf("not repaired: %+v", f)
			}
		})
		if err != nil || fixed == 0 {
			t.Fatalf("%d findings, %v", fixed, err)
		}
		err = st.(store.Repairer).Repair(t.Context(), true, func(f store.Finding) { t.Errorf("after repair: %+v", f) })
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("race", func(t *testing.T) {
		st, err := OpenStore("shard:2+1:"+strings.Join([]string{t.TempDir(), t.TempDir(), t.TempDir()}, ","), true)
		if err != nil {
			t.Fatal(err)
		}
		race(t, st)
	})
}
