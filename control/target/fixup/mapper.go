package fixup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device mapper's requests, of linux/dm-ioctl.h: version, sizes and numbers are a part
// of the kernel's contract.
const (
	dmHeader     = 312
	dmVersion    = 4
	dmDevCreate  = 3
	dmDevSuspend = 6
	dmTableLoad  = 9
	dmPersistent = 1 << 3
	dmSpec       = 40
)

func dmRequest(number uintptr) uintptr { return 3<<30 | dmHeader<<16 | 0xfd<<8 | number }

// mapper makes devices of the device mapper.
type mapper struct {
	f    *os.File
	next uint64
}

func openMapper() (*mapper, error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("the helper's kernel has no device mapper: %w", err)
	}
	return &mapper{f: f}, nil
}

// ask makes one request of the device with this name.
func (m *mapper) ask(number uintptr, name string, body []byte, targets int) error {
	if len(name) > 127 {
		return fmt.Errorf("device %.40q… has too long a name", name)
	}
	b := make([]byte, max(dmHeader+len(body), 4096))
	le := binary.LittleEndian
	le.PutUint32(b, dmVersion)
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], dmHeader)
	le.PutUint32(b[20:], uint32(targets))
	copy(b[48:], name)
	copy(b[dmHeader:], body)
	if number == dmDevCreate {
		le.PutUint32(b[28:], dmPersistent)
		le.PutUint64(b[40:], unix.Mkdev(m.major(), uint32(m.next)))
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, m.f.Fd(), dmRequest(number), uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return errno
	}
	return nil
}

// major is the number of the mapper's devices.
func (m *mapper) major() uint32 {
	b, err := os.ReadFile("/proc/devices")
	if err != nil {
		return 0
	}
	return majorOf(b, "device-mapper")
}

// make makes a device that is put together as all says, and returns its node.
func (m *mapper) make(name string, all []mapping) (node string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("set up %s: %w", name, err)
		}
	}()
	var body []byte
	for _, x := range all {
		size := (dmSpec + len(x.params) + 1 + 7) / 8 * 8
		b := make([]byte, size)
		le := binary.LittleEndian
		le.PutUint64(b, x.start)
		le.PutUint64(b[8:], x.length)
		le.PutUint32(b[20:], uint32(size)) // to the next
		copy(b[24:40], x.kind)
		copy(b[dmSpec:], x.params)
		body = append(body, b...)
	}
	if m.major() == 0 {
		return "", errors.New("the helper's kernel has no device mapper")
	}
	node = fmt.Sprint("dm-", m.next)
	if err := m.ask(dmDevCreate, name, nil, 0); err != nil {
		return "", err
	}
	m.next++
	if err := m.ask(dmTableLoad, name, body, len(all)); err != nil {
		return "", err
	}
	return node, m.ask(dmDevSuspend, name, nil, 0) // without its flag it resumes
}
