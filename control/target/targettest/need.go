package targettest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Need skips the test unless every command is there. As root, and where CI is true,
// it fails it instead: there all of them can be installed.
func Need(t testing.TB, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			Missing(t, c+" is not installed")
		}
	}
}

// Missing ends a test that lacks something: it fails as root and where CI is true,
// and is skipped elsewhere.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
		t.Fatalf("%s, and the tests need it here", what)
	}
	t.Skipf("skipped: %s", what)
}

// Full skips the test unless LEEWARD_FULL is 1.
func Full(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("LEEWARD_FULL") != "1" {
		t.Skipf("skipped: %s takes long, set LEEWARD_FULL=1", what)
	}
}

// WaitFor fails the test unless cond becomes true in time.
func WaitFor(t testing.TB, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Bootable returns the path of a bootable image that deploy/images/make-bootable.sh
// builds with these arguments ("mbr" or "tiny" first). Images are kept in the user's
// cache directory and rebuilt when the script changes. Open them for reading only.
func Bootable(t testing.TB, mode string, args ...string) string {
	t.Helper()
	Need(t, "bash", "as", "ld")
	if mode == "tiny" {
		Need(t, "sfdisk", "mke2fs", "mmd", "mkfs.vfat", "grub-mkimage", "busybox", "cpio", "depmod", "lz4", "objcopy")
	}
	script := makeBootable(t)
	src, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	key := sha256.Sum256([]byte(string(src) + "\x00" + strings.Join(args, "\x00")))
	dir := filepath.Join(cache, "leeward", "images")
	image := filepath.Join(dir, mode+"-"+hex.EncodeToString(key[:6])+".img")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer exclusive(t, image+".lock")()
	if _, err := os.Stat(image); err == nil {
		return image
	}
	if out, err := exec.Command("bash", append([]string{script, mode, image}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("build image %s: %v\n%s", mode, err, out)
	}
	return image
}

// exclusive keeps other test processes from building the same image.
func exclusive(t testing.TB, path string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err == nil {
		for err = syscall.EINTR; err == syscall.EINTR; {
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

// makeBootable finds the script in the module that the test is of.
func makeBootable(t testing.TB) string {
	t.Helper()
	return filepath.Join(moduleRoot(t), "deploy", "images", "make-bootable.sh")
}

// moduleRoot finds the module that the test is of.
func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd() // go test runs a package's tests in its folder
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("cannot tell where the module is: no go.mod above the working directory")
		}
		dir = up
	}
}

// HelperKernel returns a folder with a kernel for fixup.KernelEnv: the one for virtual machines
// that make-bootable.sh unpacks, as FindKernel prefers it. It takes a third of the CPU time of
// the other to start.
func HelperKernel(t testing.TB) string {
	t.Helper()
	Bootable(t, "tiny", "--kernel", "cloud")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(cache, "leeward", "kernel-md-*-cloud-amd64"))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) == 0 {
		t.Fatal("make-bootable.sh has left no kernel")
	}
	return all[len(all)-1]
}

// HelperProgram builds what runs in a helper that looks into a machine: a small program, or
// with LEEWARD_FULL=1 the one that is installed, and returns it with its arguments.
func HelperProgram(t testing.TB) (program string, args []string) {
	t.Helper()
	from := "./control/target/fixup/testdata/helper"
	if os.Getenv("LEEWARD_FULL") == "1" {
		from, args = ".", []string{"fix-machine"}
	}
	program = filepath.Join(t.TempDir(), "helper")
	c := exec.Command("go", "build", "-o", program, from)
	c.Dir, c.Env = moduleRoot(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build the helper's program: %v\n%s", err, out)
	}
	return program, args
}

// InTiny reads a file in the root file system of an image of Bootable("tiny").
func InTiny(t testing.TB, image, path string) string {
	t.Helper()
	Need(t, "debugfs")
	out, err := exec.Command("debugfs", "-R", "cat "+path, image+"?offset=6291456").Output() // behind the ESP
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
