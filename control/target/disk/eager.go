package disk

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eagerBytes is how much may be written before the kernel is told to begin with it.
const eagerBytes = 8 << 20

// directFrom is the size from which a write passes the page cache by: copying it there
// costs as much as unpacking it, and there are other workers who unpack while one waits
// for the disk. Smaller ones are better gathered by the kernel.
const directFrom = 128 << 10

// directAlign is what every disk and file system accepts for addresses, offsets and sizes.
const directAlign = 4096

// eager is a file whose contents go to its disk while more is being written. The kernel
// by itself waits until a tenth of the memory is full of them, so that the disk would do
// nothing while we unpack, and we nothing while it writes.
type eager struct {
	*os.File
	written atomic.Int64
	direct  *os.File    // the same file past the page cache; nil where that cannot be
	refused atomic.Bool // it cannot after all
}

// newEager returns f as an eager file, to be ended.
func newEager(f *os.File) *eager {
	e := &eager{File: f}
	// An error is no reason to fail: then everything goes through the page cache.
	e.direct, _ = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY|unix.O_DIRECT, 0)
	return e
}

// end leaves f as it is.
func (e *eager) end() {
	if e.direct != nil {
		_ = e.direct.Close() // what was written is made durable by way of f
	}
}

// WriteAt implements io.WriterAt.
func (e *eager) WriteAt(p []byte, off int64) (int, error) {
	n, err := e.past(p, off)
	if err != nil || n == len(p) {
		return n, err
	}
	m, err := e.File.WriteAt(p[n:], off+int64(n))
	if now := e.written.Add(int64(m)); now/eagerBytes != (now-int64(m))/eagerBytes {
		// It promises nothing and may fail: what counts is the sync in the end.
		_ = unix.SyncFileRange(int(e.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return n + m, err
}

// past writes as much of p as can go past the page cache.
func (e *eager) past(p []byte, off int64) (int, error) {
	if e.direct == nil || len(p) < directFrom || off%directAlign != 0 || uintptr(unsafe.Pointer(&p[0]))%directAlign != 0 || e.refused.Load() {
		return 0, nil
	}
	n, err := e.direct.WriteAt(p[:len(p)/directAlign*directAlign], off)
	if errors.Is(err, unix.EINVAL) {
		e.refused.Store(true)
		return n, nil
	}
	return n, err
}
