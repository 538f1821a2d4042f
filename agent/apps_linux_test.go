package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/agent/hooks"
	"github.com/leeward-dr/leeward/agent/hooks/hookstest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func script(text string) []hooks.Hook {
	return []hooks.Hook{{Name: "test", Command: []string{"/bin/sh", "-c", text, "test"}}}
}

// eventsOf returns a function that says whether there are events of a kind.
func eventsOf(t *testing.T, b *bus.Bus, kind string) func() bool {
	t.Helper()
	s, err := b.JS.Stream(t.Context(), streams.Events)
	if err != nil {
		t.Fatal(err)
	}
	return func() bool {
		m, err := s.GetLastMsgForSubject(t.Context(), streams.EventsSubject("m", kind))
		return err == nil && m != nil
	}
}

func TestApplicationsAreToldAtTheirInterval(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path, diary := image(t, 300), filepath.Join(t.TempDir(), "diary")
	cfg := config(t, path)
	cfg.Apps.Hooks, cfg.Apps.Interval = script("echo $1 >> "+diary), time.Hour
	start(t, cfg, b)
	until(t, "an application-consistent cut", func() bool { return get(r, func() bool { return len(r.apps) == 1 }) })
	n := get(r, func() int { return len(r.cuts) })
	until(t, "more cuts", func() bool { return get(r, func() bool { return len(r.cuts) >= n+3 }) })
	got, err := os.ReadFile(diary)
	if err != nil || string(got) != "pre\npost\n" || get(r, func() int { return len(r.apps) }) != 1 {
		t.Errorf("with one hour between them, the hooks did %q: %v", got, err)
	}
}

func TestFailingHookCostsTheNameNotThePoint(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path, diary := image(t, 300), filepath.Join(t.TempDir(), "diary")
	cfg := config(t, path)
	cfg.Apps.Hooks = script("echo $1 >> " + diary + `; [ "$1" = post ]`)
	told := eventsOf(t, b, "app-hook")
	start(t, cfg, b)
	until(t, "cuts", func() bool { return get(r, func() bool { return len(r.cuts) >= 3 }) })
	until(t, "an event", told)
	if n := get(r, func() int { return len(r.apps) }); n != 0 {
		t.Errorf("%d cuts are called application-consistent", n)
	}
	if got, _ := os.ReadFile(diary); string(got) != "pre\npost\n" {
		t.Errorf("the hooks did %q: a failed one must be tried again later, not at each point", got)
	}
}

// A database on a protected disk: what was committed before the cut is in the point,
// also what the database has not written out by itself, and the point starts.
func TestPostgreSQLPoint(t *testing.T) {
	disktest.NeedRoot(t, "mkfs.ext4")
	dev := disktest.Loop(t, 192<<20)
	disktest.Mkfs(t, dev, "ext4")
	dir := disktest.Mount(t, dev)
	traversable(t, dir)
	db := hookstest.Postgres(t, filepath.Join(dir, "pg"), "synchronous_commit=off", "wal_writer_delay=10s", "checkpoint_timeout=1h")
	db.Do("create table t(n int)")
	db.Do("checkpoint")

	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	cfg := config(t, dev)
	cfg.Capture, cfg.FreezeLimit = "auto", 5*time.Second
	h, err := hooks.Parse("postgresql")
	if err != nil {
		t.Fatal(err)
	}
	h.Command = slices.Concat([]string{"/usr/bin/env"}, db.Env, h.Command)
	cfg.Apps.Hooks, cfg.Apps.Interval = []hooks.Hook{h}, time.Second
	start(t, cfg, b)
	until(t, "the first application-consistent cut", func() bool { return get(r, func() bool { return len(r.apps) > 0 }) })
	db.Do("insert into t select generate_series(1,100)")
	n := get(r, func() int { return len(r.apps) })
	until(t, "two more", func() bool { return get(r, func() bool { return len(r.apps) >= n+2 }) })
	db.Do("insert into t values (0)") // runs on
	img := get(r, func() map[uint64][]byte { return r.apps[n+1] })

	copied := disktest.Loop(t, 192<<20)
	restore(t, img, copied)
	back := disktest.Mount(t, copied)
	traversable(t, back)
	restored := hookstest.Postgres(t, filepath.Join(back, "pg"))
	defer restored.Kill()
	if got := restored.Do("select count(*) from t where n > 0"); got != "100" {
		t.Errorf("the restored database holds %s of 100 rows", got)
	}
	db.Kill()
}

// traversable lets a database's user get at a directory of the test.
func traversable(t *testing.T, dir string) {
	t.Helper()
	for d := dir; strings.HasPrefix(d, os.TempDir()) && d != os.TempDir(); d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err == nil {
			err = os.Chmod(d, fi.Mode().Perm()|0o011)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// restore writes an image onto a disk.
func restore(t *testing.T, img map[uint64][]byte, dev string) {
	t.Helper()
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at, b := range img {
		if _, err := f.WriteAt(b, int64(at)*wire.BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(fmt.Errorf("write %s: %w", dev, err))
	}
}
