package scan

import (
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
)

// reserve maps n bytes of zeros: of a nameless file in dir, or of nothing.
func reserve(n int, dir string) ([]byte, error) {
	if dir == "" {
		return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	}
	f, err := nameless(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(n)); err != nil {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
}

// nameless makes a file that goes away with its last descriptor and mapping.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), filepath.Join(dir, "sums")), nil
	}
	f, err := os.CreateTemp(dir, "leeward-sums-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("make a nameless file: %w", err)
	}
	return f, nil
}

// forget takes a file's pages out of this process; the file keeps what they hold.
func forget(mem []byte) { _ = unix.Madvise(mem, unix.MADV_DONTNEED) }

func release(mem []byte) error {
	if mem == nil {
		return nil
	}
	return unix.Munmap(mem)
}

// room is memory of n bytes for reading disks into, and what gives it back. It is of large
// pages where the system has some: of small ones the kernel must look up 256 for each MiB
// that is read, and the device gets as many pieces.
func room(n int) (mem []byte, giveBack func()) {
	const large = 2 << 20
	all, err := unix.Mmap(-1, 0, n+large, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return disk.AlignedBuffer(n), func() {}
	}
	_ = unix.Madvise(all, unix.MADV_HUGEPAGE)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(all)))) & (large - 1)
	return all[skip:][:n:n], func() { _ = unix.Munmap(all) }
}
