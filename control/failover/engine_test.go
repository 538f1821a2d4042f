package failover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/vaulttest"
)

// fake is a target that reads its disks and obeys the test. The vault, the files
// and the jobs around it are real.
type fake struct {
	mu       sync.Mutex
	invalid  error
	starting chan struct{} // Start waits for it, if set
	dead     bool          // no proof of life
	started  int
	stopped  int
	seen     []byte // what the first disk held
}

func (f *fake) Name() string { return "fake" }

func (f *fake) Validate(context.Context, *target.Machine) error { return f.invalid }

func (f *fake) Start(ctx context.Context, m *target.Machine, dir string) (target.Running, error) {
	if f.starting != nil {
		select {
		case <-f.starting:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		return nil, fmt.Errorf("the run's directory is not empty: %v, %v", left, err)
	}
	b := make([]byte, m.Disks[0].Size())
	if _, err := m.Disks[0].ReadAt(b, 0); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started, f.seen = f.started+1, b
	return &fakeRun{f, dir}, os.WriteFile(filepath.Join(dir, "serial.log"), []byte("hello\n"), 0o600)
}

type fakeRun struct {
	f   *fake
	dir string
}

func (r *fakeRun) Probe(context.Context, target.Probe) (*target.Result, error) {
	return &target.Result{
		Alive: !r.f.dead, Evidence: []string{"serial: hello"}, FirstLine: time.Second, Boot: 2 * time.Second,
		SerialLog: filepath.Join(r.dir, "serial.log"),
	}, nil
}

func (r *fakeRun) Stop(context.Context) error {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.f.stopped++
	return nil
}

func (r *fakeRun) Wait(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func engine(t *testing.T, dir string, v *vault.Vault, f *fake) *Engine {
	t.Helper()
	e, err := New(Config{
		Dir: dir, Vault: v,
		Target: func(r Request, _ target.Progress) (target.Target, error) {
			if r.Target != "fake" {
				return nil, fmt.Errorf("%w: %s", ErrTarget, r.Target)
			}
			return f, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

func request(id string) Request {
	return Request{ID: id, Machine: "web", Point: "latest", Target: "fake", Options: Options{Serial: "hello"}}
}

// await returns the job when it no longer runs.
func await(t *testing.T, e *Engine, id string) Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), longTime)
	defer cancel()
	var j Job
	for j.ID == "" || j.State.Running() {
		var err error
		if j, err = e.Watch(ctx, id, j.Revision); err != nil {
			t.Fatalf("job %s: %v", id, err)
		}
	}
	return j
}

func TestJobComesAliveAndIsCleaned(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Point(t, "p1", "web", "crash", time.Now().Add(-time.Hour))
	v.Point(t, "p2", "web", "crash", time.Now().Add(-time.Minute))
	f, dir := &fake{}, t.TempDir()
	e := engine(t, dir, v.Vault, f)
	started, err := e.Test(request("r1"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.Test(request("r1"))
	if err != nil || again.ID != started.ID {
		t.Fatalf("the same request made job %s and %s, %v", started.ID, again.ID, err)
	}
	j := await(t, e, started.ID)
	if j.State != Alive || j.Point != "p2" || !j.Result.Alive || j.Result.VaultReadBytes == 0 || j.Result.RTOSeconds <= 0 {
		t.Fatalf("job is %+v with result %+v", j, j.Result)
	}
	if want := v.Image(vault.DiskID{Machine: "web", Disk: "sda"}); !bytes.Equal(f.seen, want) {
		t.Error("the machine saw another disk than the point's")
	}
	for _, name := range []string{"job.json", "result.json", "run/serial.log"} {
		if _, err := os.Stat(filepath.Join(dir, j.ID, name)); err != nil {
			t.Errorf("evidence: %v", err)
		}
	}
	done, err := e.Cleanup(t.Context(), j.ID)
	if err != nil || done.State != Cleaned || f.stopped != 1 {
		t.Fatalf("cleaned: %+v, %v, machine stopped %d times", done.State, err, f.stopped)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != historyFile {
		t.Errorf("cleanup left %v, %v", left, err)
	}
	line, err := os.ReadFile(filepath.Join(dir, historyFile))
	if err != nil || bytes.Count(line, []byte("\n")) != 1 || bytes.Contains(line, []byte("hello\"]")) {
		t.Errorf("history is %s, %v", line, err)
	}
	if done, err = e.Cleanup(t.Context(), j.ID); err != nil || done.State != Cleaned {
		t.Errorf("cleaning again: %v, %v", done.State, err)
	}
	if again, err = e.Test(request("r1")); err != nil || again.ID != j.ID {
		t.Errorf("a request seen before made job %s, %v", again.ID, err)
	}
}

func TestJobFails(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Point(t, "p1", "web", "crash", time.Now())
	cases := []struct {
		name   string
		change func(*Request, *fake)
		want   string
		stops  int
	}{
		{"no such point", func(r *Request, _ *fake) { r.Point = "latest-app" }, "application-consistent", 0},
		{"no such machine", func(r *Request, _ *fake) { r.Machine = "mail" }, "machine mail has none", 0},
		{"target refuses", func(_ *Request, f *fake) { f.invalid = errors.New("no emulator") }, "no emulator", 0},
		{"no life", func(_ *Request, f *fake) { f.dead = true }, "no proof of life", 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f, r := &fake{}, request("")
			c.change(&r, f)
			e := engine(t, t.TempDir(), v.Vault, f)
			started, err := e.Test(r)
			if err != nil {
				t.Fatal(err)
			}
			j := await(t, e, started.ID)
			if j.State != Failed || !strings.Contains(j.Error, c.want) {
				t.Errorf("job is %s: %s", j.State, j.Error)
			}
			if _, err := e.Cleanup(t.Context(), j.ID); err != nil || f.stopped != c.stops {
				t.Errorf("cleanup: %v, stopped %d times", err, f.stopped)
			}
		})
	}
	e := engine(t, t.TempDir(), v.Vault, &fake{})
	r := request("")
	r.Target = "moon"
	if _, err := e.Test(r); !errors.Is(err, ErrTarget) {
		t.Errorf("unknown target: %v", err)
	}
	if _, err := e.Job("tf-0"); !errors.Is(err, ErrNoJob) {
		t.Errorf("unknown job: %v", err)
	}
	if _, err := e.Cleanup(t.Context(), "../etc"); !errors.Is(err, ErrNoJob) {
		t.Errorf("unknown job: %v", err)
	}
}

// A vault that does not keep the promise of the point must not boot.
func TestDigestIsHeld(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	p := *v.Point(t, "p1", "web", "crash", time.Now())
	p.Machines = append([]vault.PointMachine(nil), p.Machines...)
	p.Machines[0].Disks = append([]vault.PointDisk(nil), p.Machines[0].Disks...)
	p.Machines[0].Disks[0].Digest[5] ^= 1
	if _, err := open(t.Context(), v.Vault, &p.Machines[0]); err == nil || !strings.Contains(err.Error(), "another digest") {
		t.Errorf("opened with a wrong digest: %v", err)
	}
	p.Machines[0].Disks[0].Size++
	if _, err := open(t.Context(), v.Vault, &p.Machines[0]); err == nil || !strings.Contains(err.Error(), "bytes") {
		t.Errorf("opened with a wrong size: %v", err)
	}
}

func TestCleanupEndsARunningJob(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Point(t, "p1", "web", "crash", time.Now())
	f := &fake{starting: make(chan struct{})}
	dir := t.TempDir()
	e := engine(t, dir, v.Vault, f)
	j, err := e.Test(request(""))
	if err != nil {
		t.Fatal(err)
	}
	for j.State != Booting {
		if j, err = e.Watch(t.Context(), j.ID, j.Revision); err != nil {
			t.Fatal(err)
		}
	}
	if j, err = e.Cleanup(t.Context(), j.ID); err != nil || j.State != Cleaned {
		t.Fatalf("job is %s, %v", j.State, err)
	}
	if _, err := os.Stat(filepath.Join(dir, j.ID)); !os.IsNotExist(err) {
		t.Errorf("the job's directory is left: %v", err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Point(t, "p1", "web", "crash", time.Now())
	dir := t.TempDir()
	f := &fake{}
	e := engine(t, dir, v.Vault, f)
	alive, err := e.Test(request("r1"))
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, alive.ID)
	// What kill -9 leaves: the directory as it is now. The first engine goes on, the
	// second one starts on a copy.
	copyOf := t.TempDir()
	if err := os.CopyFS(copyOf, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(copyOf, "tf-torn")
	if err := os.MkdirAll(filepath.Join(torn, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(torn, jobFile), []byte(`{"id":"tf-torn","sta`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copyOf, historyFile), []byte(`{"id":"tf-old","state":"cleaned"}`+"\n"+`{"id":"tf-cut`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(copyOf, "tf-old", "run"), 0o700); err != nil { // killed while cleaning
		t.Fatal(err)
	}
	again := engine(t, copyOf, v.Vault, f)
	for _, id := range []string{alive.ID, "tf-torn"} {
		j, err := again.Job(id)
		if err != nil || j.State != Interrupted || j.Error == "" {
			t.Fatalf("job %s is %+v, %v", id, j, err)
		}
		if j, err = again.Cleanup(t.Context(), id); err != nil || j.State != Cleaned {
			t.Errorf("cleanup of %s: %s, %v", id, j.State, err)
		}
	}
	if _, err := os.Stat(filepath.Join(copyOf, "tf-old")); !os.IsNotExist(err) {
		t.Errorf("a cleaned job's directory is left: %v", err)
	}
	left, err := os.ReadDir(copyOf)
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	third := engine(t, copyOf, v.Vault, f)
	if n := len(third.Jobs()); n != 3 { // tf-old and the two cleaned; the torn line is gone, not the one after it
		b, _ := os.ReadFile(filepath.Join(copyOf, historyFile))
		t.Errorf("the history has %d jobs: %s", n, b)
	}
}

func TestStopInterrupts(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Point(t, "p1", "web", "crash", time.Now())
	f, dir := &fake{}, t.TempDir()
	e := engine(t, dir, v.Vault, f)
	j, err := e.Test(request(""))
	if err != nil {
		t.Fatal(err)
	}
	await(t, e, j.ID)
	if err := e.Stop(t.Context()); err != nil || f.stopped != 1 {
		t.Fatalf("stop: %v, machine stopped %d times", err, f.stopped)
	}
	b, err := os.ReadFile(filepath.Join(dir, j.ID, jobFile))
	var saved Job
	if err == nil {
		err = json.Unmarshal(b, &saved)
	}
	if err != nil || saved.State != Interrupted || saved.Error != "the server was stopped" {
		t.Errorf("saved %+v, %v", saved, err)
	}
	if _, err := e.Test(request("")); !errors.Is(err, ErrRefused) {
		t.Errorf("a stopped engine takes requests: %v", err)
	}
}

func TestLatestWaitsUntilSettled(t *testing.T) {
	t.Parallel()
	v := vaulttest.New(t)
	v.Point(t, "p1", "web", "crash", time.Now().Add(-time.Minute))
	f := &fake{}
	e := engine(t, t.TempDir(), v.Vault, f)
	e.cfg.Settle = func(_ context.Context, machine string) error {
		v.Point(t, "p2", machine, "crash", time.Now())
		return nil
	}
	r := request("")
	r.Point = LatestProcessed
	j, err := e.Test(r)
	if err != nil {
		t.Fatal(err)
	}
	if j = await(t, e, j.ID); j.Point != "p1" {
		t.Errorf("latest-processed is %s", j.Point)
	}
	if j, err = e.Test(request("")); err != nil {
		t.Fatal(err)
	}
	if j = await(t, e, j.ID); j.Point != "p2" {
		t.Errorf("latest is %s", j.Point)
	}
}

func TestHistoryIsCutBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var b bytes.Buffer
	for i := range 2*maxHistory + 5 {
		fmt.Fprintf(&b, `{"id":"tf-%d","state":"cleaned"}`+"\n", i)
	}
	if err := os.WriteFile(filepath.Join(dir, historyFile), b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f := files{dir}
	all, err := f.history()
	if err != nil || len(all) != maxHistory || all[maxHistory-1].ID != fmt.Sprintf("tf-%d", 2*maxHistory+4) {
		t.Fatalf("%d lines, %v", len(all), err)
	}
	if all, err = f.history(); err != nil || len(all) != maxHistory {
		t.Errorf("the file has %d lines, %v", len(all), err)
	}
}
