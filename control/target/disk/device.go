package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/control/target"
)

const (
	// blkZeroOut zeros a range of a block device, by the device itself if it can.
	blkZeroOut = 0x127f
	// zeroPiece is how much of it is done at once: cancelling waits for it.
	zeroPiece = 64 << 20
	// blankSize is how much of a device's start must be zeros for it to be blank. All
	// partition tables and file systems leave something there.
	blankSize = 1 << 20
)

// writeDevice writes d onto a block device.
func writeDevice(ctx context.Context, d target.Restorer, path string, o Options) error {
	f, err := openDevice(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := fits(f, d.Size()); err != nil {
		return err
	}
	if !o.Force {
		if err := blank(f); err != nil {
			return err
		}
	}
	seen := newBlocks(d.Size())
	e := newEager(f)
	defer e.end()
	if err := d.Restore(ctx, marking{seen, e}, o.Progress); err != nil {
		return err
	}
	if err := seen.gaps(zeroPiece, func(off, length int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return zeroOut(f, off, length)
	}); err != nil {
		return fmt.Errorf("write zeros: %w", err)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if o.ReadBack {
		// What is cached proves nothing of the device.
		_ = unix.Fadvise(int(f.Fd()), 0, d.Size(), unix.FADV_DONTNEED)
		return compare(ctx, d, f, d.Size(), o.Progress)
	}
	return nil
}

// openDevice opens a block device for nobody else: the kernel refuses if it, or a part
// of it, is mounted, used for swap, or held by another driver.
func openDevice(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("the device is in use%s: unmount it, or choose another", user(path))
	}
	return f, err
}

// user tells, as far as it can, who uses a device: " (mounted at /x)", or "".
func user(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	if b, err := os.ReadFile("/proc/self/mounts"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && partOf(f[0], real) {
				return fmt.Sprintf(" (%s is mounted at %s)", f[0], f[1])
			}
		}
	}
	if b, err := os.ReadFile("/proc/swaps"); err == nil && strings.Contains(string(b), real) {
		return " (for swap)"
	}
	if holders, err := filepath.Glob(filepath.Join("/sys/class/block", filepath.Base(real), "holders", "*")); err == nil && len(holders) > 0 {
		return fmt.Sprintf(" (by %s)", filepath.Base(holders[0]))
	}
	return ""
}

// partOf tells whether name is a device or one of its partitions.
func partOf(name, device string) bool {
	rest, ok := strings.CutPrefix(name, device)
	if !ok || rest == "" {
		return ok
	}
	number, p := strings.CutPrefix(rest, "p")
	last := device[len(device)-1]
	return strings.Trim(number, "0123456789") == "" && p == (last >= '0' && last <= '9')
}

func fits(f *os.File, size int64) error {
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have < size {
		return fmt.Errorf("the device has %d bytes, the disk needs %d", have, size)
	}
	return nil
}

func blank(f *os.File) error {
	buf := make([]byte, blankSize)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(buf[:n], make([]byte, n)) {
		return errors.New("the device holds data: force it to be overwritten if that is not needed")
	}
	return nil
}

// zeroOut makes bytes of a device zeros.
func zeroOut(f *os.File, off, length int64) error {
	span := [2]uint64{uint64(off), uint64(length)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span)))
	if errno == 0 {
		return nil
	}
	zeros := make([]byte, min(length, gapSize))
	for length > 0 {
		n, err := f.WriteAt(zeros[:min(length, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off += int64(n)
		length -= int64(n)
	}
	return nil
}
