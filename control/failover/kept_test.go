package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/control/vaulttest"
)

// The roles that this test binary can have instead of testing.
const (
	keepEnv    = "LEEWARD_TEST_KEEP"    // a keeper
	controlEnv = "LEEWARD_TEST_CONTROL" // a control, as JSON of standIn
)

// standIn is what a control in a process of its own is to do.
type standIn struct {
	Dir, Vault, KeyFile string
	Request             Request
}

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(keepEnv) != "":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := KeepMachine(ctx, os.Args[1], os.Stdin, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(controlEnv) != "":
		fmt.Println(standInControl(os.Getenv(controlEnv)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// standInControl brings a machine up and does nothing else until it is killed.
func standInControl(spec string) error {
	var s standIn
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	v, err := unlock(s.Vault, s.KeyFile)
	if err != nil {
		return err
	}
	e, err := New(keptConfig(s, v, nil))
	if err != nil {
		return err
	}
	if _, err := e.Test(s.Request); err != nil {
		return err
	}
	select {}
}

func unlock(url, keyFile string) (*vault.Vault, error) {
	key, err := vault.KeyFromFile(keyFile)
	if err != nil {
		return nil, err
	}
	st, err := vault.OpenStore(url, false)
	if err != nil {
		return nil, err
	}
	return vault.Unlock(context.Background(), st, key)
}

func keptConfig(s standIn, v *vault.Vault, log *slog.Logger) Config {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := Keeper{Command: []string{"/usr/bin/env", "-u", controlEnv, keepEnv + "=1", os.Args[0]}, Vault: s.Vault, KeyFile: s.KeyFile}
	return Config{Dir: s.Dir, Vault: v, Target: k.Keep(Targets(log, Azure{})), Adopt: k.Adopt, Log: log}
}

// longTime is many times what anything takes here when nothing else runs.
const longTime = 180 * time.Second

// settled is await for a real machine.
func settled(t *testing.T, e *Engine, id string) (j Job) {
	t.Helper()
	targettest.WaitFor(t, longTime, "job "+id+" has a verdict", func() bool {
		var err error
		if j, err = e.Job(id); err != nil {
			t.Fatal(err)
		}
		return !j.State.Running()
	})
	return j
}

// killed has a control bring up a machine and kills it as soon as job.json says state.
func killed(t *testing.T, s standIn, state State) Job {
	t.Helper()
	spec, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), controlEnv+"="+string(spec))
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	kill := func() {
		c.Process.Kill()
		c.Wait()
	}
	t.Cleanup(kill)
	var j Job
	targettest.WaitFor(t, longTime, "job is "+string(state), func() bool {
		all, _ := filepath.Glob(filepath.Join(s.Dir, "tf-*", jobFile))
		if len(all) == 0 {
			return false
		}
		b, err := os.ReadFile(all[0])
		if err != nil || json.Unmarshal(b, &j) != nil {
			return false
		}
		if j.State == Failed {
			said, _ := os.ReadFile(filepath.Join(s.Dir, j.ID, runDir, "keeper.log"))
			t.Fatalf("job failed: %s; keeper: %s", j.Error, said)
		}
		if state == Booting { // what counts is that its keeper is there
			_, err := os.Stat(filepath.Join(s.Dir, j.ID, runDir, "keeper.json"))
			return err == nil
		}
		return j.State == state
	})
	kill()
	return j
}

// world is a vault with a machine that ticks, and a place for jobs. Whatever works in
// that place at the end is killed.
func world(t *testing.T, serial string) standIn {
	targettest.Need(t, "qemu-system-x86_64", "env")
	v := vaulttest.New(t)
	v.Disk(t, "p1", "web", targettest.Ticking("tick"), time.Now())
	s := standIn{Dir: t.TempDir(), Vault: v.URL, KeyFile: v.KeyFile, Request: Request{
		Machine: "web", Point: "latest", Target: "qemu", Options: Options{Serial: serial, TimeoutSecs: 120},
	}}
	t.Cleanup(func() {
		for _, pid := range targettest.WorkIn(s.Dir) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return s
}

// goesOn waits until the machine has said and written more.
func goesOn(t *testing.T, run string) {
	t.Helper()
	said := func() int64 {
		st, err := os.Stat(filepath.Join(run, "serial.log"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	count := func() (b [1]byte) {
		f, err := os.Open(filepath.Join(run, "disk0.overlay"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.ReadAt(b[:], 512); err != nil {
			t.Fatal(err)
		}
		return b
	}
	saidNow, countNow := said(), count()
	targettest.WaitFor(t, longTime, "the machine goes on", func() bool { return said() > saidNow && count() != countNow })
}

// A control is killed while its machine boots, is probed, or lives. The machine goes on,
// and the next control takes it over, and can remove all of it.
func TestMachineOutlivesControl(t *testing.T) {
	for _, c := range []struct {
		at     State
		serial string // the guest says J some seconds after A
	}{{Booting, "tick=J"}, {Probing, "tick=J"}, {Alive, "tick=B"}} {
		t.Run(string(c.at), func(t *testing.T) {
			t.Parallel()
			s := world(t, c.serial)
			was := killed(t, s, c.at)
			run := filepath.Join(s.Dir, was.ID, runDir)
			if c.at == Alive {
				goesOn(t, run)
			}
			v, err := unlock(s.Vault, s.KeyFile)
			if err != nil {
				t.Fatal(err)
			}
			e, err := New(keptConfig(s, v, slog.New(slog.NewTextHandler(t.Output(), nil))))
			if err != nil {
				t.Fatal(err)
			}
			defer e.Stop(context.Background())
			j := settled(t, e, was.ID)
			if j.State != Alive || j.Result == nil || !j.Result.Alive || j.Result.VaultReadBytes == 0 {
				said, _ := os.ReadFile(filepath.Join(run, "keeper.log"))
				t.Fatalf("the job is %s: %s, result %+v; keeper: %s", j.State, j.Error, j.Result, said)
			}
			goesOn(t, run)
			if done, err := e.Cleanup(t.Context(), j.ID); err != nil || done.State != Cleaned {
				t.Fatalf("cleanup: %s, %v", done.State, err)
			}
			if _, err := os.Stat(filepath.Join(s.Dir, j.ID)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the job's directory is left: %v", err)
			}
			if pids := targettest.WorkIn(s.Dir); len(pids) > 0 {
				t.Errorf("processes are left: %v", pids)
			}
		})
	}
}

// A machine whose keeper is killed dies with it, and its job says so. What a control
// that was told to stop had started is stopped.
func TestMachineEndsWithKeeper(t *testing.T) {
	t.Parallel()
	s := world(t, "tick=B")
	was := killed(t, s, Alive)
	for _, pid := range targettest.WorkIn(s.Dir) {
		cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if !strings.HasPrefix(string(cmd), "qemu") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	targettest.WaitFor(t, longTime, "QEMU ends with its keeper", func() bool { return len(targettest.WorkIn(s.Dir)) == 0 })
	v, err := unlock(s.Vault, s.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	e, err := New(keptConfig(s, v, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop(context.Background())
	over := func(id string) {
		t.Helper()
		// The keeper may hold its lock for a moment more, and be taken over in it.
		targettest.WaitFor(t, longTime, "the job to be interrupted", func() bool {
			j, err := e.Job(id)
			return err == nil && j.State == Interrupted
		})
		if j, err := e.Cleanup(t.Context(), id); err != nil || j.State != Cleaned {
			t.Fatalf("cleanup: %s, %v", j.State, err)
		}
	}
	over(was.ID)
	// The same under the eyes of the control that started it.
	seen, err := e.Test(s.Request)
	if err != nil {
		t.Fatal(err)
	}
	if j := settled(t, e, seen.ID); j.State != Alive {
		t.Fatalf("the job is %s: %s", j.State, j.Error)
	}
	killKeeper(t, filepath.Join(s.Dir, seen.ID, runDir))
	over(seen.ID)
	next, err := e.Test(s.Request)
	if err != nil {
		t.Fatal(err)
	}
	if j := settled(t, e, next.ID); j.State != Alive {
		t.Fatalf("the job is %s: %s", j.State, j.Error)
	}
	if err := e.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	targettest.WaitFor(t, longTime, "nothing is left after a stop in good order", func() bool { return len(targettest.WorkIn(s.Dir)) == 0 })
}
