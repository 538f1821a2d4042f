package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fithaw   = 0xC0045878 // thaws a frozen filesystem (linux/fs.h)
	shutdown = 0x8004587D // stops one at once (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN)
	noFlush  = 2          // without writing out its journal
)

// mounted returns an error unless dir is the root of a filesystem of its own.
func mounted(dir string) error {
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Join(dir, ".."), &parent)); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if own.Dev == parent.Dev {
		return fmt.Errorf("nothing is mounted on %s", dir)
	}
	return nil
}

// PowerOff does to the filesystem that is mounted on dir what a power failure does:
// from this moment nothing reaches its device any more, whatever was written and not
// yet made durable. What runs on it sees I/O errors. Unmount it and mount it again to
// turn the power on. A directory on which nothing is mounted is refused: what lies
// below it is somebody else's.
func PowerOff(dir string) error {
	if err := mounted(dir); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noFlush); err != nil {
		return fmt.Errorf("shut down the filesystem on %s: %w", dir, err)
	}
	return nil
}

// File makes a sparse file of size bytes below the rig's directory.
func (r *Rig) File(name string, size int64) (string, error) {
	path := filepath.Join(r.Dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("make file: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return "", fmt.Errorf("size file: %w", err)
	}
	return path, f.Close()
}

// Loop attaches a file to a loop device and returns its path.
func (r *Rig) Loop(ctx context.Context, file string) (string, error) {
	out, err := Run(ctx, "losetup", "--find", "--show", file)
	if err != nil {
		return "", err
	}
	dev := strings.TrimSpace(out)
	r.Defer("detach "+dev, func() error {
		_, err := Run(context.Background(), "losetup", "--detach", dev)
		return err
	})
	return dev, nil
}

// Partition cuts a disk into n partitions of one size and returns their devices.
func (r *Rig) Partition(ctx context.Context, dev string, n int) ([]string, error) {
	size, err := Run(ctx, "blockdev", "--getsz", dev)
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(size), 10, 64)
	if err != nil {
		return nil, err
	}
	table := filepath.Join(r.Dir, "partitions")
	text := "label: gpt\n" + strings.Repeat(fmt.Sprintf("size=%d\n", (sectors-4096)/int64(n)&^2047), n)
	if err := os.WriteFile(table, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if _, err := Run(ctx, "sh", "-c", `sfdisk -q --no-reread --no-tell-kernel "$0" <"$1"`, dev, table); err != nil {
		return nil, err
	}
	if _, err := Run(ctx, "partx", "-a", dev); err != nil {
		return nil, err
	}
	r.Defer("remove the partitions of "+dev, func() error {
		_, err := Run(context.Background(), "partx", "-d", dev)
		return err
	})
	var parts []string
	for i := range n {
		p := fmt.Sprintf("%sp%d", dev, i+1)
		if err := Poll(ctx, 10*time.Millisecond, func() (bool, error) { _, err := os.Stat(p); return err == nil, nil }); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// mkfs are the commands that make a filesystem without leaving work for later, so
// that a quiet filesystem is quiet.
var mkfs = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"},
	"xfs":   {"mkfs.xfs", "-q", "-f"},
	"btrfs": {"mkfs.btrfs", "-q", "-f"},
}

// Missing says why a filesystem cannot be tried here, "" if it can.
func Missing(fs string) string {
	cmd, ok := mkfs[fs]
	if !ok {
		return "filesystem " + fs + " is not one of ext4, xfs, btrfs"
	}
	if !Root() {
		return "loop devices and mounts need root"
	}
	if m, ok := Have(cmd[0], "losetup", "mount", "umount"); !ok {
		return m + " is not installed"
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err == nil && !strings.Contains(string(known), "\t"+fs+"\n") {
		if _, err := Run(context.Background(), "modprobe", fs); err != nil {
			return "this kernel has no " + fs
		}
	}
	return ""
}

// Mkfs makes a filesystem on a device or file.
func Mkfs(ctx context.Context, fs, dev string) error {
	cmd, ok := mkfs[fs]
	if !ok {
		return fmt.Errorf("filesystem %q is not one of ext4, xfs, btrfs", fs)
	}
	_, err := Run(ctx, append(append([]string(nil), cmd...), dev)...)
	return err
}

// Mount mounts dev on a new directory below the rig's and returns it with the
// function that unmounts it; Close unmounts what is still mounted.
func (r *Rig) Mount(ctx context.Context, name, fs, dev, options string) (dir string, unmount func() error, err error) {
	dir = filepath.Join(r.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make mount point: %w", err)
	}
	argv := []string{"mount", "-t", fs}
	if options != "" {
		argv = append(argv, "-o", options)
	}
	if _, err := Run(ctx, append(argv, dev, dir)...); err != nil {
		return "", nil, err
	}
	done := false
	unmount = func() error {
		if done {
			return nil
		}
		if err := release(dir); err != nil {
			return err
		}
		done = true
		return nil
	}
	r.Defer("unmount "+dir, unmount)
	return dir, unmount, nil
}

// release unmounts dir, thawing it first if its freezer was killed, and waiting
// for whoever still has a file open there.
func release(dir string) error {
	if fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.IoctlSetInt(fd, fithaw, 0) // EINVAL: it is not frozen
		unix.Close(fd)
	}
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = unix.Unmount(dir, 0); err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
	}
	if lazy := unix.Unmount(dir, unix.MNT_DETACH); lazy != nil {
		return lazy
	}
	return fmt.Errorf("was busy and had to be detached: %w", err)
}

// Syncfs writes out the filesystem that holds path.
func Syncfs(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// DropCaches writes out everything and empties the page cache. It needs root.
func DropCaches() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0); err != nil {
		return fmt.Errorf("drop the page cache: %w", err)
	}
	return nil
}
