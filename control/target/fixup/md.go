package fixup

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raidMember is a device of a RAID that software makes, as its superblock says.
type raidMember struct {
	array    string // id
	name     string // that was given to it
	level    int32
	disks    uint32 // that the array has when it is whole
	role     uint16 // of this one; disks and above: a spare, or faulty
	events   uint64
	major    int // of the superblock's version
	minor    int
	reshapes bool
}

const (
	mdMagic      = 0xa92b4efc
	mdReshape    = 4     // feature: it is being given another shape
	mdRoles      = 256   // where roles begin
	mdMaxDevices = 0x180 // that fit a superblock
)

// readRaid reads the superblock of a device of so many bytes: of version 1.1 or 1.2 at its
// beginning, of 1.0 or 0.90 at its end.
func readRaid(r io.ReaderAt, size int64) (*raidMember, error) {
	b := make([]byte, mdRoles+2*mdMaxDevices)
	for minor, at := range [...]int64{mdEnd(size), 0, 4096} {
		if n, _ := r.ReadAt(b, max(0, at)); at < 0 || n < len(b) || binary.LittleEndian.Uint32(b) != mdMagic {
			continue
		}
		le := binary.LittleEndian
		if minor == 0 && le.Uint64(b[144:]) != uint64(at/512) {
			continue // it is that of a partition at the end of this disk
		}
		if le.Uint32(b[4:]) != 1 {
			return nil, fmt.Errorf("a RAID's superblock of version %d", le.Uint32(b[4:]))
		}
		n := le.Uint32(b[220:])
		if n > mdMaxDevices {
			return nil, fmt.Errorf("a RAID's superblock for %d devices", n)
		}
		if mdSum(b[:mdRoles+2*n]) != le.Uint32(b[216:]) {
			return nil, fmt.Errorf("a RAID's superblock is damaged")
		}
		m := &raidMember{
			array: hex.EncodeToString(b[16:32]), level: int32(le.Uint32(b[72:])), disks: le.Uint32(b[92:]), events: le.Uint64(b[200:]),
			major: 1, minor: minor, reshapes: le.Uint32(b[8:])&mdReshape != 0, role: 0xffff,
		}
		name, _, _ := bytes.Cut(b[32:64], []byte{0})
		m.name = string(name)
		if _, short, ok := strings.Cut(m.name, ":"); ok { // host:name
			m.name = short
		}
		if own := le.Uint32(b[160:]); own < n {
			m.role = le.Uint16(b[mdRoles+2*own:])
		}
		return m, nil
	}
	return readOldRaid(r, size)
}

// mdEnd is where a superblock of version 1.0 lies.
func mdEnd(size int64) int64 { return (size/512 - 16) &^ 7 * 512 }

const (
	mdOldSize = 4096
	mdOldStep = 64 << 10 // the superblock of version 0.90 lies in the last whole one of these
	mdOldSlop = 2 << 20  // bytes before it that an array may leave unused: a chunk
	mdOldSum  = 38 * 4
	mdOldDisk = 992 * 4 // where it says which device this is
)

// readOldRaid reads a superblock of version 0.90, as processors like this one write it. It
// does not say on what device it is, and the last partition of a disk may end with the disk:
// it is a disk's own only if the array uses about all of the disk.
func readOldRaid(r io.ReaderAt, size int64) (*raidMember, error) {
	at := size&^(mdOldStep-1) - mdOldStep
	b := make([]byte, mdOldSize)
	le := binary.LittleEndian
	if n, _ := r.ReadAt(b, max(0, at)); at < 0 || n < len(b) || le.Uint32(b) != mdMagic || le.Uint32(b[4:]) != 0 {
		return nil, fmt.Errorf("a RAID of a kind that is not known here, perhaps a controller's")
	}
	word := func(i int) uint32 { return le.Uint32(b[4*i:]) }
	sum := uint64(0)
	for i := range mdOldSize / 4 {
		if i != mdOldSum/4 {
			sum += uint64(word(i))
		}
	}
	// The kernel compares as much of it: older ones added up in another way.
	if uint16(uint32(sum)+uint32(sum>>32)) != uint16(le.Uint32(b[mdOldSum:])) {
		return nil, fmt.Errorf("a RAID's superblock is damaged")
	}
	if used := int64(word(8)) << 10; used > at || used < at-mdOldSlop {
		return nil, fmt.Errorf("%w: it is that of a RAID of devices with %d MiB", errOtherDevice, used>>20)
	}
	m := &raidMember{
		array: hex.EncodeToString(append(b[20:24:24], b[52:64]...)), name: fmt.Sprint(word(11)), level: int32(word(7)), disks: word(10),
		events: uint64(word(40))<<32 | uint64(word(39)), minor: 90, reshapes: word(2) != 90, role: 0xffff,
	}
	const faulty, inStep = 1 << 0, 1 << 2
	if state := le.Uint32(b[mdOldDisk+16:]); state&faulty == 0 && state&inStep != 0 && le.Uint32(b[mdOldDisk+12:]) < mdMaxDevices {
		m.role = uint16(le.Uint32(b[mdOldDisk+12:]))
	}
	return m, nil
}

// errOtherDevice means that a superblock is there, but not of the whole device.
var errOtherDevice = errors.New("another device's superblock")

// endsAsRaid says whether the superblock of a RAID lies at the end of a device. What such a
// device begins with is also what the RAID begins with, and must not be taken for it.
func endsAsRaid(r io.ReaderAt, size int64) bool {
	b := make([]byte, 152)
	if at := mdEnd(size); at > 4096 {
		n, _ := r.ReadAt(b, at)
		if n == len(b) && binary.LittleEndian.Uint32(b) == mdMagic && binary.LittleEndian.Uint64(b[144:]) == uint64(at/512) {
			return true
		}
	}
	if at := size&^(mdOldStep-1) - mdOldStep; at > 4096 {
		n, _ := r.ReadAt(b[:8], at)
		if n == 8 && binary.LittleEndian.Uint64(b) == mdMagic { // and version 0
			_, err := readOldRaid(r, size)
			return !errors.Is(err, errOtherDevice)
		}
	}
	return false
}

// mdSum is the checksum of a superblock: its words added, without the sum itself.
func mdSum(b []byte) uint32 {
	sum := uint64(0)
	for i := 0; i+4 <= len(b); i += 4 {
		if i != 216 {
			sum += uint64(binary.LittleEndian.Uint32(b[i:]))
		}
	}
	if len(b)%4 == 2 {
		sum += uint64(binary.LittleEndian.Uint16(b[len(b)-2:]))
	}
	return uint32(sum) + uint32(sum>>32)
}

// array is what members belong to.
type array struct {
	first   *raidMember
	devices []string // nodes, by role
	there   int
}

// arrays puts members together; nodes are those that have each.
func arrays(nodes []string, all []*raidMember) (out []*array) {
	byID := map[string]*array{}
	for i, m := range all {
		if m.disks == 0 || m.disks > mdMaxDevices || uint32(m.role) >= m.disks {
			continue
		}
		a := byID[m.array]
		if a == nil {
			a = &array{first: m, devices: make([]string, m.disks)}
			byID[m.array] = a
			out = append(out, a)
		}
		if m.disks == a.first.disks && a.devices[m.role] == "" {
			a.devices[m.role] = nodes[i]
			a.there++
		}
		if m.events > a.first.events {
			a.first = m
		}
	}
	return out
}

// why says why an array is not started; "" if it can be.
func (a *array) why() string {
	switch {
	case a.first.reshapes:
		return "is being given another shape"
	case a.there < len(a.devices):
		return fmt.Sprintf("has %d of its %d devices here", a.there, len(a.devices))
	}
	return ""
}

// The requests of linux/raid/md_u.h.
const (
	mdAddDisk  = 1<<30 | 20<<16 | 9<<8 | 0x21
	mdRun      = 1<<30 | 12<<16 | 9<<8 | 0x30
	mdSetArray = 1<<30 | 72<<16 | 9<<8 | 0x23
	mdMajor    = 9
)

// start starts an array as md<number>, and returns its node.
func (a *array) start(number int) (node string, err error) {
	node = fmt.Sprint("md", number)
	defer func() {
		if err != nil {
			err = fmt.Errorf("start RAID %s: %w", a.first.name, err)
		}
	}()
	// What is out of step must not be copied now: the machine does that itself.
	for _, limit := range []string{"speed_limit_min", "speed_limit_max"} {
		if err := os.WriteFile("/proc/sys/dev/raid/"+limit, []byte("1\n"), 0); err != nil {
			return "", err
		}
	}
	if err := unix.Mknod("/dev/"+node, unix.S_IFBLK|0o600, int(unix.Mkdev(mdMajor, uint32(number)))); err != nil && err != unix.EEXIST {
		return "", err
	}
	f, err := os.OpenFile("/dev/"+node, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	ask := func(request uintptr, b []byte) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
			return errno
		}
		return nil
	}
	le := binary.LittleEndian
	version := make([]byte, 72) // no number of disks: what follows has superblocks that say so
	le.PutUint32(version, uint32(a.first.major))
	le.PutUint32(version[4:], uint32(a.first.minor))
	if err := ask(mdSetArray, version); err != nil {
		return "", err
	}
	for _, d := range a.devices {
		var st unix.Stat_t
		if err := unix.Stat("/dev/"+d, &st); err != nil {
			return "", err
		}
		disk := make([]byte, 20)
		le.PutUint32(disk[4:], unix.Major(st.Rdev))
		le.PutUint32(disk[8:], unix.Minor(st.Rdev))
		if err := ask(mdAddDisk, disk); err != nil {
			return "", fmt.Errorf("%s: %w", d, err)
		}
	}
	if err := ask(mdRun, make([]byte, 12)); err != nil {
		return "", err
	}
	for end := time.Now().Add(diskTime); ; time.Sleep(20 * time.Millisecond) {
		if b, err := os.ReadFile("/sys/class/block/" + node + "/size"); err == nil && strings.TrimSpace(string(b)) != "0" {
			return node, nil
		}
		if time.Now().After(end) {
			return "", fmt.Errorf("it does not come up within %v", diskTime)
		}
	}
}

// majorOf finds the number of a kind of block devices in /proc/devices.
func majorOf(b []byte, kind string) uint32 {
	_, blocks, _ := strings.Cut(string(b), "Block devices:")
	for line := range strings.Lines(blocks) {
		var n uint32
		var name string
		if _, err := fmt.Sscan(line, &n, &name); err == nil && name == kind {
			return n
		}
	}
	return 0
}
