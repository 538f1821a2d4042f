package agent

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// TestProcess is about the agent as it is installed: the program itself, signals and all.
func TestProcess(t *testing.T) {
	disktest.NeedRoot(t, "go")
	bin := filepath.Join(t.TempDir(), "leeward-agent")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/leeward-dr/leeward/agent/leeward-agent").CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	t.Run("list of disks", func(t *testing.T) { testReload(t, bin) })
	t.Run("killed", func(t *testing.T) { testKilled(t, bin) })
	t.Run("16 TiB", func(t *testing.T) { testHuge(t, bin) })
}

// program is an agent in a process of its own.
type program struct {
	t    *testing.T
	args []string
	cmd  *exec.Cmd
	done chan error
	mu   sync.Mutex
	said bytes.Buffer
}

// Write implements io.Writer for what the agent says.
func (p *program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.Write(b)
}

func (p *program) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// newProgram prepares an agent that speaks to a server through a port of its own.
func newProgram(t *testing.T, bin string, s *streamstest.Server, state string, args ...string) *program {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, err := s.InProcessConn()
			if err != nil {
				c.Close()
				continue
			}
			go func() { _, _ = io.Copy(n, c); n.Close() }()
			go func() { _, _ = io.Copy(c, n); c.Close() }()
		}
	}()
	p := &program{t: t}
	p.args = append([]string{bin, "run", "--machine", "m", "--server", "nats://" + l.Addr().String(), "--state-dir", state,
		"--capture", "trace", "--interval", "100ms", "--freeze-limit", "2s"}, args...)
	t.Cleanup(func() {
		p.end(unix.SIGKILL)
		if t.Failed() {
			t.Log(p.text())
		}
		if _, err := trace.Forget(state, "", false); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *program) start() {
	p.t.Helper()
	p.cmd, p.done = exec.Command(p.args[0], p.args[1:]...), make(chan error, 1)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.WaitDelay = 5 * time.Second // the guard may have the pipe a little longer
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, done := p.cmd, p.done
	go func() { done <- cmd.Wait() }()
}

// end sends a signal and waits until the process is gone.
func (p *program) end(s syscall.Signal) error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(s)
	select {
	case err := <-p.done:
		p.cmd = nil
		return err
	case <-time.After(2 * time.Minute):
		_ = p.cmd.Process.Kill()
		p.t.Errorf("the agent did not end after %v", s)
		return <-p.done
	}
}

// testReload changes the list of disks under an agent that runs.
func testReload(t *testing.T, bin string) {
	s := streamstest.StartWith(t, t.TempDir())
	names, list, state := apart(2), filepath.Join(t.TempDir(), "disks"), t.TempDir()
	var rs []*receiver
	var ds []DiskConfig
	for _, n := range names {
		rs = append(rs, receive(t.Context(), t, s.Bus(), "m", n))
		ds = append(ds, DiskConfig{disktest.Loop(t, someSize), n})
	}
	written := int64(0)
	// follows writes to a disk and waits for a point that has it.
	follows := func(i int) {
		t.Helper()
		written++
		put(t, ds[i].Path, written, fmt.Sprint("block ", written))
		until(t, "a cut of disk "+names[i], func() bool { return rs[i].hasCut(now(t, ds[i].Path)) })
	}
	p := newProgram(t, bin, s, state, "--disks-file", list)
	reload := func(text string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if p.cmd != nil {
			if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
	}
	a, b := ds[0].Path+"="+ds[0].Name+"\n", ds[1].Path+"="+ds[1].Name+"\n"
	reload("# the first\n" + a)
	p.start()
	follows(0)
	reload(a + b)
	follows(1)
	follows(0)
	for i, bad := range []string{"=x\n", "", ds[0].Path + "=two words\n"} {
		reload(bad)
		until(t, "a word about a bad list", func() bool { return strings.Count(p.text(), "the disks stay as they are") == i+1 })
		follows(0)
		follows(1)
	}
	reload(b + ds[0].Path + "-is-not-there=c\n")
	until(t, "the excluded disk to be let go", func() bool { return len(instancesOf(t, ds[0].Path)) == 0 })
	follows(1)
	until(t, "a status of what is followed now", func() bool {
		st, running, err := ReadStatus(state)
		return err == nil && running && st.PID == p.cmd.Process.Pid && len(st.Disks) == 1 && st.Disks[0].Name == names[1] && len(st.Aside) == 1 && st.Aside[0].Name == "c"
	})
	for i, r := range rs {
		if n := get(r, func() int { return len(r.opens) }); n != 1 {
			t.Errorf("disk %s had %d epochs", names[i], n)
		}
	}
	if err := p.end(unix.SIGTERM); err != nil {
		t.Errorf("the agent was stopped and says %v", err)
	}
	if n := len(instancesOf(t, ds[1].Path)); n != 1 {
		t.Errorf("%d instances record for the next agent", n)
	}
}

// testKilled kills the agent again and again while blocks are on their way. Each block
// is written once, and the vault must be given each block once: nothing that it has is
// sent again.
func testKilled(t *testing.T, bin string) {
	s := streamstest.StartWith(t, t.TempDir())
	r := receive(t.Context(), t, s.Bus(), "m", "d")
	const blocks = 12 << 10
	dev := disktest.Loop(t, blocks*wire.BlockSize)
	p := newProgram(t, bin, s, t.TempDir(), "--disk", dev+"=d", "--compress-at", "process-server")
	p.start()
	until(t, "the first cut", func() bool { return r.hasCut(now(t, dev)) })
	raw, err := os.OpenFile(dev, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	noise, rnd := rand.NewChaCha8([32]byte{4}), rand.New(rand.NewPCG(4, 4))
	buf := disk.AlignedBuffer(64 * wire.BlockSize)
	const kills = 6
	for kill := range kills {
		before := get(r, func() int { return r.bytes })
		for at := kill * blocks / kills; at+64 <= (kill+1)*blocks/kills; at += 64 {
			_, _ = noise.Read(buf)
			if _, err := raw.WriteAt(buf, int64(at)*wire.BlockSize); err != nil {
				t.Fatal(err)
			}
		}
		want := now(t, dev)
		some := rnd.IntN(blocks / kills * wire.BlockSize)
		until(t, "some of it on its way", func() bool { return get(r, func() int { return r.bytes })-before >= some/2 })
		_ = p.end(unix.SIGKILL)
		get(r, func() bool { clear(r.cuts); return true })
		p.start()
		until(t, "a cut with all of it", func() bool { return r.hasCut(want) })
	}
	took := strings.Count(p.text(), "tracking went on")
	if took < kills-1 { // a kill in the moment before the first mark stands
		t.Errorf("%d of %d agents took over what the one before had left", took, kills)
	}
	if n := get(r, func() int { return r.again }); n != 0 {
		t.Errorf("%d blocks were sent again though the vault had them", n)
	}
}

// testHuge: an agent with a disk of 16 TiB that is written to everywhere, while the
// disk is copied, stays small.
func testHuge(t *testing.T, bin string) {
	const size = 16<<40 - 1<<20
	dir, err := os.MkdirTemp("/dev/shm", "leeward-huge-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	img := filepath.Join(dir, "disk.img")
	f, err := os.Create(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatalf("no filesystem here has sparse files of 16 TiB: %v", err)
	}
	dev := disktest.Attach(t, img)
	s := streamstest.StartWith(t, t.TempDir())
	r := receive(t.Context(), t, s.Bus(), "m", "d")
	p := newProgram(t, bin, s, t.TempDir(), "--disk", dev+"=d")
	p.start()
	until(t, "the beginning", func() bool { return get(r, func() bool { return len(r.opens) > 0 }) })
	raw, err := os.OpenFile(dev, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	step, buf := int64(4<<30), disk.AlignedBuffer(wire.BlockSize)
	if os.Getenv("LEEWARD_FULL") == "1" {
		step = 128 << 20
	}
	buf[0] = 1
	for at := int64(0); at < size-step; at += step {
		if _, err := raw.WriteAt(buf, at); err != nil {
			t.Fatal(err)
		}
	}
	peak := int64(0)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		peak = max(peak, peakOf(t, p.cmd.Process.Pid))
	}
	t.Logf("%d writes all over 16 TiB while it is copied: %d MiB at most", size/step, peak>>20)
	if peak > 256<<20 {
		t.Errorf("the agent took %d MiB", peak>>20)
	}
	if err := p.end(unix.SIGTERM); err != nil {
		t.Errorf("the agent was stopped and says %v", err)
	}
}

// peakOf is the most memory that a process ever had, in bytes.
func peakOf(t *testing.T, pid int) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(s.Text(), "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
