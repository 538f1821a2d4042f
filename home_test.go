package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/agent/disk/home"
	"github.com/leeward-dr/leeward/agent/rescue"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// alone is a site whose NATS server, process server and control are each on their own, and
// a machine that it protects.
type alone struct {
	*testing.T
	dir, disk, state string
}

// cli runs a command that succeeds.
func (a *alone) cli(args ...string) string {
	a.Helper()
	code, out, errs := a.try(args...)
	if code != 0 {
		a.Fatalf("leeward %s: code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

func (a *alone) try(args ...string) (code int, out, errs string) {
	a.Helper()
	ctx, cancel := context.WithTimeout(a.Context(), rolesPatience)
	defer cancel()
	var o, e bytes.Buffer
	code = cli.Main(ctx, cli.Options{
		Args: append(args, "-o", "json", "--dir", a.dir), In: strings.NewReader(""), Out: &o, Err: &e,
		Getenv: func(string) string { return "" }, Version: cli.ThisVersion("v1.2.3"),
	})
	return code, o.String(), e.String()
}

func (a *alone) phase() life.Phase {
	a.Helper()
	var l life.Life
	if err := json.Unmarshal([]byte(a.cli("failover", "show", "web")), &l); err != nil {
		a.Fatal(err)
	}
	return l.Phase
}

// agent protects the disk until stop.
func (a *alone) agent() (stop func()) {
	a.Helper()
	b, err := bus.Connect(a.Context(), bus.Options{Context: embed.ContextFile(a.dir, embed.Agent)})
	if err != nil {
		a.Fatal(err)
	}
	cfg := agent.Default()
	cfg.Machine, cfg.Disks, cfg.StateDir = "web", []agent.DiskConfig{{Path: a.disk, Name: "sda"}}, a.state
	cfg.Capture, cfg.Interval = "scan", 200*time.Millisecond
	var x *agent.Agent
	until(a.T, "the agent holds its disk", func() bool {
		x, err = agent.New(a.Context(), cfg, b, slog.New(slog.NewTextHandler(a.Output(), nil)))
		return err == nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := x.Run(ctx); err != nil && !errors.Is(err, agent.ErrFenced) {
			a.Errorf("the agent ended: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		x.Close()
		b.Close()
	})
	a.Cleanup(stop)
	return stop
}

// rescue holds the disk for whoever brings it home over the bus, until the test ends.
func (a *alone) rescue() {
	a.Helper()
	d, err := home.Open(a.disk)
	if err == nil {
		err = d.Hold()
	}
	if err != nil {
		a.Fatal(err)
	}
	b, err := bus.Connect(a.Context(), bus.Options{Context: embed.ContextFile(a.dir, embed.Agent)})
	if err != nil {
		a.Fatal(err)
	}
	s, err := rescue.New(rescue.Config{Name: "metal", Disks: map[string]*home.Disk{"sda": d}})
	if err != nil {
		a.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, b.Conn) }()
	a.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			a.Errorf("the rescue: %v", err)
		}
		b.Close()
		d.Close()
	})
}

// point waits for a point that was cut after now.
func (a *alone) point() {
	a.Helper()
	now := time.Now()
	until(a.T, "a point of what the disk holds", func() bool {
		var all struct{ Items []api.Point }
		_, out, _ := a.try("point", "ls", "web")
		if json.Unmarshal([]byte(out), &all) != nil || len(all.Items) == 0 {
			return false
		}
		return all.Items[len(all.Items)-1].Time.After(now)
	})
}

// last is when a stream got its last message; zero if it never had one.
func (a *alone) last(stream string) time.Time {
	a.Helper()
	var all struct{ Items []api.Stream }
	if err := json.Unmarshal([]byte(a.cli("stream", "ls")), &all); err != nil {
		a.Fatal(err)
	}
	for _, s := range all.Items {
		if s.Name == stream {
			return s.Last
		}
	}
	a.Fatalf("there is no stream %s", stream)
	return time.Time{}
}

// A control on a host of its own, with the rights of one, leads a machine out and home. What
// the machine writes meanwhile is handled by the pool that is near where it runs.
func TestControlAloneLeadsHome(t *testing.T) {
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64")
	dir := t.TempDir()
	var refused sync.Map
	s, err := embed.Start(t.Context(), embed.Config{Dir: dir, Listen: "127.0.0.1:-1", Refused: func(r embed.Refusal) { refused.Store(r, true) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	makeVault(t, dir)
	t.Cleanup(func() { // a machine that was failed over outlives control
		for _, pid := range targettest.WorkIn(filepath.Join(dir, "jobs")) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		targettest.WaitFor(t, rolesPatience, "every machine has ended", func() bool { return len(targettest.WorkIn(filepath.Join(dir, "jobs"))) == 0 })
	})
	role(t, processCommand(), dir)
	role(t, processCommand(), dir, "--pool", "west")
	out, _ := role(t, controlCommand("1.0.0"), dir, "--pool", "west", "--reverse-pool", "west")
	out.find(t, `(control is active)`)

	a := &alone{T: t, dir: dir, disk: filepath.Join(t.TempDir(), "sda"), state: t.TempDir()}
	if err := os.WriteFile(a.disk, targettest.Ticking("tick"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := a.agent()
	a.point()
	a.cli("failover", "start", "web", "--confirm", "web", "--wait", "--serial", "t.ck=B", "--memory", "128MiB", "--firmware", "bios", "--timeout", "90s")
	far := streams.Pool("west").Stream()
	if a.last(streams.Changes).IsZero() || !a.last(far).IsZero() {
		t.Error("what the agent sent went to the pool")
	}
	a.cli("failover", "commit", "web")
	a.cli("failover", "reprotect", "web", "--wait")
	if p := a.phase(); p != life.Ready {
		t.Fatalf("it is %s", p)
	}
	a.point() // of the copy
	stop()
	before, err := os.ReadFile(a.disk)
	if err != nil {
		t.Fatal(err)
	}
	a.rescue()
	a.cli("failover", "failback", "web", "--to", "rescue:metal", "--wait")
	after, err := os.ReadFile(a.disk)
	if err != nil || bytes.Equal(before[:1024], after[:1024]) || !bytes.Equal(before[:512], after[:512]) {
		t.Errorf("the disk at home is not what the machine has made of it: %v", err)
	}
	if a.last(far).IsZero() {
		t.Error("what the machine wrote did not go to the pool")
	}
	a.cli("failover", "commit", "web", "--wait")
	if p := a.phase(); p != life.Protected {
		t.Errorf("it is %s", p)
	}
	a.agent()
	a.point()
	if left := targettest.WorkIn(filepath.Join(dir, "jobs")); len(left) > 0 {
		t.Errorf("machines are left: %v", left)
	}
	refused.Range(func(r, _ any) bool {
		t.Errorf("the server refused %+v", r)
		return true
	})
}
