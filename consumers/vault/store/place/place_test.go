package place

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

func set(root string, code string, n int) string {
	var urls []string
	for i := range n {
		urls = append(urls, fmt.Sprintf("dir://%s/disk%d", root, i))
	}
	return "shard:" + code + ":" + strings.Join(urls, ",")
}

func TestSetOfDirectoriesConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := Open(set(t.TempDir(), "2+1", 3), true)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// Disks of a set are lost before it is opened, and while it is open; they come back
// empty, or as they were.
func TestDisksComeAndGo(t *testing.T) {
	root, ctx := t.TempDir(), t.Context()
	url := set(root, "4+2", 6)
	disk := func(i int) string { return filepath.Join(root, fmt.Sprintf("disk%d", i)) }
	if _, err := Open(url, false); !errors.Is(err, store.ErrAway) && !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("nothing there: %v", err)
	}
	s, err := Open(url, true)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("leeward "), 40_000)
	check := func(what string, keys ...string) {
		t.Helper()
		for _, key := range keys {
			if b, err := s.Get(ctx, key, 0, -1); err != nil || !bytes.Equal(b, data) {
				t.Fatalf("%s: %s: %d bytes, %v", what, key, len(b), err)
			}
		}
	}
	put := func(key string) {
		t.Helper()
		if err := s.Put(ctx, key, data); err != nil {
			t.Fatal(err)
		}
	}
	put("o/1")
	move := func(i int, away bool) {
		t.Helper()
		from, to := disk(i), disk(i)+"-away"
		if !away {
			from, to = to, from
		}
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(1, true)
	move(4, true)
	check("two unplugged", "o/1")
	put("o/2")
	if s, err = Open(url, false); err != nil {
		t.Fatal(err)
	}
	check("opened without two", "o/1", "o/2")
	move(1, false)
	if err := os.RemoveAll(disk(4) + "-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(disk(4), 0o700); err != nil { // a new disk
		t.Fatal(err)
	}
	// The set finds them by itself; until it has, they are away.
	for deadline := time.Now().Add(time.Minute); ; {
		var found []store.Finding
		if err := s.(store.Repairer).Repair(ctx, true, func(f store.Finding) { found = append(found, f) }); err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not whole after a minute: %+v", found)
		}
	}
	move(0, true)
	move(5, true)
	if s, err = Open(url, false); err != nil {
		t.Fatal(err)
	}
	check("two others unplugged", "o/1", "o/2")
}

func TestOpenRefuses(t *testing.T) {
	const secret = "U2VjcmV0"
	d := t.TempDir()
	for bad, want := range map[string]string{
		"":                                    "empty",
		"s3://x":                              "unknown scheme",
		"dir://relative":                      "absolute",
		"dir:///x?what=1":                     "unknown option",
		"dir:///x?keep=soon":                  "168h",
		"azure://acc/container?sig=" + secret: "secret",
		"shard:4+2:dir:///a":                  "1 stores, want 6",
		"shard:a:dir:///a":                    "K+M",
		"shard:2+2:/a,/b,/c,/d":               "more data than parity",
		"shard:2+1:/a,b,/c":                   "absolute path",
		"shard:2+1:/a,shard:2+1:/x,/c":        "part of a set",
		"shard:2+1:/a,azure://acc/con?sig=" + secret + ",/c": "secret",
	} {
		_, err := Open(bad, false)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want %q", bad, err, want)
		}
	}
	if _, err := Open(filepath.Join(d, "none"), false); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, store.ErrAway) {
		t.Errorf("missing: %v", err)
	}
	s, err := Open("dir://"+d+"?keep=1h", true)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "k"); !errors.Is(err, store.ErrKept) {
		t.Errorf("delete: %v, want ErrKept", err)
	}
}
