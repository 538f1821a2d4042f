package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// BlockSize is the unit in which disks are read, in bytes.
const BlockSize = 4096

// MinSize is the smallest disk that can be opened, in bytes.
const MinSize = BlockSize

// Errors of Open, for errors.Is.
var (
	// ErrPartition means the path names a part of a disk; the message names the disk.
	ErrPartition = errors.New("is a partition, not a whole disk")
	// ErrNotDisk means the path is neither a block device nor a regular file.
	ErrNotDisk = errors.New("is neither a block device nor a regular file")
	// ErrReplaced means that the device is gone or that another disk is in its place.
	ErrReplaced = errors.New("is not the disk that was opened")
	// ErrUnreadable means that the device did not give what it holds.
	ErrUnreadable = errors.New("cannot be read")
	// ErrTooSmall means the disk has less than MinSize bytes.
	ErrTooSmall = errors.New("is too small to be a disk")
)

// Disk is an open disk or image file. It is safe for use by many goroutines.
type Disk struct {
	path string
	f    *os.File
	info info
}

// info is what the system knows about an open disk.
type info struct {
	size         uint64
	block        bool
	major, minor uint32
	identity     string
	backing      string
	name         string // kernel name, "sda"
	rotational   bool
	sequence     string // the kernel's number of this disk, "" if it has none
}

// Open opens a whole disk or an image file for reading. It needs no more than
// read permission.
func Open(path string) (*Disk, error) {
	f, in, err := open(path)
	if err != nil {
		return nil, err
	}
	if in.size < MinSize {
		_ = f.Close()
		return nil, fmt.Errorf("%s %w: %d bytes, at least %d are needed", path, ErrTooSmall, in.size, MinSize)
	}
	return &Disk{path: path, f: f, info: in}, nil
}

// Close closes the disk. Reads in flight fail.
func (d *Disk) Close() error { return d.f.Close() }

// Path is the path given to Open.
func (d *Disk) Path() string { return d.path }

// Size is the size in bytes when the disk was opened. It need not be a multiple
// of BlockSize.
func (d *Disk) Size() uint64 { return d.info.size }

// Blocks is the number of blocks of BlockSize, the last one perhaps in part.
func (d *Disk) Blocks() uint64 { return (d.info.size + BlockSize - 1) / BlockSize }

// CurrentSize asks the system for the size in bytes now: disks can be resized.
func (d *Disk) CurrentSize() (uint64, error) {
	if d.info.block {
		n, err := d.deviceSize()
		if err != nil {
			return 0, fmt.Errorf("ask for the size of %s: %w", d.path, err)
		}
		return n, nil
	}
	n, err := d.f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("ask for the size of %s: %w", d.path, err)
	}
	return uint64(n), nil
}

// Sequence is the number that the kernel gave to this disk: another disk, or other
// contents, at the same device number has another one. Empty for image files and on
// kernels that have none.
func (d *Disk) Sequence() string { return d.info.sequence }

// Present returns ErrReplaced, with what was and what is, if the device is gone or
// another disk is there under its number. It costs one or two small reads.
func (d *Disk) Present() error {
	if !d.info.block {
		return nil
	}
	return d.present()
}

// IsBlock says whether this is a block device (else an image file).
func (d *Disk) IsBlock() bool { return d.info.block }

// Major is the major device number, 0 for an image file.
func (d *Disk) Major() uint32 { return d.info.major }

// Minor is the minor device number, 0 for an image file.
func (d *Disk) Minor() uint32 { return d.info.minor }

// Name is the kernel's name of the device ("sda"), empty for an image file.
func (d *Disk) Name() string { return d.info.name }

// Identity tells this disk from others across reboots and renames: WWN or serial
// number, device and inode for image files and for loop devices over one. Empty
// if the device has none.
func (d *Disk) Identity() string { return d.info.identity }

// Backing is the file behind a loop device, empty for everything else.
func (d *Disk) Backing() string { return d.info.backing }

// ReadBlocks fills buf, whose length must be a multiple of BlockSize, with the
// blocks from start on. What lies behind the end of the last block is zeros. A
// buffer from AlignedBuffer is filled without a copy. ctx is looked at before
// each read of the device, a read once begun is not interrupted.
func (d *Disk) ReadBlocks(ctx context.Context, start uint64, buf []byte) error {
	if len(buf)%BlockSize != 0 {
		return fmt.Errorf("read %s: buffer of %d bytes is not a multiple of %d", d.path, len(buf), BlockSize)
	}
	count := uint64(len(buf) / BlockSize)
	if start > d.Blocks() || count > d.Blocks()-start {
		return fmt.Errorf("read %s: blocks %d+%d are beyond the end at %d", d.path, start, count, d.Blocks())
	}
	if !d.info.block || aligned(buf) {
		return d.readAligned(ctx, start, buf)
	}
	bounce := bounces.Get().(*[]byte)
	defer bounces.Put(bounce)
	for len(buf) > 0 {
		p := (*bounce)[:min(len(buf), len(*bounce))]
		if err := d.readAligned(ctx, start, p); err != nil {
			return err
		}
		copy(buf, p)
		buf = buf[len(p):]
		start += uint64(len(p) / BlockSize)
	}
	return nil
}

// NextData is the first block from start on that may hold anything but zeros, the
// number of blocks if there is none. Only of image files is that known; a hole that
// is filled while one looks shows as either.
func (d *Disk) NextData(start uint64) uint64 {
	if d.info.block || start >= d.Blocks() {
		return min(start, d.Blocks())
	}
	return d.nextData(start)
}

// readAligned reads blocks that exist into a buffer that the device can take.
func (d *Disk) readAligned(ctx context.Context, start uint64, buf []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	off := start * BlockSize
	want := min(uint64(len(buf)), d.info.size-min(off, d.info.size))
	n, err := d.f.ReadAt(buf[:want], int64(off))
	if err == io.EOF && !d.info.block {
		err = nil // the file was cut shorter meanwhile: what is gone reads as zeros
	}
	if err != nil {
		return fmt.Errorf("%s %w at byte %d: %w", d.path, ErrUnreadable, off, err)
	}
	clear(buf[n:])
	return nil
}

// ReadAt implements io.ReaderAt over the bytes of the disk, of any alignment. It
// is for small reads (partition tables, superblocks); use ReadBlocks or a Reader
// for contents.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset %d", d.path, off)
	}
	bounce := bounces.Get().(*[]byte)
	defer bounces.Put(bounce)
	done := 0
	for done < len(p) {
		at := uint64(off) + uint64(done)
		if at >= d.info.size {
			return done, io.EOF
		}
		start, skip := at/BlockSize, int(at%BlockSize)
		want := min(len(p)-done, int(min(d.info.size-at, bounceSize)))
		n := min((skip+want+BlockSize-1)/BlockSize*BlockSize, bounceSize)
		if err := d.readAligned(context.Background(), start, (*bounce)[:n]); err != nil {
			return done, err
		}
		done += copy(p[done:done+min(want, n-skip)], (*bounce)[skip:n])
	}
	return done, nil
}

const bounceSize = 256 << 10

// bounces holds buffers for callers whose own are not aligned.
var bounces = sync.Pool{New: func() any { b := AlignedBuffer(bounceSize); return &b }}
