package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

const keepEnv = "LEEWARD_TEST_KEEP"

func TestMain(m *testing.M) {
	if os.Getenv(keepEnv) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := Keep(ctx, os.Args[1], os.Stdin, openToy, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// toy is a target without a machine: it does what its specification says.
type toy struct {
	FailOpen, FailStart, FailStop string
	HangStart, Deaf               bool // deaf: it powers off only when it has to
	dir                           string
	off                           chan struct{}
}

func openToy(_ context.Context, spec json.RawMessage) (target.Target, *target.Machine, func(), error) {
	t := &toy{off: make(chan struct{})}
	if err := json.Unmarshal(spec, t); err != nil {
		return nil, nil, nil, err
	}
	if t.FailOpen != "" {
		return nil, nil, nil, errors.New(t.FailOpen)
	}
	return t, &target.Machine{Name: "toy"}, func() {}, nil
}

func (t *toy) Name() string                                    { return "toy" }
func (t *toy) Validate(context.Context, *target.Machine) error { return nil }

func (t *toy) Start(ctx context.Context, _ *target.Machine, dir string) (target.Running, error) {
	t.dir = dir
	if t.HangStart {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if t.FailStart != "" {
		return nil, errors.New(t.FailStart)
	}
	return t, nil
}

func (t *toy) Probe(ctx context.Context, p target.Probe) (*target.Result, error) {
	if p.Serial == "never" {
		if err := os.WriteFile(filepath.Join(t.dir, "begun"), nil, 0o600); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, os.WriteFile(filepath.Join(t.dir, "given-up"), nil, 0o600)
	}
	return &target.Result{Alive: true, Evidence: []string{p.Serial}, Boot: time.Second, Fetched: 7}, nil
}

func (t *toy) Do(_ context.Context, what string, in json.RawMessage) (json.RawMessage, error) {
	if what != "echo" {
		return nil, fmt.Errorf("a toy cannot %q", what)
	}
	return in, nil
}

func (t *toy) Stop(ctx context.Context) error {
	select {
	case <-t.off:
	default:
		if t.Deaf {
			<-ctx.Done()
		}
		close(t.off)
	}
	if t.FailStop != "" {
		return errors.New(t.FailStop)
	}
	return nil
}

func (t *toy) Wait(ctx context.Context) error {
	select {
	case <-t.off:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// limit is for everything that is no matter of time.
const limit = 2 * time.Minute

func start(t *testing.T, spec toy) (m *Machine, dir string, err error) {
	t.Helper()
	dir = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	m, err = Start(ctx, []string{"/usr/bin/env", keepEnv + "=1", os.Args[0], dir}, dir, spec)
	t.Cleanup(func() {
		if s, err := readState(dir); err == nil && !(&Machine{dir: dir}).gone() {
			syscall.Kill(s.PID, syscall.SIGKILL)
			t.Error("a keeper is left")
		}
	})
	return m, dir, err
}

func good(t *testing.T, spec toy) (*Machine, string) {
	t.Helper()
	m, dir, err := start(t, spec)
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, logFile))
		t.Fatalf("start: %v; it said %s", err, said)
	}
	return m, dir
}

func TestKeeps(t *testing.T) {
	m, dir := good(t, toy{})
	other, err := Adopt(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Machine{m, other} {
		r, err := m.Probe(t.Context(), target.Probe{Serial: "hello"})
		if err != nil || !r.Alive || r.Evidence[0] != "hello" || r.Boot != time.Second || r.Fetched != 7 {
			t.Fatalf("probe: %+v, %v", r, err)
		}
	}
	var echo []int
	if err := other.Do(t.Context(), "echo", []int{1, 2}, &echo); err != nil || len(echo) != 2 {
		t.Errorf("do: %v, %v", echo, err)
	}
	if err := m.Do(t.Context(), "sing", nil, nil); err == nil || !strings.Contains(err.Error(), "cannot \"sing\"") {
		t.Errorf("do what it cannot: %v", err)
	}
	if _, err := Start(t.Context(), []string{"/bin/false"}, dir, toy{}); err == nil {
		t.Error("a second keeper was started for one directory")
	}
	waited := make(chan error, 1)
	go func() { waited <- m.Wait(t.Context()) }()
	if err := other.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Errorf("stop after it was stopped: %v", err)
	}
	if err := <-waited; err != nil && !errors.Is(err, ErrGone) {
		t.Errorf("wait: %v", err)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Errorf("wait after stop: %v", err)
	}
	if _, err := m.Probe(t.Context(), target.Probe{}); !errors.Is(err, ErrGone) {
		t.Errorf("a probe after stop: %v", err)
	}
	if _, err := Adopt(dir); !errors.Is(err, ErrGone) {
		t.Errorf("adopt after stop: %v", err)
	}
	if _, err := Adopt(t.TempDir()); !errors.Is(err, ErrGone) {
		t.Errorf("adopt where nothing was: %v", err)
	}
}

// A probe that nobody waits for any more is given up, and the keeper goes on.
func TestProbeIsGivenUp(t *testing.T) {
	m, dir := good(t, toy{})
	there := func(name string) func() bool {
		return func() bool { _, err := os.Stat(filepath.Join(dir, name)); return err == nil }
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	probed := make(chan error, 1)
	go func() {
		_, err := m.Probe(ctx, target.Probe{Serial: "never"})
		probed <- err
	}()
	targettest.WaitFor(t, limit, "the keeper probes", there("begun"))
	cancel()
	if err := <-probed; !errors.Is(err, context.Canceled) {
		t.Errorf("probe: %v", err)
	}
	targettest.WaitFor(t, limit, "the probe is given up", there("given-up"))
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSaysWhyNot(t *testing.T) {
	for name, spec := range map[string]toy{"open": {FailOpen: "no such disk"}, "start": {FailStart: "no such disk"}} {
		_, dir, err := start(t, spec)
		if err == nil || !strings.Contains(err.Error(), "no such disk") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := Adopt(dir); !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "no such disk") {
			t.Errorf("%s: adopt: %v", name, err)
		}
	}
	m, _ := good(t, toy{FailStop: "stuck"})
	if err := m.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "stuck") {
		t.Errorf("stop: %v", err)
	}
	dir := t.TempDir()
	if _, err := Start(t.Context(), []string{filepath.Join(dir, "nothing")}, dir, toy{}); err == nil {
		t.Error("a program that is not there was started")
	}
	if _, err := Start(t.Context(), []string{"/bin/false"}, dir, toy{}); err == nil {
		t.Error("a program that keeps nothing was taken for a keeper")
	}
}

// A stop that must not wait does not, whatever the machine makes of it.
func TestStopsAtOnce(t *testing.T) {
	m, _ := good(t, toy{Deaf: true})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := m.Stop(ctx); err != nil {
		t.Errorf("stop cut short: %v", err)
	}
	m, _ = good(t, toy{Deaf: true})
	if err := m.Stop(ctx); err != nil {
		t.Errorf("stop without waiting: %v", err)
	}
}

// A keeper that hangs, here because it is stopped, is killed; one that starts too long
// is too.
func TestHungKeeperIsKilled(t *testing.T) {
	m, dir := good(t, toy{})
	m.patience = 100 * time.Millisecond
	s, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// It may not be a quiet end, but it is an end.
	if err := m.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "use of closed") {
		t.Errorf("stop: %v", err)
	}
	if !m.gone() {
		t.Error("the keeper is still there")
	}
}

// A keeper that gets a signal stops its machine.
func TestSignal(t *testing.T) {
	m, dir := good(t, toy{})
	s, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	targettest.WaitFor(t, limit, "the keeper ends", m.gone)
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// People cannot start keepers, and half a specification starts nothing.
func TestOnlyStartStartsKeepers(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	run := func(in string, lock *os.File) string {
		c := exec.CommandContext(ctx, os.Args[0], dir)
		c.Env = append(os.Environ(), keepEnv+"=1")
		c.Stdin = strings.NewReader(in)
		if lock != nil {
			c.ExtraFiles = []*os.File{lock}
		}
		out, err := c.CombinedOutput()
		if err == nil {
			t.Error("it kept something")
		}
		return string(out)
	}
	if said := run("{}", nil); !strings.Contains(said, "control starts keepers") {
		t.Errorf("without a lock: %s", said)
	}
	lock, err := take(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if said := run(`{"FailOpen": "tor`, lock); !strings.Contains(said, "read what to bring up") {
		t.Errorf("half a specification: %s", said)
	}
	if _, err := os.Stat(filepath.Join(dir, stateFile)); err == nil {
		t.Error("half a specification made a keeper")
	}
}
