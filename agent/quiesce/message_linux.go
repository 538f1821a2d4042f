package quiesce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// verb is what a message between agent and guard says. They talk over a socket
// pair that keeps messages apart and carries descriptors.
type verb byte

const (
	sayReady  verb = 'R' // guard: up
	sayArm    verb = 'A' // agent: thaw these descriptors after the time given
	sayArmed  verb = 'a' // guard: will do
	sayDisarm verb = 'D' // agent: all is thawed, forget them
	saySafe   verb = 's' // guard: forgotten
)

// message is one datagram: verb, number, nanoseconds, little endian.
type message struct {
	verb   verb
	number uint64 // of the freeze, so that a late answer is not taken for another's
	bound  time.Duration
	fds    []int
}

const (
	messageSize = 17
	maxMounts   = 253 // descriptors that the kernel passes in one message
)

func (m message) encode() []byte {
	b := make([]byte, messageSize)
	b[0] = byte(m.verb)
	binary.LittleEndian.PutUint64(b[1:], m.number)
	binary.LittleEndian.PutUint64(b[9:], uint64(m.bound))
	return b
}

func decode(b []byte) (message, error) {
	if len(b) != messageSize {
		return message{}, fmt.Errorf("message of %d bytes, want %d", len(b), messageSize)
	}
	m := message{verb: verb(b[0]), number: binary.LittleEndian.Uint64(b[1:])}
	m.bound = time.Duration(binary.LittleEndian.Uint64(b[9:]))
	if m.bound < 0 {
		return message{}, fmt.Errorf("negative bound %v", m.bound)
	}
	return m, nil
}

func send(fd int, m message) error {
	var rights []byte
	if len(m.fds) > 0 {
		rights = unix.UnixRights(m.fds...)
	}
	for {
		err := unix.Sendmsg(fd, m.encode(), rights, nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive waits for a message; io.EOF if the other side is gone.
func receive(fd int) (message, error) {
	buf, oob := make([]byte, messageSize+1), make([]byte, unix.CmsgSpace(4*maxMounts))
	var n, oobn, flags int
	var err error
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.ECONNRESET):
		return message{}, io.EOF
	case err != nil:
		return message{}, err
	case n == 0:
		return message{}, io.EOF
	}
	fds, err := parseRights(oob[:oobn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("descriptors were lost on the way")
	}
	m, derr := decode(buf[:n])
	if err := errors.Join(err, derr); err != nil {
		closeAll(fds)
		return message{}, err
	}
	m.fds = fds
	return m, nil
}

func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var all []int
	for i := range list {
		fds, err := unix.ParseUnixRights(&list[i])
		if err != nil {
			return all, err
		}
		all = append(all, fds...)
	}
	return all, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
