package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func open(path string) (*os.File, info, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, info{}, fmt.Errorf("open disk: %w", err)
	}
	switch m := fi.Mode(); {
	case m.IsRegular():
		return openFile(path)
	case m&os.ModeDevice != 0 && m&os.ModeCharDevice == 0:
		return openBlock(path)
	default:
		return nil, info{}, fmt.Errorf("%s %w", path, ErrNotDisk)
	}
}

func openFile(path string) (*os.File, info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, info{}, fmt.Errorf("open image: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		_ = f.Close()
		return nil, info{}, fmt.Errorf("open image %s: %w", path, err)
	}
	return f, info{size: uint64(st.Size), identity: fileIdentity(st.Dev, st.Ino)}, nil
}

// nextData asks the filesystem that holds an image.
func (d *Disk) nextData(start uint64) uint64 {
	at, err := unix.Seek(int(d.f.Fd()), int64(start*BlockSize), unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return d.Blocks() // nothing but a hole up to the end
	}
	if err != nil || at < int64(start*BlockSize) {
		return start
	}
	return min(uint64(at)/BlockSize, d.Blocks())
}

func fileIdentity(dev, ino uint64) string {
	return fmt.Sprintf("file-%d:%d-%d", unix.Major(dev), unix.Minor(dev), ino)
}

func openBlock(path string) (*os.File, info, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, info{}, fmt.Errorf("open disk: %w (reading a disk needs root or its group)", err)
	}
	in, err := blockInfo(f, path)
	if err != nil {
		_ = f.Close()
		return nil, info{}, err
	}
	return f, in, nil
}

func blockInfo(f *os.File, path string) (info, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return info{}, fmt.Errorf("open disk %s: %w", path, err)
	}
	size, err := f.Seek(0, 2)
	if err != nil {
		return info{}, fmt.Errorf("ask for the size of %s: %w", path, err)
	}
	in := info{size: uint64(size), block: true, major: unix.Major(st.Rdev), minor: unix.Minor(st.Rdev)}
	dir, err := live.device(devnum{in.major, in.minor})
	if err != nil {
		return info{}, fmt.Errorf("open disk %s: %w", path, err)
	}
	if exists(filepath.Join(dir, "partition")) {
		return info{}, fmt.Errorf("%s %w: use /dev/%s", path, ErrPartition, filepath.Base(filepath.Dir(dir)))
	}
	in.name = filepath.Base(dir)
	in.rotational = readLine(filepath.Join(dir, "queue/rotational")) == "1"
	in.backing = readLine(filepath.Join(dir, "loop/backing_file"))
	in.sequence = readLine(filepath.Join(dir, "diskseq"))
	in.identity = identity(dir)
	if in.backing != "" {
		in.identity = loopIdentity(f)
	}
	return in, nil
}

// present compares the device with what it was when it was opened.
func (d *Disk) present() error {
	dir, err := live.device(devnum{d.info.major, d.info.minor})
	if err != nil {
		return fmt.Errorf("%s %w: it is gone (%w)", d.path, ErrReplaced, err)
	}
	if now := readLine(filepath.Join(dir, "diskseq")); now != d.info.sequence {
		return fmt.Errorf("%s %w: the kernel counts disk %s there, it was %s", d.path, ErrReplaced, or(now, "none"), d.info.sequence)
	}
	if d.info.sequence != "" {
		return nil
	}
	// Before diskseq there are only the names that disks carry with them.
	now := identity(dir)
	if d.info.backing != "" {
		now = loopIdentity(d.f)
	}
	if now != d.info.identity {
		return fmt.Errorf("%s %w: %s is there, it was %s", d.path, ErrReplaced, or(now, "a disk without identity"), or(d.info.identity, "a disk without identity"))
	}
	return nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// identity reads the names that a disk carries with it, best first.
func identity(dir string) string {
	for _, name := range []string{"wwid", "device/wwid", "device/serial", "serial", "dm/uuid", "md/uuid"} {
		if s := readLine(filepath.Join(dir, name)); s != "" {
			return strings.Join(strings.Fields(s), " ")
		}
	}
	return ""
}

// loopIdentity is the identity of the file behind a loop device.
func loopIdentity(f *os.File) string {
	li, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return ""
	}
	return fileIdentity(li.Device, li.Inode)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// readLine returns a small file's content without white space around it, empty if
// it cannot be read: attributes that a kernel lacks are not errors.
func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
