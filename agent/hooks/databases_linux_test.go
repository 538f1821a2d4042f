package hooks_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/hooks"
	"github.com/leeward-dr/leeward/agent/hooks/hookstest"
)

func parse(t *testing.T, s *hookstest.Server, name string) hooks.Options {
	t.Helper()
	h, err := hooks.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	h.Command = slices.Concat([]string{"/usr/bin/env"}, s.Env, h.Command)
	return hooks.Options{Hooks: []hooks.Hook{h}, Dir: hookstest.Dir(t), Hold: 20 * time.Second}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v %s", err, out)
	}
}

// A commit that nobody waited for is not on disk until the hook has run.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	dir := hookstest.Dir(t)
	s := hookstest.Postgres(t, filepath.Join(dir, "pg"), "synchronous_commit=off", "wal_writer_delay=10s", "checkpoint_timeout=1h")
	o := parse(t, s, "postgresql")
	s.Do("create table t(n int)")
	s.Do("checkpoint")
	s.Do("insert into t values (1)")
	copyDir(t, s.Data, filepath.Join(dir, "without"))
	p, err := hooks.Begin(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	copyDir(t, s.Data, filepath.Join(dir, "with"))
	s.Do("insert into t values (2)") // nobody waits
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	for copied, want := range map[string]string{"without": "0", "with": "1"} {
		r := hookstest.Postgres(t, filepath.Join(dir, copied))
		if got := r.Do("select count(*) from t"); got != want {
			t.Errorf("the copy %s the hook holds %s rows, want %s", copied, got, want)
		}
	}
	s.Kill()
	if _, err := hooks.Begin(t.Context(), o); !errors.Is(err, hooks.ErrPre) {
		t.Fatalf("a server that is down: %v", err)
	}
	s = hookstest.Postgres(t, s.Data, "fsync=off")
	if _, err := hooks.Begin(t.Context(), parse(t, s, "postgresql")); !errors.Is(err, hooks.ErrPre) || !strings.Contains(err.Error(), "fsync is off") {
		t.Fatalf("a server that survives nothing: %v", err)
	}
}

// Aria tables are not crash-safe by themselves, and commits wait between pre and post.
func TestMariaDB(t *testing.T) {
	t.Parallel()
	dir := hookstest.Dir(t)
	s := hookstest.MariaDB(t, filepath.Join(dir, "db"))
	o := parse(t, s, "mariadb")
	s.Do("create database d; create table d.i(n int) engine=innodb; create table d.m(n int) engine=myisam delay_key_write=1; insert into d.i values (1)")
	s.Do("insert into d.m values (1),(2),(3)")
	p, err := hooks.Begin(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := s.Try("insert into d.i values (2)")
		wrote <- err
	}()
	copyDir(t, s.Data, filepath.Join(dir, "copy"))
	select {
	case err := <-wrote:
		t.Fatalf("a commit went through while the applications were held: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := p.End(); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if n := s.Do("select count(*) from d.i"); n != "2" {
		t.Errorf("after the cut the table holds %s rows", n)
	}
	s.Kill()
	r := hookstest.MariaDB(t, filepath.Join(dir, "copy"))
	if got := r.Do("select (select count(*) from d.i), (select count(*) from d.m); check table d.m"); !strings.HasPrefix(got, "1\t3") || !strings.Contains(got, "OK") {
		t.Errorf("the copy holds %q", got)
	}
	// The lock ends by itself when nobody comes to release it.
	o = parse(t, r, "mariadb")
	o.Hold = time.Second
	if p, err = hooks.Begin(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	r.Do("insert into d.i values (3)") // waits for the hold time
	if err := p.End(); !errors.Is(err, hooks.ErrLate) || errors.Is(err, hooks.ErrPost) {
		t.Fatalf("End after the hold time: %v", err)
	}
	r.Kill()
	if _, err := hooks.Begin(t.Context(), o); !errors.Is(err, hooks.ErrPre) {
		t.Fatalf("a server that is down: %v", err)
	}
}
