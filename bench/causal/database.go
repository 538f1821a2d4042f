package causal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// missing says what is not here.
func missing() string {
	if !rig.Root() {
		return "root is needed for loop devices"
	}
	if postgres() == "" {
		return "there is no PostgreSQL (deploy/ci/need.sh bench)"
	}
	if what, ok := rig.Have("setpriv", "losetup", "mkfs.ext4", "psql"); !ok {
		return "there is no " + what
	}
	return ""
}

// postgres is the directory of the newest server's programs.
func postgres() string {
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(all) == 0 {
		return ""
	}
	return filepath.Dir(slices.Max(all))
}

// database is a server.
type database struct {
	dir, socket string
	process     *rig.Process
}

// start starts a server on what is in dir, and waits until it answers.
func (t *trial) start(ctx context.Context, name, dir string, fresh bool) (*database, error) {
	socket, err := os.MkdirTemp("", "lw") // short: sockets have a limit
	if err != nil {
		return nil, err
	}
	d := &database{dir: filepath.Join(dir, "pg"), socket: socket}
	t.rig.Defer("remove "+socket, func() error { return os.RemoveAll(socket) })
	if _, err := rig.Run(ctx, "chown", "postgres", socket); err != nil {
		return nil, err
	}
	if fresh {
		if err := os.Mkdir(d.dir, 0o700); err != nil {
			return nil, err
		}
		if _, err := rig.Run(ctx, "chown", "postgres", d.dir); err != nil {
			return nil, err
		}
		if _, err := rig.Run(ctx, "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", filepath.Join(postgres(), "initdb"), "-A", "trust", "-D", d.dir, "--wal-segsize=1", "--no-locale", "-N"); err != nil {
			return nil, err
		}
	} else if err := os.Remove(filepath.Join(d.dir, "postmaster.pid")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	d.process, err = t.rig.Start(rig.Command{Name: name, Dir: "/", Argv: []string{
		"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", filepath.Join(postgres(), "postgres"), "-D", d.dir, "-k", socket,
		"-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "min_wal_size=2MB", "-c", "max_wal_size=32MB",
	}})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, fmt.Errorf("%s does not answer", name))
	defer cancel()
	sql := "select 1"
	if fresh {
		sql = "create table if not exists t (n int primary key)"
	}
	err = rig.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		if err := d.process.Alive(); err != nil {
			return false, err
		}
		_, err := d.ask(ctx, sql)
		return err == nil, nil
	})
	return d, err
}

func (d *database) psql(args ...string) []string {
	return append([]string{"psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", d.socket, "-U", "postgres", "-d", "postgres"}, args...)
}

func (d *database) ask(ctx context.Context, sql string) (string, error) {
	out, err := rig.Run(ctx, d.psql("-c", sql)...)
	return strings.TrimSpace(out), err
}

// count returns how many rows there are, and makes sure that they are 1 to that.
func (d *database) count(ctx context.Context) (int, error) {
	out, err := d.ask(ctx, "select count(*), coalesce(max(n), 0) from t")
	if err != nil {
		return 0, err
	}
	var n, last int
	if _, err := fmt.Sscanf(out, "%d|%d", &n, &last); err != nil || n != last {
		return 0, fmt.Errorf("the rows are not 1 to %d but %q: %v", n, out, err)
	}
	return n, nil
}

// stop ends the server at once; what it leaves is never used again.
func (d *database) stop() error {
	b, err := os.ReadFile(filepath.Join(d.dir, "postmaster.pid"))
	if err == nil {
		var pid int
		if _, err := fmt.Sscan(string(b), &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGQUIT) // immediate shutdown
		}
	}
	return d.process.Stop(30 * time.Second)
}

// writer is the client.
type writer struct {
	n      atomic.Int64
	failed atomic.Pointer[error]
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (w *writer) rows() int64 { return w.n.Load() }

func (w *writer) err() error {
	if e := w.failed.Load(); e != nil {
		return *e
	}
	return nil
}

func (w *writer) stop() error {
	w.cancel()
	w.wg.Wait()
	return w.err()
}

// session is a psql that commits a row and says so.
type session struct {
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

func (d *database) session(ctx context.Context) (*session, error) {
	argv := d.psql()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 5 * time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &session{in, bufio.NewReader(out), cmd}, cmd.Start()
}

// commit returns when row n is committed.
func (s *session) commit(n int64) error {
	if _, err := fmt.Fprintf(s.in, "insert into t values (%d);\n\\echo %d\n", n, n); err != nil {
		return err
	}
	line, err := s.out.ReadString('\n')
	if err == nil && strings.TrimSpace(line) != fmt.Sprint(n) {
		err = fmt.Errorf("row %d: the server says %q", n, line)
	}
	return err
}

// write commits row after row, each on A first and then on B.
func (t *trial) write() (*writer, error) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{cancel: cancel}
	var all [2]*session
	for i := range all {
		s, err := t.dbs[i].session(ctx)
		if err != nil {
			cancel()
			return nil, err
		}
		all[i] = s
	}
	w.wg.Go(func() {
		for ctx.Err() == nil {
			n := w.n.Load() + 1
			for _, s := range all {
				if err := s.commit(n); err != nil {
					if ctx.Err() == nil {
						w.failed.CompareAndSwap(nil, &err)
					}
					break
				}
			}
			if w.err() != nil {
				break
			}
			w.n.Store(n)
		}
		for _, s := range all {
			s.in.Close()
			_ = s.cmd.Wait() // it was killed
		}
	})
	return w, nil
}
