package appliance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	source "github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// lifeTime is many times what a step takes here when nothing else runs.
const lifeTime = 2 * time.Minute

// protected is a machine with a real agent over a disk that is a file, and the appliance
// that protects it.
type protected struct {
	*testing.T
	name             string // of the machine; default web
	dir, disk, state string
	cmd              *exec.Cmd // the appliance, if it is a process of its own
	port             string
	manage           string // host:port of its management port; empty: none
	stop             func() // of the agent
}

// protect runs a real agent over a disk that boots and says word. The appliance must be up.
func (p *protected) protect(word string) {
	p.Helper()
	p.disk, p.state = filepath.Join(p.TempDir(), "sda"), p.TempDir()
	p.write(0, targettest.Ticking(word))
	p.agent()
}

// agent runs an agent over the disk until stop or the test's end.
func (p *protected) agent() {
	p.Helper()
	b := connect(p.T, p.dir, "agent")
	cfg := source.Default()
	cfg.Machine, cfg.Disks, cfg.StateDir = p.machine(), []source.DiskConfig{{Path: p.disk, Name: "sda"}}, p.state
	cfg.Capture, cfg.Interval = "scan", 200*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var a *source.Agent
	p.until("the agent holds its disk", func() (err error) {
		a, err = source.New(p.Context(), cfg, b, slog.New(slog.NewTextHandler(p.Output(), nil)))
		return err
	})
	go func() {
		defer close(done)
		// A copy that is re-protected takes the disks; an agent that is fenced ends then.
		if err := a.Run(ctx); err != nil && !errors.Is(err, source.ErrFenced) {
			p.Errorf("the agent ended: %v", err)
		}
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		a.Close()
		b.Close()
	})
	p.Cleanup(p.stop)
}

func (p *protected) write(at int64, data []byte) {
	p.Helper()
	f, err := os.OpenFile(p.disk, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteAt(data, at)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		p.Fatal(err)
	}
}

// until waits until try succeeds.
func (p *protected) until(what string, try func() error) {
	p.Helper()
	var err error
	for end := time.Now().Add(lifeTime); ; pause(p.T) {
		if err = try(); err == nil {
			return
		}
		if time.Now().After(end) {
			p.Fatalf("not in time: %s: %v", what, err)
		}
	}
}

// cli runs a command that succeeds, and returns what it prints.
func (p *protected) cli(args ...string) string {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), lifeTime)
	defer cancel()
	code, out, errs := lw(p.T, ctx, p.dir, append(args, "-o", "json")...)
	if code != 0 {
		p.Fatalf("leeward %s: code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}

func as[T any](p *protected, out string) (v T) {
	p.Helper()
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		p.Fatalf("%v: %s", err, out)
	}
	return v
}

func (p *protected) machine() string { return cmp.Or(p.name, "web") }

func (p *protected) life() life.Life {
	return as[life.Life](p, p.cli("failover", "show", p.machine()))
}

func (p *protected) points() (ids []string) {
	for _, k := range as[struct{ Items []api.Point }](p, p.cli("point", "ls", "web")).Items {
		ids = append(ids, k.ID)
	}
	return ids
}

// pointOfNow waits for a point that was cut after now, and returns its id.
func (p *protected) pointOfNow() (id string) {
	p.Helper()
	now := time.Now()
	p.until("a point of what the disk holds", func() error {
		ctx, cancel := context.WithTimeout(p.Context(), 10*time.Second)
		defer cancel()
		_, out, errs := lw(p.T, ctx, p.dir, "point", "ls", p.machine(), "-o", "json")
		var all struct{ Items []api.Point }
		if err := json.Unmarshal([]byte(out), &all); err != nil {
			return fmt.Errorf("%w: %s", err, errs)
		}
		for _, k := range all.Items {
			if k.Time.After(now) {
				id = k.ID
				return nil
			}
		}
		return fmt.Errorf("%d points, none so young", len(all.Items))
	})
	return id
}

// up starts the appliance, always on the same port: agents find it again.
func (p *protected) up() {
	p.Helper()
	if p.port == "" {
		p.port = freePort(p.T)
	}
	p.cmd = child(p.T, p.dir, listenAt+"="+p.port, manageAt+"="+p.manage)
	p.until("the appliance is up", func() error {
		ctx, cancel := context.WithTimeout(p.Context(), 10*time.Second)
		defer cancel()
		code, out, errs := lw(p.T, ctx, p.dir, "status", "-o", "json")
		if code != 0 || !strings.Contains(out, `"ready": true`) {
			return fmt.Errorf("code %d, %s", code, errs)
		}
		return nil
	})
}

// freePort finds a port of loopback where nobody listens. It may be left and taken again.
func freePort(t *testing.T) string {
	t.Helper()
	return streamstest.Addresses(t, 1)[0]
}

// kill kills the appliance and starts it again.
func (p *protected) kill() {
	p.Helper()
	_ = p.cmd.Process.Kill() // it has not ended
	<-waited(p.cmd)
	p.up()
}

// says waits until the machine of a job says more that starts with word.
func (p *protected) says(job, word string) {
	p.Helper()
	log := filepath.Join(p.dir, "jobs", job, "run", "serial.log")
	before, err := os.ReadFile(log)
	if err != nil {
		p.Fatal(err)
	}
	p.until("the machine goes on to say "+word, func() error {
		b, err := os.ReadFile(log)
		if err == nil && !bytes.Contains(b[len(before):], []byte(word)) {
			err = fmt.Errorf("it said %d bytes more", len(b)-len(before))
		}
		return err
	})
}

var failoverFlags = []string{"--serial", "t.ck=B", "--memory", "128MiB", "--firmware", "bios", "--timeout", "90s"}

// The way of a machine through a disaster on real QEMU, by the commands an operator has;
// the appliance is killed after every step, and the agent of the source never stops.
func TestLifeOnQEMU(t *testing.T) {
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64", "env")
	p := &protected{T: t, dir: t.TempDir()}
	t.Cleanup(func() { // what a machine that was failed over is: running
		for _, pid := range targettest.WorkIn(p.dir) {
			if p.cmd.ProcessState != nil || pid != p.cmd.Process.Pid {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		targettest.WaitFor(t, lifeTime, "every machine has ended", func() bool {
			left := targettest.WorkIn(p.dir)
			return len(left) == 0 || p.cmd.ProcessState == nil && len(left) == 1
		})
	})
	p.up()
	p.protect("tick")
	p.write(3<<20, []byte("written at home"))
	first := p.pointOfNow()
	p.cli("point", "pin", first)
	test := as[failover.Job](p, p.cli(append([]string{"failover", "test", "web", "--point", first}, failoverFlags...)...))
	if test.State != failover.Alive || test.Kind != failover.TestFailover {
		t.Fatalf("the test is %+v", test)
	}
	p.kill()
	p.cli("failover", "cleanup", test.ID)

	p.write(0, targettest.Ticking("tock"))
	p.pointOfNow()
	p.kill()
	v := as[api.Validation](p, p.cli(append([]string{"failover", "validate", "web"}, failoverFlags...)...))
	if !v.Good {
		t.Fatalf("a failover would fail: %+v", v)
	}
	p.cli(append([]string{"failover", "start", "web", "--confirm", "web", "--wait"}, failoverFlags...)...)
	l := p.life()
	if l.Phase != life.FailedOver || l.Point == first {
		t.Fatalf("it is %+v", l)
	}
	p.says(l.Job, "tock=")
	p.kill()
	p.says(l.Job, "tock=")

	// The source lives on, and writes: nobody hears of it any more.
	p.until("the agent knows that it is fenced", func() error {
		st, _, err := source.ReadStatus(p.state)
		if err == nil && st.Fenced == "" {
			err = fmt.Errorf("it is not fenced")
		}
		return err
	})
	before := p.points()
	p.write(1<<20, []byte("written by a zombie"))

	p.cli("failover", "change-point", "web", "--point", first, "--confirm", "web", "--wait")
	p.kill()
	if l = p.life(); l.Phase != life.FailedOver || l.Point != first {
		t.Fatalf("it is %+v", l)
	}
	p.says(l.Job, "tick=")
	p.cli("failover", "commit", "web")
	p.kill()
	if l = p.life(); l.Phase != life.Committed {
		t.Fatalf("it is %+v", l)
	}
	p.says(l.Job, "tick=")
	if after := p.points(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the points were %v and are %v", before, after)
	}
	code, _, errs := lw(t, t.Context(), p.dir, "failover", "cleanup", l.Job)
	if code == 0 || !strings.Contains(errs, "is no test") {
		t.Errorf("cleaning up the machine that was failed over: %d, %s", code, errs)
	}
	// A stop in good order leaves it, too.
	terminate(t, p.cmd)
	p.says(l.Job, "tick=")
	p.up()
	p.home(l.Job)
}

// home leads the machine back: what it wrote at home before, and away, is on its disk.
func (p *protected) home(job string) {
	p.Helper()
	p.cli("failover", "reprotect", "web", "--wait")
	p.kill()
	if l := p.life(); l.Phase != life.Ready || l.Job != job {
		p.Fatalf("it is %+v", l)
	}
	p.pointOfNow() // of the copy
	if m := as[api.Machine](p, p.cli("machine", "show", "web")); m.Health != health.Healthy || m.RPO == nil || *m.RPO > lifeTime.Seconds() {
		p.Errorf("re-protected it is %s, RPO %v, %+v", m.Health, m.RPO, m.Issues)
	}
	p.says(job, "tick=")
	p.stop() // the machine at home is off, or runs something that writes its disks
	p.cli("failover", "failback", "web", "--disk", "sda="+p.disk, "--wait")
	p.kill()
	if l := p.life(); l.Phase != life.Returned {
		p.Fatalf("it is %+v", l)
	}
	at := p.image()
	if want := targettest.Ticking("tick"); !bytes.Equal(at[:512], want[:512]) || !bytes.HasPrefix(at[3<<20:], []byte("written at home")) {
		p.Error("the disk at home is not that of the point")
	}
	if at[512] == 0 && bytes.Count(at[512:1024], []byte{0}) == 512 {
		p.Error("what the machine wrote while it was away is not on its disk")
	}
	if bytes.HasPrefix(at[1<<20:], []byte("written by a zombie")) {
		p.Error("what the source wrote when it was fenced is still on its disk")
	}
	p.cli("failover", "commit", "web", "--wait")
	p.kill()
	if l := p.life(); l.Phase != life.Protected {
		p.Fatalf("it is %+v", l)
	}
	if left := targettest.WorkIn(filepath.Join(p.dir, "jobs")); len(left) > 0 {
		p.Errorf("machines are left: %v", left)
	}
	p.agent()
	p.pointOfNow()
}

func (p *protected) image() []byte {
	p.Helper()
	b, err := os.ReadFile(p.disk)
	if err != nil {
		p.Fatal(err)
	}
	return b
}

// A planned failover loses nothing, or does not happen: what the source writes between
// the final point and the fence is found, and the machine stays protected.
func TestPlannedFailover(t *testing.T) {
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64")
	p := &protected{T: t, dir: t.TempDir()}
	startHere(t, p.dir)
	p.protect("tick")
	p.pointOfNow()
	b := connect(t, p.dir, "admin")
	defer b.Close()

	// Somebody writes as soon as there is a final point.
	// On a busy machine that may come later than the agent's last look, and then nobody can
	// know of it: that is tried again.
	planned := append([]string{"failover", "start", "web", "--planned", "--confirm", "web", "--wait", "-o", "json"}, failoverFlags...)
	for tries := 5; ; tries-- {
		late := make(chan struct{}, 1)
		sub := p.afterFinal(b, "web", func() {
			p.write(2<<20, fmt.Append(nil, "too late ", time.Now().UnixNano())) // each time something else
			late <- struct{}{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), lifeTime)
		code, _, errs := lw(t, ctx, p.dir, planned...)
		cancel()
		select {
		case <-late:
		case <-time.After(lifeTime):
			t.Fatalf("nobody wrote after the final point: this test shows nothing; code %d, %s", code, errs)
		}
		if err := sub.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
		if code != 0 && (strings.Contains(errs, "changed after the final point") || strings.Contains(errs, "changed on the source after the final point")) {
			break
		}
		if code != 0 || tries == 0 {
			t.Fatalf("written to after the final point: code %d, %s", code, errs)
		}
		t.Log("the write was too late")
		p.cli("failover", "cancel", "web", "--confirm", "web", "--wait")
		p.pointOfNow()
	}
	if l := p.life(); l.Phase != life.Protected || l.Job != "" {
		t.Fatalf("it is %+v", l)
	}
	p.pointOfNow() // it goes on, with what was written

	// The applications are stopped by a command; then nothing is lost.
	stopped := filepath.Join(t.TempDir(), "stopped")
	p.write(3<<20, []byte("the last word"))
	p.cli(append([]string{"failover", "start", "web", "--planned", "--quiesce", "echo $LEEWARD_PLAN >" + stopped, "--confirm", "web", "--wait"}, failoverFlags...)...)
	l := p.life()
	if l.Phase != life.FailedOver || l.Loss == nil || *l.Loss != 0 {
		t.Fatalf("it is %+v", l)
	}
	if said, err := os.ReadFile(stopped); err != nil || string(said) != "web\n" {
		t.Errorf("the command said %q, %v", said, err)
	}
	out := filepath.Join(t.TempDir(), "web.img")
	p.cli("vault", "restore", "--point", l.Point, "--machine", "web", "--disk", "sda", "--to", out)
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, p.image()) {
		t.Errorf("the point that it was failed over to is not what the source's disk holds: %v", err)
	}
	p.cli("failover", "cancel", "web", "--confirm", "web", "--wait")
	p.pointOfNow()
}

// afterFinal calls write once when the next marker of a final point of a group is published.
func (p *protected) afterFinal(b *bus.Bus, group string, write func()) interface{ Unsubscribe() error } {
	p.Helper()
	sub, err := b.Conn.SubscribeSync(streams.MarkersSubject(group))
	if err != nil {
		p.Fatal(err)
	}
	go func() {
		for {
			m, err := sub.NextMsg(lifeTime)
			if err != nil {
				return
			}
			if k, err := wire.DecodeMarker(m.Data); err == nil && k.Took > 0 { // of a barrier: the agent alone makes none
				write()
				return
			}
		}
	}()
	return sub
}
