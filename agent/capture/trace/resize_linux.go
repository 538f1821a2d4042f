package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A disk that is made smaller and grown back between two looks has its old size, and what
// was cut off holds something else, though nothing wrote it. The kernel tells device managers
// that a disk was resized, and to what in its log. A line of the log is an event like others:
// it goes into the same ring, and is there for the next process, too. But the log leaves lines
// out when there are many; device managers are always told, and who is not told there were
// too many. So the two are counted: where the log says less, it is not known what was cut off.

func readText(root string) (textLayout, error) {
	format, err := os.ReadFile(filepath.Join(root, logPath, "format"))
	if err != nil {
		return textLayout{}, err
	}
	return parseText(format)
}

// heard is what device managers are told of the disk, and what the log said.
type heard struct {
	open   bool
	socket int
	told   int // changes of size
	said   int
}

// newHeard listens to what is told of the device at a path below /sys.
func newHeard(path string) (heard, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return heard{}, fmt.Errorf("listen to what device managers are told: %w", err)
	}
	err = only(fd, "change@"+strings.TrimPrefix(path, "/sys")+"\x00")
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
	}
	if err != nil {
		_ = unix.Close(fd)
		return heard{}, fmt.Errorf("listen to what device managers are told: %w", err)
	}
	return heard{open: true, socket: fd}, nil
}

// only lets the kernel drop messages that do not begin with head: a machine to which many
// devices come at once tells so much that it would not fit.
func only(fd int, head string) error {
	var f []unix.SockFilter
	for at := 0; at < len(head); at += 4 {
		at := min(at, len(head)-4)
		f = append(f,
			unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(at)},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: binary.BigEndian.Uint32([]byte(head[at:]))},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
	}
	f = append(f, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16})
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]})
}

func (h *heard) close() {
	if h.open {
		_ = unix.Close(h.socket)
	}
	*h = heard{}
}

// read counts what was told of a disk.
func (h *heard) read(name string) error {
	var buf [8 << 10]byte // the kernel's messages have 2 KiB at most
	for h.open {
		n, from, err := unix.Recvfrom(h.socket, buf[:], 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			return errors.New("so much happened to the disk that a change of its size may have been missed")
		case err != nil:
			return fmt.Errorf("listen to what device managers are told: %w", err)
		}
		if a, ok := from.(*unix.SockaddrNetlink); ok && a.Pid == 0 && resizedEvent(buf[:n], name) {
			h.told++
		}
	}
	return nil
}

// logEvent marks what was cut off and came back.
func (s *Source) logEvent(text []byte) {
	name := s.kernelName
	from, to, ok := sizeChange(text, name)
	if !ok {
		if bytes.HasPrefix(text, []byte(name+sizeSays)) {
			s.breaks(fmt.Errorf("the kernel says of the disk's size what is not understood: %q", text))
		}
		return
	}
	if from != 0 && to != 0 { // else nobody is told
		s.heard.said++
	}
	if start, count := between(from, to, s.blocks); count > 0 {
		s.set.Add(start, count)
		if s.rec != nil {
			s.rec.add(start, count)
		}
	}
}

// sizes holds what device managers were told, which was read before the rings, against what
// the log said.
func (s *Source) sizes() {
	missing := s.heard.told - s.heard.said
	if missing <= 0 {
		return
	}
	if now, err := s.dev.CurrentSize(); missing == 1 && err == nil && now != s.dev.Size() {
		return // it has that size now, as everybody sees
	}
	s.breaks(fmt.Errorf("the disk's size changed %d times and it is not known to what", missing))
}
