package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Postgres is a PostgreSQL server with pgbench's tables.
type Postgres struct {
	bin, socket string
	server      *rig.Process
}

// NoPostgres says why there can be none here, "" if there can.
func NoPostgres() string {
	if len(programs()) == 0 {
		return "postgresql is not installed"
	}
	if m, ok := rig.Have("setpriv", "chown"); !ok {
		return m + " is not installed"
	}
	return ""
}

func programs() []string {
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well formed
	return all
}

// StartPostgres makes a database below dir, starts its server and fills it.
func StartPostgres(ctx context.Context, r *rig.Rig, dir string) (*Postgres, error) {
	s := &Postgres{bin: slices.Max(programs())}
	var err error
	if s.socket, err = os.MkdirTemp("", "lwb"); err != nil { // short: sockets have a limit
		return nil, err
	}
	r.Defer("remove "+s.socket, func() error { return os.RemoveAll(s.socket) })
	data := filepath.Join(dir, "data")
	for _, p := range []string{r.Dir, dir} {
		if err := os.Chmod(p, 0o711); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	for _, argv := range [][]string{{"chown", "postgres", data, s.socket}, s.as("initdb", "-A", "trust", "-N", "-D", data, "--wal-segsize=1")} {
		if _, err := rig.Run(ctx, argv...); err != nil {
			return nil, err
		}
	}
	s.server, err = r.Start(rig.Command{Name: "postgres", Dir: "/", Argv: s.as("postgres", "-D", data, "-k", s.socket, "-c", "listen_addresses=", "-c", "shared_buffers=32MB", "-c", "max_wal_size=64MB")})
	if err != nil {
		return nil, err
	}
	err = rig.Poll(ctx, 100*time.Millisecond, func() (bool, error) {
		if err := s.server.Alive(); err != nil {
			return false, err
		}
		_, err := rig.Run(ctx, s.as("psql", "-h", s.socket, "-c", "select 1", "postgres")...)
		return err == nil, nil
	})
	if err == nil {
		_, err = rig.Run(ctx, s.as("pgbench", "-i", "-q", "-s", "2", "-h", s.socket, "postgres")...)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database for pgbench: %w", err), s.Stop())
	}
	return s, nil
}

// as is a command line that runs as the database's user.
func (s *Postgres) as(program string, args ...string) []string {
	return append([]string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", filepath.Join(s.bin, program)}, args...)
}

// Bench starts pgbench with so many clients. It writes until it is killed.
func (s *Postgres) Bench(r *rig.Rig, clients int) (*rig.Process, error) {
	return r.Start(rig.Command{Name: "pgbench", Dir: "/", Argv: s.as("pgbench", "-n", "-c", fmt.Sprint(clients), "-T", "86400", "-h", s.socket, "postgres")})
}

// Benched is what pgbench found.
type Benched struct {
	TPS     float64
	Commits []time.Time // when each transaction was over
}

// Measure runs pgbench for some time. name is that of its log.
func (s *Postgres) Measure(ctx context.Context, r *rig.Rig, name string, clients int, d time.Duration) (*Benched, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d+2*time.Minute, errors.New("pgbench does not end"))
	defer cancel()
	log := filepath.Join(s.socket, name)
	_, err := rig.Run(ctx, s.as("pgbench", "-n", "-c", fmt.Sprint(clients), "-T", fmt.Sprint(int(d.Seconds())), "-l", "--log-prefix="+log, "-h", s.socket, "postgres")...)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(log + ".*")
	if err != nil {
		return nil, err
	}
	b := &Benched{}
	for _, f := range files {
		if err := b.read(f); err != nil {
			return nil, fmt.Errorf("log of pgbench: %w", err)
		}
		if err := os.Remove(f); err != nil {
			return nil, err
		}
	}
	if len(b.Commits) == 0 {
		return nil, errors.New("pgbench committed nothing")
	}
	b.TPS = float64(len(b.Commits)) / d.Seconds()
	return b, nil
}

// read reads a log: client, number, microseconds it took, script, and when it was over as
// seconds and microseconds.
func (b *Benched) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var client, n, took, script, sec, micro int64
		if _, err := fmt.Sscan(s.Text(), &client, &n, &took, &script, &sec, &micro); err != nil {
			return fmt.Errorf("%q: %w", s.Text(), err)
		}
		b.Commits = append(b.Commits, time.Unix(sec, micro*1000))
	}
	return nil
}

// Stop ends the server; its clients must have ended.
func (s *Postgres) Stop() error { return s.server.Stop(time.Minute) }
