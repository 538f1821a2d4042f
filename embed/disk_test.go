package embed

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of size mebibytes of memory.
func smallDisk(t *testing.T, size, flags string) string {
	t.Helper()
	dir := t.TempDir()
	var ro uintptr
	if flags == "ro" {
		ro = unix.MS_RDONLY
	}
	if err := unix.Mount("leeward-test", dir, "tmpfs", ro, "size="+size); err != nil {
		if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
			t.Fatalf("mount a tmpfs: %v", err)
		}
		t.Skipf("needs mount(2) of a tmpfs, as root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func TestDiskTooSmall(t *testing.T) {
	t.Parallel()
	refused(t, config(smallDisk(t, "300m", "")), "MiB free and needs 640 MiB", "choose another directory")
	refused(t, config(smallDisk(t, "300m", "ro")), "not writable", "read-only file system")
}

// CHANGES is cut to what the disk has; when there is no room any more, the
// next start says so and works again once there is room.
func TestDiskFills(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "1g", "")
	c := config(filepath.Join(dir, "leeward"))
	s := start(t, c)
	ensured(t, s)
	if got := s.Streams().ChangesBytes >> 20; got < 400 || got > 512 {
		t.Errorf("CHANGES of %d MiB on a disk of 1 GiB", got)
	}
	stop(t, s)
	resize := func(size string) { // quicker than to write so much
		if err := unix.Mount("leeward-test", dir, "tmpfs", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
	resize("100m")
	refused(t, c, "MiB free", "make room")
	resize("1g")
	ensured(t, start(t, c))
}
