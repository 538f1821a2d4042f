package bus

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// impatient sets how long unacknowledged bytes keep a connection up.
func impatient(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
