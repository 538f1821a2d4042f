package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// Ten times and more what a guest takes here when nothing else runs.
const (
	mbrTime  = 120 * time.Second
	tinyTime = 240 * time.Second
)

func TestMain(m *testing.M) {
	if image := os.Getenv("LEEWARD_TEST_ORPHAN"); image != "" {
		orphan(image, os.Getenv("LEEWARD_TEST_DIR"))
	}
	goleak.VerifyTestMain(m)
}

func need(t testing.TB) { targettest.Need(t, "qemu-system-x86_64") }

func mbr(t testing.TB) *target.Machine {
	need(t)
	return machine(targettest.Image(t, "sda", targettest.Bootable(t, "mbr")))
}

func machine(disks ...target.Disk) *target.Machine {
	return &target.Machine{Name: "db1,prod", CPUs: 2, Memory: 512 << 20, Firmware: "bios", Disks: disks}
}

// start brings m up in a directory of its own until the test ends.
func start(t testing.TB, cfg Config, m *target.Machine) (*Run, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := New(cfg).Start(t.Context(), m, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), tinyTime)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
		gone(t, r.(*Run).proc.cmd.Process.Pid)
	})
	return r.(*Run), dir
}

// gone fails the test if a process of that number is still there.
func gone(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("QEMU, process %d, is still there: %v", pid, err)
	}
}

func probe(t testing.TB, r *Run, p target.Probe) *target.Result {
	t.Helper()
	res, err := r.Probe(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("alive=%v first=%v boot=%v read=%d KiB: %q", res.Alive, res.FirstLine.Round(time.Millisecond), res.Boot.Round(time.Millisecond), res.BytesRead>>10, res.Evidence)
	return res
}

// inVain probes for what will not come, as long as a busy guest takes to show why.
func inVain(t testing.TB, r *Run, p target.Probe, why string) (res *target.Result) {
	t.Helper()
	for p.Timeout = 3 * time.Second; p.Timeout < mbrTime; p.Timeout *= 3 {
		if res = probe(t, r, p); strings.Contains(strings.Join(res.Evidence, "\n"), why) {
			break
		}
	}
	return res
}

func isPNG(t testing.TB, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("no picture of the screen: %v", err)
		return
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil || img.Bounds().Dx() < 320 || img.Bounds().Dy() < 200 {
		t.Errorf("the picture of the screen: %v", err)
	}
}

func TestConformance(t *testing.T) {
	targettest.TestTarget(t, targettest.Kit{
		New: func(*testing.T) target.Target { return New(Config{}) },
		Live: func(t *testing.T) (*target.Machine, target.Probe) {
			return mbr(t), target.Probe{Serial: "HEARTBEAT .* write=ok", Timeout: mbrTime}
		},
		Dead: func(t *testing.T) (*target.Machine, target.Probe) {
			need(t)
			return machine(targettest.Mem("sda", make([]byte, 1<<20))), target.Probe{Serial: "HEARTBEAT", Port: 22, Timeout: 2 * time.Second}
		},
	})
}

// The smallest guest, on both kinds of hardware: it boots from the point, writes to
// the overlay, and powers off by itself.
func TestBootSector(t *testing.T) {
	for _, hw := range []Hardware{Compatible, Virtio} {
		t.Run(string(hw), func(t *testing.T) {
			m := mbr(t)
			before := targettest.ContentOf(t, m)
			r, dir := start(t, Config{Hardware: hw}, m)
			res := probe(t, r, target.Probe{Serial: "HEARTBEAT marker=[0-9a-f-]{36} boot=1 write=ok", Timeout: mbrTime})
			if !res.Alive || res.FirstLine <= 0 || res.BytesRead < 1536 {
				t.Errorf("%+v", res)
			}
			if err := r.Wait(t.Context()); err != nil {
				t.Errorf("wait: %v", err)
			}
			isPNG(t, res.Screen)
			again := probe(t, r, target.Probe{Serial: "write=ok", Timeout: mbrTime})
			if !again.Alive || !strings.Contains(strings.Join(again.Evidence, "\n"), "powered off: guest-shutdown") {
				t.Errorf("after it powered off: %q", again.Evidence)
			}
			isPNG(t, again.Screen)
			var changed int64
			r.Overlay(0).Changed(func(_, n int64, _ bool) bool { changed += n; return true })
			if changed != 4096 {
				t.Errorf("the guest changed %d bytes, not one page", changed)
			}
			if err := r.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			targettest.Untouched(t, m, before)
			left, err := os.ReadDir(dir)
			for _, e := range left {
				switch e.Name() {
				case "disk0.overlay", "disk0.overlay.map", serialFile, screenFile, qemuFile:
				default:
					t.Errorf("%s is left", e.Name())
				}
			}
			if b, err2 := os.ReadFile(filepath.Join(dir, serialFile)); err != nil || !bytes.Contains(b, []byte("HEARTBEAT")) {
				t.Errorf("serial log: %v %v %q", err, err2, b)
			}
		})
	}
}

// More disks than a controller has ports, below a path longer than a socket's.
func TestManyDisksInADeepDirectory(t *testing.T) {
	disks := []target.Disk{mbr(t).Disks[0]}
	for i := range 7 {
		disks = append(disks, targettest.Mem(fmt.Sprint("data", i), bytes.Repeat([]byte{1}, 1<<20)))
	}
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep,dir/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{}).Start(t.Context(), machine(disks...), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop(context.Background())
	if res := probe(t, r.(*Run), target.Probe{Serial: "write=ok", Timeout: 3 * mbrTime}); !res.Alive {
		t.Errorf("%q", res.Evidence)
	}
}

// get fetches a page of the guest through a port of this host.
func get(t testing.TB, port int) string {
	t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

// A whole Linux on the default hardware: from the point to HTTP, and a clean end.
func TestLinux(t *testing.T) {
	t.Parallel()
	need(t)
	m := machine(targettest.Image(t, "sda", targettest.Bootable(t, "tiny")))
	before := targettest.ContentOf(t, m)
	r, _ := start(t, Config{PowerOff: tinyTime}, m)
	res := probe(t, r, target.Probe{Serial: `HEARTBEAT boot=1 .*root=/dev/sda3`, Port: 8080, HTTP: "/", Timeout: tinyTime})
	if !res.Alive || res.PortOnHost == 0 {
		t.Fatalf("%+v", res)
	}
	isPNG(t, res.Screen)
	if said := get(t, res.PortOnHost); said != "tiny boot=1\n" {
		t.Errorf("the guest serves %q", said)
	}
	stats := r.Overlay(0).Stats()
	if res.BytesRead < 8<<20 || res.BytesRead < stats.Read { // a hole is read, but not from the overlay
		t.Errorf("QEMU counts %d bytes read, the overlay %d", res.BytesRead, stats.Read)
	}
	t.Logf("overlay: %+v", stats)
	if res := probe(t, r, target.Probe{Port: 8080, Timeout: tinyTime}); !res.Alive {
		t.Errorf("a port that is open: %q", res.Evidence)
	}
	if res := probe(t, r, target.Probe{Port: 8081, Timeout: 3 * time.Second}); res.Alive || !strings.HasPrefix(res.Evidence[0], "port 8081") {
		t.Errorf("a port that is closed: %q", res.Evidence)
	}
	if res := inVain(t, r, target.Probe{Port: 8080, HTTP: "/nothing"}, "404"); res.Alive || !strings.Contains(res.Evidence[0], "404") {
		t.Errorf("a page that is not there: %q", res.Evidence)
	}
	begin := time.Now()
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(res.SerialLog)
	if err != nil || !bytes.Contains(b, []byte("SHUTDOWN clean")) {
		t.Errorf("the guest was not powered off cleanly: %v\n%s", err, b)
	}
	t.Logf("powered off in %v", time.Since(begin).Round(time.Millisecond))
	targettest.Untouched(t, m, before)
}

func TestLinuxOnUEFI(t *testing.T) {
	targettest.Full(t, "booting with UEFI")
	need(t)
	m := machine(targettest.Image(t, "sda", targettest.Bootable(t, "tiny")))
	m.Firmware = "uefi"
	if err := New(Config{}).Validate(t.Context(), m); err != nil {
		targettest.Missing(t, err.Error())
	}
	r, _ := start(t, Config{}, m)
	if res := probe(t, r, target.Probe{Serial: "HEARTBEAT", Port: 8080, HTTP: "/", Timeout: tinyTime}); !res.Alive {
		t.Errorf("%q", res.Evidence)
	}
}

// The guest reaches nothing. The control: opened, the same guest reaches this host by
// the same command.
func TestIsolation(t *testing.T) {
	t.Parallel()
	need(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan struct{}, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			reached <- struct{}{}
			c.Close()
		}
	}()
	m := machine(targettest.Image(t, "sda", targettest.Bootable(t, "tiny", "--kernel", "cloud")))
	outside := "10.0.2.2 " + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for _, open := range []bool{false, true} {
		r, _ := start(t, Config{Hardware: Virtio, Open: open}, m)
		if res := probe(t, r, target.Probe{Serial: "NETWORK eth0 10.0.2.15", Timeout: tinyTime}); !res.Alive {
			t.Fatalf("open=%v: %q", open, res.Evidence)
		}
		want := "^result=1$"
		if open {
			want = "^result=0$"
		}
		var res *target.Result
		for range 5 { // the shell may lose what comes while it starts
			// It joins the words, so that its echo does not match.
			fmt.Fprintf(r.proc.serial, "\nnc -w 5 %s </dev/null; echo re''sult=$?\n", outside)
			if res = probe(t, r, target.Probe{Serial: want, Timeout: tinyTime / 8}); res.Alive {
				break
			}
		}
		if !res.Alive {
			b, _ := os.ReadFile(res.SerialLog)
			t.Errorf("open=%v: %q\n%s", open, res.Evidence, b)
		}
		if got := len(reached) > 0; got != open {
			t.Errorf("open=%v: the host was reached: %v", open, got)
		}
		r.cfg.PowerOff = time.Millisecond // it has served its purpose
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A disk that fails stops the guest; when it works again the guest goes on.
func TestDiskThatFailsForAWhile(t *testing.T) {
	m := mbr(t)
	disk := m.Disks[0].(*targettest.Disk)
	disk.Break(true)
	r, _ := start(t, Config{}, m)
	if res := inVain(t, r, target.Probe{Serial: "HEARTBEAT"}, "requests to its disks failed"); res.Alive || !strings.Contains(strings.Join(res.Evidence, "\n"), "requests to its disks failed") {
		t.Errorf("with a broken disk: %q", res.Evidence)
	}
	disk.Break(false)
	if res := probe(t, r, target.Probe{Serial: "write=ok", Timeout: mbrTime}); !res.Alive {
		t.Errorf("with the disk mended: %q", res.Evidence)
	}
}

// orphan is this test binary as a program that brings a machine up and waits.
func orphan(image, dir string) {
	t := &testing.T{}
	m := machine(targettest.Image(t, "sda", image))
	r, err := New(Config{}).Start(context.Background(), m, dir)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(r.(*Run).proc.cmd.Process.Pid)
	select {}
}

func TestDiesWithItsParent(t *testing.T) {
	need(t)
	dir := t.TempDir()
	image := filepath.Join(dir, "zeros") // never boots, so never ends by itself
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(dir, "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LEEWARD_TEST_ORPHAN="+image, "LEEWARD_TEST_DIR="+run)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || syscall.Kill(pid, 0) != nil {
		t.Fatalf("the child brought nothing up: %v", err)
	}
	defer func() {
		if t.Failed() {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	targettest.WaitFor(t, mbrTime, "QEMU dies with its parent", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ") // nobody reaps orphans in some containers
	})
}
