package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
)

// killKeeper kills the process that keeps the machine of a job.
func killKeeper(t *testing.T, run string) (pid int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(run, "keeper.json"))
	if err != nil {
		t.Fatal(err)
	}
	var k struct{ PID int }
	if err := json.Unmarshal(b, &k); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(k.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return k.PID
}

// A machine that was failed over and whose keeper is killed is started again: by the
// control that is there, and by one that comes later.
func TestFailedOverMachineIsStartedAgain(t *testing.T) {
	t.Parallel()
	s := world(t, "tick=B")
	v, err := unlock(s.Vault, s.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	told := make(chan string, 8)
	config := func() Config {
		c := keptConfig(s, v, log)
		c.Revived = func(j Job, err error) { told <- fmt.Sprint(j.Request.Machine, " ", j.State, " ", err) }
		return c
	}
	e, err := New(config())
	if err != nil {
		t.Fatal(err)
	}
	j, err := e.Failover(s.Request)
	if err != nil {
		t.Fatal(err)
	}
	if j = settled(t, e, j.ID); j.State != Alive {
		t.Fatalf("the job is %s: %s", j.State, j.Error)
	}
	run := filepath.Join(s.Dir, j.ID, runDir)
	deaths := func(j Job) (n int) {
		for _, x := range j.Stages {
			if strings.Contains(x.Detail, "its keeper died") {
				n++
			}
		}
		return n
	}
	revived := func(e *Engine, times int) {
		t.Helper()
		targettest.WaitFor(t, longTime, "the machine is started again", func() bool {
			now, err := e.Job(j.ID)
			if err != nil || now.State == Failed || now.State == Interrupted {
				t.Fatalf("the job is %s: %s, %v", now.State, now.Error, err)
			}
			return now.State == Alive && deaths(now) == times
		})
		goesOn(t, run)
		select {
		case what := <-told:
			if what != s.Request.Machine+" alive <nil>" {
				t.Errorf("told is %q", what)
			}
		case <-time.After(longTime):
			t.Error("nobody is told")
		}
	}
	// Its disk is here soon, and stays here.
	copied := func(e *Engine) {
		t.Helper()
		targettest.WaitFor(t, longTime, "the disk is copied to where the machine runs", func() bool {
			now, err := e.Job(j.ID)
			if err != nil {
				t.Fatal(err)
			}
			return now.Hydration != nil && now.Hydration.Whole && now.Hydration.Done == now.Hydration.Total
		})
	}
	copied(e)
	killKeeper(t, run)
	revived(e, 1)
	copied(e)

	// Control ends, then the keeper dies, as when a host loses power.
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	goesOn(t, run)
	killKeeper(t, run)
	targettest.WaitFor(t, longTime, "QEMU ends with its keeper", func() bool { return len(targettest.WorkIn(s.Dir)) == 0 })
	if e, err = New(config()); err != nil {
		t.Fatal(err)
	}
	defer e.Stop(context.Background())
	revived(e, 2)
	copied(e)

	// One that was ended on its way home is not.
	if err := os.WriteFile(filepath.Join(run, offFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	killKeeper(t, run)
	targettest.WaitFor(t, longTime, "QEMU ends with its keeper", func() bool { return len(targettest.WorkIn(s.Dir)) == 0 })
	if done, err := e.Cleanup(t.Context(), j.ID); err != nil || done.State != Cleaned {
		t.Fatalf("cleanup: %s, %v", done.State, err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, j.ID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the job's directory is left: %v", err)
	}
	if pids := targettest.WorkIn(s.Dir); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}
