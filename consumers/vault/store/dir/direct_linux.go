package dir

import (
	"errors"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// directFrom is the size from which an object passes the page cache by: copying it there
// costs more processor time than sealing it, and the disk gets it no sooner.
const directFrom = 256 << 10

// directAlign is what every disk and file system accepts for addresses, offsets and sizes.
const directAlign = 4096

// writeAll writes data to a new file. Large data goes straight to the disk where the file
// system can do that; it is durable only after a Sync in either case.
func writeAll(f *os.File, data []byte) error {
	head := direct(f, data)
	if head > 0 {
		n, err := f.Write(data[:head])
		if err != nil && !errors.Is(err, syscall.EINVAL) {
			return err
		}
		data = data[n:]
		if err := setDirect(f, false); err != nil {
			return err
		}
	}
	_, err := f.Write(data)
	return err
}

// direct makes f pass the page cache by and returns how much of data can be written so.
func direct(f *os.File, data []byte) int {
	if len(data) < directFrom || uintptr(unsafe.Pointer(&data[0]))%directAlign != 0 || setDirect(f, true) != nil {
		return 0
	}
	return len(data) / directAlign * directAlign
}

func setDirect(f *os.File, on bool) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = c.Control(func(fd uintptr) {
		flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
		if err != nil {
			set = err
			return
		}
		if flags &^= unix.O_DIRECT; on {
			flags |= unix.O_DIRECT
		}
		_, set = unix.FcntlInt(fd, unix.F_SETFL, flags)
	})
	return errors.Join(err, set)
}
