package disk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queue is the kernel's asynchronous I/O, which has been in every kernel for twenty years
// and needs no permission. A read of a block device past the page cache is handed to the
// device and nothing waits, while a goroutine in read(2) keeps others from its processor
// until the runtime notices, and waits for one when it returns.
type queue struct {
	d      *Disk
	fd     int // of its own: another file may have the disk's number when that is closed
	handle uintptr

	mu    sync.Mutex // guards what the fields of slots are, not what they point to
	slots []slot     // by tag
}

// slot is a read that is under way.
type slot struct {
	start uint64
	buf   []byte // kept from the collector, too
}

// iocb is struct iocb of linux/aio_abi.h; the two words of 32 bits that change places with
// the byte order are not used.
type iocb struct {
	data     uint64
	_        [2]uint32
	opcode   uint16
	priority int16
	fd       uint32
	buf      uint64
	bytes    uint64
	offset   int64
	_        uint64
	_        [2]uint32
}

// ioEvent is struct io_event.
type ioEvent struct {
	data, iocb  uint64
	result, two int64
}

const iocbPread = 0 // IOCB_CMD_PREAD

// Queue lets as many as depth reads be under way. ErrNoQueue: it cannot be had for this
// disk or from this kernel.
func (d *Disk) Queue(depth int) (Reads, error) {
	if !d.info.block {
		return nil, fmt.Errorf("%w: %s is a file", ErrNoQueue, d.path) // its reads would be waited for
	}
	q := &queue{d: d, slots: make([]slot, depth)}
	var err error
	if q.fd, err = unix.FcntlInt(d.f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoQueue, err)
	}
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(depth), uintptr(unsafe.Pointer(&q.handle)), 0); e != 0 {
		_ = unix.Close(q.fd)
		return nil, fmt.Errorf("%w: %w", ErrNoQueue, e)
	}
	return q, nil
}

// Submit implements Reads.
func (q *queue) Submit(tag int, start uint64, buf []byte) error {
	if !aligned(buf) || len(buf)%BlockSize != 0 || start > q.d.Blocks() || uint64(len(buf)/BlockSize) > q.d.Blocks()-start {
		return fmt.Errorf("read %s: %d bytes from block %d cannot be read at once", q.d.path, len(buf), start)
	}
	s := slot{start: start, buf: buf}
	cb := &iocb{
		data: uint64(tag), opcode: iocbPread, fd: uint32(q.fd), buf: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))),
		bytes: s.want(q.d), offset: int64(start * BlockSize),
	}
	q.mu.Lock()
	q.slots[tag] = s
	q.mu.Unlock()
	for end := time.Now().Add(submitWithin); ; time.Sleep(time.Millisecond) {
		n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, q.handle, 1, uintptr(unsafe.Pointer(&cb)))
		if e == 0 && n == 1 {
			return nil
		}
		if e != unix.EAGAIN && e != unix.EINTR || time.Now().After(end) {
			return fmt.Errorf("%s %w at byte %d: %w", q.d.path, ErrUnreadable, start*BlockSize, e)
		}
	}
}

// submitWithin is how long the kernel may be too short of memory for a read.
const submitWithin = 10 * time.Second

// want is how many bytes of a read lie on the disk, the last block perhaps being short.
func (s slot) want(d *Disk) uint64 { return min(uint64(len(s.buf)), d.info.size-s.start*BlockSize) }

// Wait implements Reads.
func (q *queue) Wait() (tag int, err error) {
	var done ioEvent
	for {
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, q.handle, 1, 1, uintptr(unsafe.Pointer(&done)), 0, 0)
		if e == 0 && n == 1 {
			break
		}
		if e != 0 && !errors.Is(e, unix.EINTR) {
			return -1, fmt.Errorf("wait for a read of %s: %w", q.d.path, e)
		}
	}
	q.mu.Lock()
	s := q.slots[done.data]
	q.mu.Unlock()
	if done.result != int64(s.want(q.d)) {
		// Less than was asked for, or an error: the ordinary way goes on or says why not.
		return int(done.data), q.d.readAligned(context.Background(), s.start, s.buf)
	}
	clear(s.buf[done.result:])
	return int(done.data), nil
}

// Close implements Reads.
func (q *queue) Close() {
	_, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, q.handle, 0, 0)
	_ = unix.Close(q.fd)
}
