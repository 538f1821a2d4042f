package trace_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// kept is a disk whose source keeps a record.
type kept struct {
	*rig
	path string
	opt  trace.Options
	next uint64 // epoch
}

func newKept(t *testing.T, o trace.Options) *kept {
	t.Helper()
	disktest.NeedRoot(t)
	o.Keep = t.TempDir()
	path := disktest.Loop(t, 8*mib)
	k := &kept{rig: &rig{T: t, dev: open(t, path), out: writer(t, path)}, path: path, opt: o, next: 1}
	t.Cleanup(func() {
		_ = k.src.Close()
		if _, err := trace.Forget(o.Keep, "", false); err != nil {
			t.Error(err)
		}
		if left := k.instances(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if left, _ := filepath.Glob(o.Keep + "/*"); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	k.open()
	return k
}

func (k *kept) instances() []string {
	dirs, _ := filepath.Glob(filepath.Join(trace.DefaultRoot, fmt.Sprintf("instances/leeward-kept_*_%d_%d_*", k.dev.Major(), k.dev.Minor())))
	return dirs
}

// open starts the next source.
func (k *kept) open() {
	k.Helper()
	var err error
	if k.src, err = trace.New(k.dev, k.opt); err != nil {
		k.Fatal(err)
	}
	if err := k.src.Start(context.Background()); err != nil {
		k.Fatal(err)
	}
	if dirs := k.instances(); len(dirs) != 1 {
		k.Fatalf("instances %v", dirs)
	} else {
		k.dir = dirs[0]
	}
}

// settle makes a mark that covers all that was taken.
func (k *kept) settle() capture.Mark {
	m := capture.Mark{Epoch: k.next, Number: 10}
	k.src.Opening(m.Epoch)
	k.src.Seal(m)
	k.src.Confirm(m)
	k.next++
	return m
}

func TestTakeOver(t *testing.T) {
	k := newKept(t, trace.Options{})
	if err := k.src.Resumed(); err == nil || !strings.Contains(err.Error(), "nothing was kept") {
		t.Errorf("the first start: %v", err)
	}
	k.write(0, 4096)
	k.takes(0)
	m := k.settle()
	k.write(7*4096, 4096)
	k.write(9*4096, 8192)
	k.takes(7, 9, 10) // taken and not confirmed
	k.src.Seal(capture.Mark{Epoch: m.Epoch, Number: 12})
	k.write(8*4096, 512) // not even taken
	if err := k.audit(); err != nil {
		t.Fatal(err)
	}
	for range 3 { // nobody confirms anything: it must be there each time
		if err := k.src.Close(); err != nil {
			t.Fatal(err)
		}
		k.write(20*4096, 4096)
		k.open()
		if err := k.src.Resumed(); err != nil {
			t.Fatal(err)
		}
		if err := k.src.Fits(m); err != nil {
			t.Error(err)
		}
		if err := k.audit(); err != nil {
			t.Errorf("the ledger of the process before: %v", err)
		}
		k.takes(7, 8, 9, 10, 20)
	}
	for base, word := range map[capture.Mark]string{
		{Epoch: m.Epoch, Number: m.Number - 1}:  "before",
		{Epoch: m.Epoch - 1, Number: 1000}:      "before",
		{Epoch: m.Epoch + 1, Number: 1}:         "another agent",
		{Epoch: m.Epoch, Number: m.Number + 10}: "",
	} {
		if err := k.src.Fits(base); (err == nil) != (word == "") || err != nil && !strings.Contains(err.Error(), word) {
			t.Errorf("a vault at %v: %v, want %q", base, err, word)
		}
	}
	k.settle()
	k.src.Close()
	k.open()
	k.takes()
	k.src.Void()
	k.src.Close()
	k.open()
	if err := k.src.Resumed(); err == nil || !strings.Contains(err.Error(), "not compared") {
		t.Errorf("a void record was taken over: %v", err)
	}
}

// Each way in which what was left cannot be relied on is noticed and named.
func TestTakeOverRefused(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(k *kept)
		word string
	}{
		"full ring": {func(k *kept) {
			for i := range int64(6000) {
				k.write(i%2048*4096, 4096)
			}
		}, "no room"},
		"instance removed": {func(k *kept) { disktest.Run(k, "rmdir", k.dir) }, "no longer records"},
		"instance made anew": {func(k *kept) {
			disktest.Run(k, "rmdir", k.dir)
			disktest.Run(k, "mkdir", k.dir)
		}, "not the one"},
		"switched off": {func(k *kept) { k.tune("tracing_on", "0") }, "switched"},
		"filter": {func(k *kept) {
			k.tune("events/block/block_rq_complete/filter", "nr_sector == 0")
		}, "another way"},
		"overwrites": {func(k *kept) { k.tune("trace_options", "overwrite") }, "another way"},
		"stolen events": {func(k *kept) {
			k.write(0, 4096)
			for _, f := range k.pipes() {
				fd, err := unix.Open(f, unix.O_RDONLY|unix.O_NONBLOCK, 0)
				if err != nil {
					k.Fatal(err)
				}
				_, _ = unix.Read(fd, make([]byte, 4096))
				unix.Close(fd)
			}
		}, "accounted for"},
		"made smaller": {func(k *kept) { k.resize(4 * mib) }, "smaller"},
		"another boot": {func(k *kept) { k.edit(`"boot":"`, `"boot":"0`) }, "started anew"},
		"another disk": {func(k *kept) { k.edit(`"sequence":"`, `"sequence":"9`) }, "another disk"},
		"cut short":    {func(k *kept) { k.must(os.Truncate(k.file(), 4096)) }, "cut short"},
		"no record":    {func(k *kept) { k.must(os.Remove(k.file())) }, "nothing was kept"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t, trace.Options{BufferKB: 64})
			k.write(0, 4096)
			k.takes(0)
			k.settle()
			k.must(k.src.Close())
			c.harm(k)
			k.open()
			if err := k.src.Resumed(); err == nil || !strings.Contains(err.Error(), c.word) {
				t.Fatalf("taken over, or for another reason: %v, want %q", err, c.word)
			}
			// What follows from there is a tracker like any other.
			k.write(5*4096, 4096)
			k.takes(5)
			k.must(k.audit())
		})
	}
}

// resize gives the disk another size while nobody follows it.
func (k *kept) resize(size int64) {
	k.Helper()
	k.must(os.Truncate(k.dev.Backing(), size))
	disktest.Run(k, "losetup", "-c", k.path)
	k.dev = open(k.T, k.path)
}

// A disk that grew is taken over like any other, with everything that was added, and
// with what was written before, while, and after it grew.
func TestTakeOverOfAGrownDisk(t *testing.T) {
	k := newKept(t, trace.Options{})
	k.write(0, 4096)
	k.takes(0)
	m := k.settle()
	k.must(os.Truncate(k.dev.Backing(), 12*mib+512)) // the new end is inside a block
	disktest.Run(k, "losetup", "-c", k.path)
	k.write(5*4096, 4096)
	k.write(8*mib, 4096) // behind the end that the source knows
	k.takes(5)
	k.must(k.audit())
	k.must(k.src.Close())
	k.write(6*4096, 4096)
	added := func(from, to uint64) (all []uint64) {
		for b := from; b < to; b++ {
			all = append(all, b)
		}
		return all
	}
	k.dev = open(t, k.path)
	k.open()
	k.must(k.src.Resumed())
	k.must(k.src.Fits(m))
	k.takes(append([]uint64{5, 6}, added(2048, 3073)...)...)
	k.must(k.audit())
	k.write(12*mib-4096, 4096)
	k.takes(3071)
	k.must(k.src.Close())

	k.resize(16 * mib) // and again, nothing being confirmed meanwhile
	k.open()
	k.must(k.src.Resumed())
	k.takes(append([]uint64{5, 6}, added(2048, 4096)...)...)
	k.settle()
	k.write(4095*4096, 4096)
	k.takes(4095)
	k.must(k.audit())
	k.must(k.src.Close())
	k.open()
	k.takes(4095)
}

func (k *kept) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *kept) file() string {
	m, err := filepath.Glob(k.opt.Keep + "/*.kept")
	if err != nil || len(m) != 1 {
		k.Fatalf("records %v, %v", m, err)
	}
	return m[0]
}

func (k *kept) pipes() []string {
	m, _ := filepath.Glob(k.dir + "/per_cpu/cpu*/trace_pipe_raw")
	return m
}

// edit changes the head of the record.
func (k *kept) edit(from, to string) {
	b, err := os.ReadFile(k.file())
	k.must(err)
	head := strings.Replace(strings.TrimRight(string(b[512:4096]), "\x00"), from, to, 1)
	clear(b[512:4096])
	copy(b[512:4096], head)
	k.must(os.WriteFile(k.file(), b, 0o600))
}

// What was kept of a disk that is gone goes when the next agent starts, whatever disk
// that one follows.
func TestKeptOfGoneDisksGo(t *testing.T) {
	k := newKept(t, trace.Options{})
	name := filepath.Join(trace.DefaultRoot, "instances", fmt.Sprintf("leeward-kept_x_%d_%d_q%s1_00000001", k.dev.Major(), k.dev.Minor(), k.dev.Sequence()))
	k.must(os.Mkdir(name, 0o700))
	other := filepath.Join(filepath.Dir(name), "leeward-kept_of_somebody")
	k.must(os.Mkdir(other, 0o700))
	defer os.Remove(other)
	follow(t, disktest.Loop(t, 8*mib), trace.Options{Name: "third"})
	if _, err := os.Stat(name); err == nil {
		t.Error("it is still there")
		os.Remove(name)
	}
	for _, dir := range []string{k.dir, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s is gone", dir)
		}
	}
}

func TestKeptRecordHasOneOwner(t *testing.T) {
	k := newKept(t, trace.Options{})
	second, err := trace.New(k.dev, k.opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(context.Background()); !errors.Is(err, trace.ErrInUse) {
		second.Close()
		t.Fatalf("two sources on one record: %v", err)
	}
	k.write(0, 4096)
	k.takes(0)
	if _, err := trace.Forget(k.opt.Keep, "", false); !errors.Is(err, trace.ErrInUse) {
		t.Fatalf("forgetting a record in use: %v", err)
	}
	k.src.Discard()
	k.must(k.src.Close())
	if left := k.instances(); len(left) > 0 {
		t.Fatalf("discarded, and left behind: %v", left)
	}
}

// Someone who reads our ring takes events away from us.
func TestThiefIsNoticed(t *testing.T) {
	k := newKept(t, trace.Options{})
	k.write(0, 4096)
	k.takes(0)
	err := error(nil)
	for end := time.Now().Add(waitLong); err == nil && time.Now().Before(end); {
		k.write(4096, 4096)
		for _, f := range k.pipes() {
			fd, oerr := unix.Open(f, unix.O_RDONLY|unix.O_NONBLOCK, 0)
			k.must(oerr)
			_, _ = unix.Read(fd, make([]byte, 4096))
			unix.Close(fd)
		}
		_, err = k.src.Take(context.Background())
	}
	k.lost(err, "somebody else reads")
}

// TestKilled kills a process that follows a busy disk, again and again, at random
// moments: the next one must know of every block that was written.
func TestKilled(t *testing.T) {
	k := newKept(t, trace.Options{})
	kills := 15
	if os.Getenv("LEEWARD_FULL") != "" {
		kills = 200
	}
	k.settle()
	var wrote [2048]atomic.Uint64 // number of the last write that is done
	var begun atomic.Uint64       // number of the last write that was begun
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := disk.AlignedBuffer(4096)
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			b := rand.Uint64N(2048)
			begun.Store(n)
			if _, err := k.out.WriteAt(buf, int64(b)*4096); err != nil {
				t.Error(err)
				return
			}
			wrote[b].Store(n)
		}
	}()
	defer func() { close(stop); <-done }()
	blocks, from := 0, uint64(0)
	for range kills {
		k.must(k.src.Close())
		killFollower(t, k)
		var before [2048]uint64
		for b := range wrote {
			before[b] = wrote[b].Load()
		}
		k.open()
		k.must(k.src.Resumed())
		set, err := k.src.Take(context.Background())
		k.must(err)
		for b, n := range before {
			if n > from && !set.Has(uint64(b)) {
				t.Fatalf("block %d was written and forgotten", b)
			}
		}
		blocks += int(set.Len())
		k.settle()
		from = begun.Load() // what begins after this is in no Take yet
	}
	t.Logf("%d kills, %d blocks taken over", kills, blocks)
}

// killFollower runs a process that takes over, and kills it a moment later.
func killFollower(t *testing.T, k *kept) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "follow", k.path, k.opt.Keep)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	k.must(err)
	k.must(cmd.Start())
	watchdog := time.AfterFunc(waitLong, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "following\n" {
		t.Errorf("the follower said %q, %v", line, err)
	}
	time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond)))) // a random moment is the point
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// followMain is the process that is killed: it takes as fast as it can.
func followMain(path, keep string) error {
	dev, err := disk.Open(path)
	if err != nil {
		return err
	}
	src, err := trace.New(dev, trace.Options{Keep: keep})
	if err != nil {
		return err
	}
	if err := src.Start(context.Background()); err != nil {
		return err
	}
	if err := src.Resumed(); err != nil {
		return err
	}
	fmt.Println("following")
	for {
		if _, err := src.Take(context.Background()); err != nil {
			return err
		}
	}
}

// Another disk at the same device number is noticed, though the device file, its
// number and the open descriptor are the same.
func TestReplacedDiskIsNoticed(t *testing.T) {
	disktest.NeedRoot(t)
	first, second := disktest.Image(t, 8*mib), disktest.Image(t, 8*mib)
	dev := open(t, disktest.Attach(t, first, "-r")) // only read-only loop devices change their file while open
	src, err := trace.New(dev, trace.Options{})
	if err == nil {
		err = src.Start(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Take(context.Background()); err != nil {
		t.Fatal(err)
	}
	to, err := os.Open(second)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ctl, err := os.Open(dev.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	const loopChangeFD = 0x4C06
	if err := unix.IoctlSetInt(int(ctl.Fd()), loopChangeFD, int(to.Fd())); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Take(context.Background()); !errors.Is(err, disk.ErrReplaced) {
		t.Errorf("take from a replaced disk: %v", err)
	}
	if err := src.Audit(context.Background()); !errors.Is(err, disk.ErrReplaced) {
		t.Errorf("audit of a replaced disk: %v", err)
	}
}
