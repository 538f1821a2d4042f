package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

// ErrRefused means that the disk is not written to, for a reason that the message names.
var ErrRefused = errors.New("this disk is not written to")

// Disk is a disk that is held for writing. Its methods may be called by many goroutines,
// but for Close.
type Disk struct {
	path  string
	read  *disk.Disk // sees past caches
	write *os.File   // held for nobody else
}

// Open opens a disk for reading. Nothing is held yet.
func Open(path string) (*Disk, error) {
	d, err := disk.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return &Disk{path: path, read: d}, nil
}

// Path is as given to Open.
func (d *Disk) Path() string { return d.path }

// Reader is the disk as it is read.
func (d *Disk) Reader() *disk.Disk { return d.read }

// Size in bytes, when it was opened.
func (d *Disk) Size() uint64 { return d.read.Size() }

// IsBlock says whether it is a block device, else an image file.
func (d *Disk) IsBlock() bool { return d.read.IsBlock() }

// Identity tells this disk from others, see disk.Disk.
func (d *Disk) Identity() string { return d.read.Identity() }

// Hold opens the disk for writing and keeps everybody else out, or says with ErrRefused
// who uses it.
func (d *Disk) Hold() error {
	flags := os.O_RDWR
	if d.IsBlock() {
		flags |= unix.O_EXCL // the kernel refuses if it, or a part of it, is in use
	}
	f, err := os.OpenFile(d.path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %s is in use%s: boot the machine from something else, or unmount it", ErrRefused, d.path, d.user())
	}
	if err != nil {
		return fmt.Errorf("open disk for writing: %w", err)
	}
	d.write = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %s is being written by another process: %w", ErrRefused, d.path, err)
	}
	if d.IsBlock() {
		return nil
	}
	if loop := loopOver(d.path); loop != "" {
		return fmt.Errorf("%w: image %s is in use by %s: detach that (losetup -d %s), or name it instead", ErrRefused, d.path, loop, loop)
	}
	return nil
}

// user tells who uses the disk, as far as mounts say it: " (mounted at /x)", or "".
func (d *Disk) user() string {
	u, err := disk.Inspect(d.read)
	if err != nil {
		return ""
	}
	for _, x := range u.Mounts {
		return fmt.Sprintf(" (mounted at %s)", x.Path)
	}
	for _, x := range u.Swaps {
		return fmt.Sprintf(" (for swap, %s)", x.Path)
	}
	return ""
}

// loopOver returns the loop device over an image, "" if there is none.
func loopOver(path string) string {
	mine, err := os.Stat(path)
	if err != nil {
		return ""
	}
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return ""
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it went meanwhile
		}
		if st, err := os.Stat(strings.TrimSuffix(string(b), "\n")); err == nil && os.SameFile(st, mine) {
			return "/dev/" + strings.Split(p, "/")[3]
		}
	}
	return ""
}

// Sums fills sums with those of the blocks from start on. size is that of the protected
// disk: what a larger device holds behind it counts as zeros. buf, of
// disk.AlignedBuffer, has room for the blocks.
func (d *Disk) Sums(ctx context.Context, start, size uint64, sums []wire.Sum, buf []byte) error {
	clear(sums)
	count := uint64(len(sums))
	// What an image does not hold reads as zeros, of which the sum is zero.
	from := min(d.read.NextData(start), start+count)
	if from == start+count {
		return nil
	}
	data := buf[:(start+count-from)*wire.BlockSize]
	if err := d.read.ReadBlocks(ctx, from, data); err != nil {
		return err
	}
	if end := int64(size) - int64(from)*wire.BlockSize; end < int64(len(data)) {
		clear(data[max(end, 0):])
	}
	wire.SumsOf(data, sums[from-start:][:start+count-from])
	return nil
}

// WriteAt writes bytes.
func (d *Disk) WriteAt(b []byte, off int64) error {
	_, err := d.write.WriteAt(b, off)
	return err
}

// blkZeroOut zeros a range of a block device, by the device itself if it can.
const blkZeroOut = 0x127f

// Zero makes bytes zeros.
func (d *Disk) Zero(off, length int64) error {
	if d.IsBlock() {
		span := [2]uint64{uint64(off), uint64(length)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.write.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span)))
		if errno == 0 {
			return nil
		}
	} else if unix.Fallocate(int(d.write.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length) == nil {
		return nil
	}
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if _, err := d.write.WriteAt(zeros[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

// Sync makes what was written durable.
func (d *Disk) Sync() error {
	if err := unix.Fdatasync(int(d.write.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", d.path, err)
	}
	return nil
}

// DropCaches lets the next read come from the disk itself. What is cached proves nothing.
func (d *Disk) DropCaches() {
	_ = unix.Fadvise(int(d.write.Fd()), 0, int64(d.Size()), unix.FADV_DONTNEED)
}

// Close lets the disk go.
func (d *Disk) Close() error {
	var errs []error
	if d.write != nil {
		errs = append(errs, d.write.Close())
	}
	errs = append(errs, d.read.Close())
	d.write = nil
	return errors.Join(errs...)
}
