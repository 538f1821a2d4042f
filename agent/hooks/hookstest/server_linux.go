package hookstest

import (
	"bytes"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Server is a database in a directory. Stop it before the directory goes away.
type Server struct {
	t      testing.TB
	Data   string   // its files
	Socket string   // directory of its sockets, not in Data
	Env    []string // what a client needs to reach it
	cmd    *exec.Cmd
	done   chan struct{}
	log    bytes.Buffer
	run    func() *exec.Cmd // the server
	ask    func(string) *exec.Cmd
}

// absent skips a test, or fails it where the program must be there.
func absent(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: run deploy/ci/need.sh test", what)
	}
	t.Skipf("needs %s", what)
}

// credential is the user that a server runs as: never root.
func credential(t testing.TB, name string) *syscall.SysProcAttr {
	t.Helper()
	// A server must not outlive a test that is killed.
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		return attr
	}
	u, err := user.Lookup(name)
	if err != nil {
		absent(t, "the user "+name)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr
}

// own gives a directory to the server's user.
func own(t testing.TB, dir string, attr *syscall.SysProcAttr) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if c := attr.Credential; c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// socketDir makes a short path: sockets have a limit.
func socketDir(t testing.TB, attr *syscall.SysProcAttr) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	own(t, dir, attr)
	return dir
}

// Postgres starts a server on dir, which is made if it is empty.
func Postgres(t testing.TB, dir string, settings ...string) *Server {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		absent(t, "postgresql")
	}
	bin := slices.Max(bins)
	attr := credential(t, "postgres")
	s := &Server{t: t, Data: dir, Socket: socketDir(t, attr)}
	s.Env = []string{"PGHOST=" + s.Socket, "PGPORT=5432", "PGUSER=postgres", "PGDATABASE=postgres"}
	own(t, dir, attr)
	if _, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err != nil {
		s.must(attr, filepath.Join(bin, "initdb"), "-A", "trust", "-U", "postgres", "-D", dir, "--wal-segsize=1", "--no-locale", "-N")
	}
	_ = os.Remove(filepath.Join(dir, "postmaster.pid")) // of a copy
	args := []string{"-D", dir, "-k", s.Socket, "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "min_wal_size=2MB", "-c", "max_wal_size=32MB"}
	for _, set := range settings {
		args = append(args, "-c", set)
	}
	s.run = func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, "postgres"), args...)
		cmd.SysProcAttr = attr
		return cmd
	}
	s.ask = func(sql string) *exec.Cmd {
		return exec.Command(filepath.Join(bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql)
	}
	s.start("select 1")
	return s
}

// MariaDB starts a server on dir, which is made if it is empty.
func MariaDB(t testing.TB, dir string, settings ...string) *Server {
	t.Helper()
	for _, p := range []string{"mariadbd", "mariadb", "mariadb-install-db"} {
		if _, err := exec.LookPath(p); err != nil {
			absent(t, p+" (mariadb-server-core, mariadb-client-core)")
		}
	}
	attr := credential(t, "nobody")
	s := &Server{t: t, Data: dir, Socket: socketDir(t, attr)}
	s.Env = []string{"MYSQL_UNIX_PORT=" + filepath.Join(s.Socket, "s"), "MYSQL_HOST=localhost"}
	own(t, dir, attr)
	if e, _ := os.ReadDir(dir); len(e) < 3 {
		s.must(attr, "mariadb-install-db", "--no-defaults", "--datadir="+dir, "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M")
	}
	args := []string{"--no-defaults", "--datadir=" + dir, "--socket=" + filepath.Join(s.Socket, "s"), "--skip-networking", "--pid-file=" + filepath.Join(s.Socket, "pid"),
		"--innodb-log-file-size=8M", "--innodb-buffer-pool-size=16M"}
	for _, set := range settings {
		args = append(args, "--"+set)
	}
	s.run = func() *exec.Cmd {
		cmd := exec.Command("mariadbd", args...)
		cmd.SysProcAttr = attr
		return cmd
	}
	s.ask = func(sql string) *exec.Cmd {
		return exec.Command("mariadb", "--no-defaults", "-u", "root", "--batch", "--skip-column-names", "-e", sql)
	}
	s.start("select 1")
	return s
}

// Dir makes a directory in memory, if there is any, that a server's user can get at.
func Dir(t testing.TB) string {
	t.Helper()
	var st unix.Statfs_t
	under := "/dev/shm"
	if err := unix.Statfs(under, &st); err != nil || int64(st.Bavail)*st.Bsize < 2<<30 {
		under = ""
	}
	dir, err := os.MkdirTemp(under, "leeward-db-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *Server) must(attr *syscall.SysProcAttr, name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr, cmd.Dir, cmd.WaitDelay = attr, "/", time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func (s *Server) start(probe string) {
	s.t.Helper()
	s.cmd = s.run()
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr, s.cmd.WaitDelay = "/", &s.log, &s.log, time.Second
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		_ = s.cmd.Wait()
	}()
	s.t.Cleanup(s.Kill)
	for end := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.Try(probe)
		if err == nil {
			return
		}
		select {
		case <-s.done:
			s.t.Fatalf("the server on %s ended: %v\n%s", s.Data, err, s.log.String())
		default:
		}
		if time.Now().After(end) {
			s.Kill()
			s.t.Fatalf("the server on %s does not answer: %v\n%s", s.Data, err, s.log.String())
		}
	}
}

// Kill ends the server as a power failure would. It may be called twice.
func (s *Server) Kill() {
	_ = s.cmd.Process.Signal(syscall.SIGQUIT) // PostgreSQL: everybody out at once
	select {
	case <-s.done:
		return
	case <-time.After(2 * time.Second):
	}
	_ = s.cmd.Process.Kill()
	<-s.done
}

// Try runs a statement and returns what it prints.
func (s *Server) Try(sql string) (string, error) {
	cmd := s.ask(sql)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.WaitDelay = time.Second
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", &failure{err, strings.TrimSpace(errs.String())}
	}
	return strings.TrimSpace(string(out)), nil
}

type failure struct {
	error
	said string
}

func (f *failure) Error() string { return f.error.Error() + ": " + f.said }

// Do runs a statement that must succeed.
func (s *Server) Do(sql string) string {
	s.t.Helper()
	out, err := s.Try(sql)
	if err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return out
}

// Start starts the server again after Kill.
func (s *Server) Start() { s.t.Helper(); s.start("select 1") }
