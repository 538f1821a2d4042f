package appliance

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
)

const (
	upHere   = "LEEWARD_TEST_UP"     // directory: run an appliance there instead of the tests
	listenAt = "LEEWARD_TEST_LISTEN" // where it listens; a port of its own choice if not set
	manageAt = "LEEWARD_TEST_MANAGE" // its management port; none if not set
	keepHere = "LEEWARD_TEST_KEEP"   // keep a machine instead
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "guard" { // an agent of these tests runs its program again
		os.Exit(quiesce.GuardMain())
	}
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") && os.Getenv(keepHere) == "" {
		os.Stderr.WriteString("this test binary knows no command " + os.Args[1] + "\n")
		os.Exit(2) // never the tests again, within themselves
	}
	if os.Getenv(keepHere) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := failover.KeepMachine(ctx, os.Args[1], os.Stdin, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	if dir := os.Getenv(upHere); dir != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		c := Default()
		c.Dir, c.Listen, c.LogLevel = dir, cmp.Or(os.Getenv(listenAt), "127.0.0.1:-1"), "warn"
		c.Manage = os.Getenv(manageAt)
		c.Keeper = []string{"/usr/bin/env", "-u", upHere, keepHere + "=1", os.Args[0]}
		if err := Run(ctx, c, "1.0.0", io.Discard, os.Stderr); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child runs an appliance in a process of its own.
func child(t *testing.T, dir string, env ...string) *exec.Cmd {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, "contexts")); err != nil { // the port changes
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), upHere+"="+dir), env...)
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // only a child of ours that a failed test left
			_ = cmd.Wait()
		}
	})
	return cmd
}

// waited is closed when cmd has ended.
func waited(cmd *exec.Cmd) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		_ = cmd.Wait() // killed: the error says so
	}()
	return c
}

func terminate(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("a clean stop ended with %v", err)
	}
}

// Killed in the middle of work, again and again: what the bus took is listed, and
// every point is what the disk was.
func TestKill(t *testing.T) {
	t.Parallel()
	rounds, points := 3, 8
	if os.Getenv("LEEWARD_FULL") != "" {
		rounds, points = 50, 20
	}
	dir := t.TempDir()
	a := newAgent(t, dir)
	for round := range rounds {
		cmd := child(t, dir)
		b := connect(t, dir, "agent")
		for range points {
			a.point()
		}
		// Sometimes before, sometimes while, sometimes after it is all on the bus.
		kill := time.AfterFunc(time.Duration(round*37%150)*time.Millisecond, func() {
			_ = cmd.Process.Kill() // it cannot have ended before
		})
		flushed := a.flush(b)
		<-waited(cmd)
		kill.Stop()
		t.Logf("round %d: %d messages left, %v", round, len(a.outbox), flushed)
		b.Close()
	}
	cmd := child(t, dir)
	b := connect(t, dir, "agent")
	a.point()
	// The server takes connections before it has its streams.
	a.send(b)
	b.Close()
	a.listed()
	terminate(t, cmd)
	verify(t, a)
}

// verify opens every point with nothing but the vault and its key.
func verify(t *testing.T, a *agent) {
	t.Helper()
	key, err := vault.KeyFromFile(filepath.Join(a.dir, "keys", "vault.key"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := vault.OpenStore(filepath.Join(a.dir, "vault"), false)
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.Unlock(t.Context(), st, key)
	if err != nil {
		t.Fatal(err)
	}
	all, damaged, err := v.Points(t.Context(), "")
	if err != nil || len(damaged) != 0 || len(all) != len(a.points) {
		t.Fatalf("%d points, %v damaged, %v, want %d", len(all), damaged, err, len(a.points))
	}
	for _, p := range all {
		d := p.Machines[0].Disks[0]
		r, err := v.OpenAt(t.Context(), vault.DiskID{Machine: "web", Disk: "sda"}, d.At, vault.ReaderOptions{})
		if err != nil {
			t.Fatalf("point %s: %v", p.ID, err)
		}
		got := make([]byte, r.Size())
		if _, err := r.ReadAt(got, 0); err != nil && err != io.EOF {
			t.Fatalf("point %s: %v", p.ID, err)
		}
		if !bytes.Equal(got, a.images[p.ID]) || r.Digest() != d.Digest {
			t.Errorf("point %s is not what the disk was", p.ID)
		}
		r.Close()
	}
	rep, err := v.Check(t.Context(), vault.CheckOptions{ReadData: true})
	if err != nil || len(rep.Problems) != 0 {
		t.Errorf("vault check: %+v, %v", rep, err)
	}
}

// Stopped and started in this process: nothing is left running, nothing is lost.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newAgent(t, dir)
	for range 2 {
		stop := startHere(t, dir)
		b := connect(t, dir, "agent")
		for range 3 {
			a.point()
		}
		a.send(b)
		b.Close()
		a.listed()
		stop()
	}
	verify(t, a)
}

// With everything lost but the vault and its key, the points are there again, and the
// agent goes on with its next link: no second copy.
func TestOnlyTheVaultIsLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := newAgent(t, dir)
	work := func() (stop func()) {
		stop = startHere(t, dir)
		b := connect(t, dir, "agent")
		defer b.Close()
		for range 3 {
			a.point()
		}
		a.send(b)
		a.listed()
		return stop
	}
	work()()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "vault" && e.Name() != "keys" {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, e := range matches(t, filepath.Join(dir, "keys", "*")) {
		if filepath.Base(e) != "vault.key" {
			if err := os.RemoveAll(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	work()()
	verify(t, a)
}

func matches(t *testing.T, pattern string) []string {
	all, err := filepath.Glob(pattern)
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %v, %v", pattern, all, err)
	}
	return all
}
