package quiesce_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/agent/quiesce"
)

const (
	mib      = 1 << 20
	patience = time.Minute // for a write that nothing holds up any more, on a busy machine
)

var ctx = context.Background()

// TestMain lets this binary be a guard, and an agent that is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "guard":
			os.Exit(quiesce.GuardMain())
		case "victim":
			os.Exit(victim())
		}
	}
	os.Exit(m.Run())
}

// victim freezes the mounts given on its stdin, says so, and waits to be killed.
func victim() int {
	var mounts []disk.Mount
	err := json.NewDecoder(os.Stdin).Decode(&mounts)
	if err == nil {
		var f *quiesce.Freezer
		if f, err = quiesce.New(quiesce.Options{Bound: time.Hour}); err == nil {
			_, err = f.Freeze(ctx, mounts)
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("frozen")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func open(t testing.TB, path string) *disk.Disk {
	t.Helper()
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// mountsOf lists a disk's mounts and makes sure that they are the test's own.
func mountsOf(t testing.TB, dev string) []disk.Mount {
	t.Helper()
	mounts, err := disk.Mounts(open(t, dev))
	if err != nil || len(mounts) == 0 {
		t.Fatalf("mounts of %s: %v, %v", dev, mounts, err)
	}
	for _, m := range mounts {
		if !strings.HasPrefix(m.Path, os.TempDir()) {
			t.Fatalf("will not freeze %s, which is not of this test", m.Path)
		}
	}
	return mounts
}

func newFreezer(t *testing.T, o quiesce.Options) *quiesce.Freezer {
	t.Helper()
	f, err := quiesce.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return f
}

// mounted makes a filesystem on a disk of its own.
func mounted(t *testing.T, fs string, size int64) (dev, dir string) {
	t.Helper()
	disktest.NeedRoot(t, "mkfs."+fs)
	dev = disktest.Loop(t, size)
	disktest.Mkfs(t, dev, fs)
	return dev, disktest.Mount(t, dev)
}

// writing starts a write and returns a channel that is closed when it is done.
func writing(t *testing.T, dir string) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.Create(filepath.Join(dir, "written"))
		if err == nil {
			_, err = f.Write([]byte("x"))
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}()
	return done
}

// held wants a write not to be done yet.
func held(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
		t.Fatal("a write went through a frozen filesystem")
	case <-time.After(100 * time.Millisecond):
	}
}

func within(t *testing.T, limit time.Duration, what string, done <-chan struct{}) time.Duration {
	t.Helper()
	began := time.Now()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s not within %v", what, limit)
	}
	return time.Since(began)
}

func TestFreezeHoldsWriters(t *testing.T) {
	for fs, size := range map[string]int64{"ext4": 32 * mib, "xfs": 320 * mib, "btrfs": 128 * mib} {
		t.Run(fs, func(t *testing.T) {
			dev, dir := mounted(t, fs, size)
			mounts := mountsOf(t, dev)
			f := newFreezer(t, quiesce.Options{Bound: 20 * time.Second})
			for range 3 {
				if err := f.Sync(ctx, mounts); err != nil {
					t.Fatal(err)
				}
				fr, err := f.Freeze(ctx, mounts)
				if err != nil {
					t.Fatal(err)
				}
				done := writing(t, dir)
				held(t, done)
				took, err := fr.Thaw()
				if err != nil || took < 100*time.Millisecond || len(fr.Skipped()) != 0 || time.Until(fr.Deadline()) <= 0 {
					t.Fatalf("thaw after %v: %v, skipped %v", took, err, fr.Skipped())
				}
				within(t, patience, "the write", done)
				if _, err := fr.Thaw(); err == nil {
					t.Fatal("a second Thaw succeeded")
				}
			}
		})
	}
}

// Three filesystems: one on a partition, one in a file of the first, and one that
// cannot be frozen.
func TestFreezeInOrder(t *testing.T) {
	disktest.NeedRoot(t, "sfdisk", "partx", "mkfs.ext4")
	dev := disktest.Loop(t, 400*mib)
	parts := disktest.Partition(t, dev, 2)
	disktest.Mkfs(t, parts[0], "ext4")
	lower := disktest.Mount(t, parts[0])
	inner := filepath.Join(lower, "inner.img")
	if err := errors.Join(os.WriteFile(inner, nil, 0o600), os.Truncate(inner, 32*mib)); err != nil {
		t.Fatal(err)
	}
	innerDev := disktest.Attach(t, inner)
	disktest.Mkfs(t, innerDev, "ext4")
	upper := disktest.Mount(t, innerDev)
	mounts := mountsOf(t, dev)
	if len(mounts) != 2 {
		t.Fatalf("mounts %+v", mounts)
	}
	// The order must not depend on the caller's.
	mounts = []disk.Mount{mounts[1], tmpfs(t), mounts[0], mounts[1]}
	f := newFreezer(t, quiesce.Options{Bound: 20 * time.Second})
	for range 5 {
		// Dirty above: its freeze has to write through the one below.
		if err := os.WriteFile(filepath.Join(upper, "dirty"), make([]byte, mib), 0o600); err != nil {
			t.Fatal(err)
		}
		fr, err := f.Freeze(ctx, mounts)
		if err != nil {
			t.Fatal(err)
		}
		if s := fr.Skipped(); len(s) != 1 || !strings.Contains(s[0].Reason, "tmpfs") {
			t.Errorf("skipped %+v", s)
		}
		up, low := writing(t, upper), writing(t, lower)
		held(t, up)
		held(t, low)
		if _, err := fr.Thaw(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, "the upper write", up)
		within(t, patience, "the lower write", low)
	}
}

// tmpfs mounts a filesystem that the kernel cannot freeze.
func tmpfs(t *testing.T) disk.Mount {
	t.Helper()
	dir := t.TempDir()
	disktest.Run(t, "mount", "-t", "tmpfs", "-o", "size=1m", "none", dir)
	t.Cleanup(func() { disktest.Unmount(t, dir) })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := disk.MountID(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return disk.Mount{ID: id, Path: dir, FSType: "tmpfs"}
}

func TestGuardThawsWhenTheAgentIsKilled(t *testing.T) {
	dev, dir := mounted(t, "ext4", 32*mib)
	mounts := mountsOf(t, dev)
	cmd := exec.Command("/proc/self/exe", "victim")
	in, err := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	if err := json.NewEncoder(in).Encode(mounts); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 200)
	n, err := out.Read(said)
	if err != nil || !strings.HasPrefix(string(said[:n]), "frozen") {
		t.Fatalf("the victim says %q, %v", said[:n], err)
	}
	done := writing(t, dir)
	held(t, done)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Logf("thawed %v after the kill", within(t, patience, "thawed", done)) // of an hour that it may last
}

func TestGuardThawsWhenTheBoundIsOver(t *testing.T) {
	dev, dir := mounted(t, "xfs", 320*mib)
	mounts := mountsOf(t, dev)
	f, fr := stalling(t, mounts)
	done := writing(t, dir)
	within(t, patience, "thawed by the guard", done) // the agent stalls here
	if _, err := fr.Thaw(); !errors.Is(err, quiesce.ErrThawed) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("Thaw says %v: the cut would be taken for good", err)
	}
	// And everything works again.
	for end := time.Now().Add(patience); ; {
		fr, err := f.Freeze(ctx, mounts)
		if err == nil {
			_, err = fr.Thaw()
		}
		if err == nil {
			return
		}
		if time.Now().After(end) || !errors.Is(err, quiesce.ErrTooSlow) && !errors.Is(err, quiesce.ErrThawed) {
			t.Fatal(err)
		}
	}
}

// stalling freezes with a bound that is soon over, the shortest that this machine keeps now.
func stalling(t *testing.T, mounts []disk.Mount) (*quiesce.Freezer, *quiesce.Frozen) {
	t.Helper()
	for bound := 300 * time.Millisecond; ; bound *= 4 {
		f := newFreezer(t, quiesce.Options{Bound: bound})
		fr, err := f.Freeze(ctx, mounts)
		if err == nil {
			return f, fr
		}
		if bound > 10*time.Second || !errors.Is(err, quiesce.ErrTooSlow) {
			t.Fatal(err)
		}
	}
}

func TestSomebodyElseThaws(t *testing.T) {
	disktest.NeedRoot(t, "fsfreeze")
	dev, dir := mounted(t, "ext4", 32*mib)
	f := newFreezer(t, quiesce.Options{Bound: 20 * time.Second})
	mounts := mountsOf(t, dev)
	fr, err := f.Freeze(ctx, mounts)
	if err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "fsfreeze", "-u", dir)
	if _, err := fr.Thaw(); !errors.Is(err, quiesce.ErrThawed) {
		t.Fatalf("got %v", err)
	}
	// Frozen by somebody else: not ours to touch.
	disktest.Run(t, "fsfreeze", "-f", dir)
	_, err = f.Freeze(ctx, mounts)
	done := writing(t, dir)
	held(t, done)
	disktest.Run(t, "fsfreeze", "-u", dir)
	if !errors.Is(err, quiesce.ErrRefused) || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("got %v", err)
	}
	within(t, patience, "the write", done)
}

func TestDeadGuardIsReplaced(t *testing.T) {
	dev, dir := mounted(t, "ext4", 32*mib)
	f := newFreezer(t, quiesce.Options{Bound: 20 * time.Second})
	mounts := mountsOf(t, dev)
	for range 2 {
		pid := guardOf(t)
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil { // which it ignores
			t.Fatal(err)
		}
		fr, err := f.Freeze(ctx, mounts)
		if err != nil {
			t.Fatal(err)
		}
		if now := guardOf(t); now != pid {
			t.Fatalf("the guard changed from %d to %d on SIGTERM", pid, now)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		done := writing(t, dir)
		held(t, done)
		if _, err := fr.Thaw(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, "the write", done)
		if fr, err = f.Freeze(ctx, mounts); err != nil {
			t.Fatal(err)
		}
		if _, err := fr.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
}

// guardOf finds the one guard that is this process's child, in a session of its own.
func guardOf(t *testing.T) int {
	t.Helper()
	var pid int
	disktest.Eventually(t, patience, "a guard", func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, task := range tasks {
			more, _ := os.ReadFile(task)
			b = append(append(b, ' '), more...)
		}
		for _, child := range strings.Fields(string(b)) {
			line, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if err == nil && strings.Contains(string(line), "\x00guard\x00") {
				_, serr := fmt.Sscan(child, &pid)
				return serr == nil
			}
		}
		return false
	})
	var sid int
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if fmt.Sscan(f[3], &sid); sid != pid {
		t.Errorf("the guard %d is in session %d, not its own", pid, sid)
	}
	return pid
}
