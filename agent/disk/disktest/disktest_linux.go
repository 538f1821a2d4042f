package disktest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// NeedRoot skips a test that cannot run here: without root, or without one of the
// tools. With CI=true or as root a missing tool is a failure.
func NeedRoot(t testing.TB, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root for loop devices and mounts")
		}
		t.Skip("needs root for loop devices and mounts")
	}
	for _, tool := range append(tools, "losetup") {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("needs %s: %v", tool, err)
		}
	}
}

// Run runs a command that must succeed and returns what it printed.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Image makes a sparse file of so many bytes, in memory if there is room: a shared
// slow disk below would only blur what tests see.
func Image(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(tempDir(t, size), "disk.img")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(size)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func tempDir(t testing.TB, size int64) string {
	const memory = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(memory, &st); err != nil || int64(st.Bavail)*st.Bsize < 4*size {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "leeward-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Loop makes a loop device of so many bytes over a sparse file.
func Loop(t testing.TB, size int64, options ...string) string {
	t.Helper()
	return Attach(t, Image(t, size), options...)
}

// Attach makes a loop device over a file, with further options of losetup.
func Attach(t testing.TB, file string, options ...string) string {
	t.Helper()
	var dev string
	args := append(append([]string{"-f", "--show"}, options...), file)
	Eventually(t, patience, "a free loop device", func() bool {
		out, err := exec.Command("losetup", args...).Output() // another process may be faster
		dev = strings.TrimSpace(string(out))
		return err == nil && dev != ""
	})
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v %s", dev, err, out)
		}
	})
	return dev
}

// Partition cuts a disk into n partitions of one size and returns their devices.
func Partition(t testing.TB, dev string, n int) []string {
	t.Helper()
	cmd := exec.Command("sfdisk", "-q", "--no-reread", "--no-tell-kernel", dev)
	script := "label: gpt\n"
	sectors := size(t, dev)/512/int64(n) - 4096
	for range n {
		script += fmt.Sprintf("size=%d\n", sectors)
	}
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk %s: %v\n%s", dev, err, out)
	}
	Run(t, "partx", "-a", dev)
	t.Cleanup(func() {
		if out, err := exec.Command("partx", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("remove the partitions of %s: %v %s", dev, err, out)
		}
	})
	var parts []string
	for i := range n {
		p := fmt.Sprintf("%sp%d", dev, i+1)
		Eventually(t, patience, p, func() bool { _, err := os.Stat(p); return err == nil })
		parts = append(parts, p)
	}
	return parts
}

func size(t testing.TB, dev string) int64 {
	t.Helper()
	f, err := os.Open(dev)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Mkfs makes a filesystem: ext4, xfs, btrfs or vfat.
func Mkfs(t testing.TB, dev, fstype string) {
	t.Helper()
	args := map[string][]string{
		"ext4": {"-q", "-F"}, "xfs": {"-q", "-f"}, "btrfs": {"-q", "-f"}, "vfat": {},
	}[fstype]
	Run(t, "mkfs."+fstype, append(args, dev)...)
}

// Mount mounts a device at a new directory and returns that.
func Mount(t testing.TB, dev string, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{dev, dir}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	Run(t, "mount", args...)
	t.Cleanup(func() { Unmount(t, dir) })
	return dir
}

// Unmount unmounts a directory that Mount returned, if it is still mounted.
func Unmount(t testing.TB, dir string) {
	t.Helper()
	if exec.Command("mountpoint", "-q", dir).Run() != nil {
		return
	}
	// A process that is just ending may still keep it busy.
	var out []byte
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var err error
		if out, err = exec.Command("umount", dir).CombinedOutput(); err == nil {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Errorf("umount %s: %s", dir, out)
}

// patience is for a busy machine.
const patience = 2 * time.Minute

// Eventually waits until a condition holds.
func Eventually(t testing.TB, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v for %s", within, what)
		}
	}
}
