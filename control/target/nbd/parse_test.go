package nbd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"syscall"
	"testing"
)

func TestCheck(t *testing.T) {
	const size = 1 << 20
	for _, c := range []struct {
		name     string
		r        request
		readOnly bool
		want     syscall.Errno
	}{
		{"read", request{cmd: cmdRead, length: 10}, true, 0},
		{"read nothing", request{cmd: cmdRead, off: size}, false, 0},
		{"read to the end", request{cmd: cmdRead, off: size - 10, length: 10}, false, 0},
		{"read over the end", request{cmd: cmdRead, off: size - 9, length: 10}, false, syscall.EINVAL},
		{"read beyond all numbers", request{cmd: cmdRead, off: math.MaxUint64 - 3, length: 10}, false, syscall.EINVAL},
		{"write over the end", request{cmd: cmdWrite, off: size - 9, length: 10}, false, syscall.ENOSPC},
		{"write read-only", request{cmd: cmdWrite, length: 10}, true, syscall.EPERM},
		{"trim read-only", request{cmd: cmdTrim, length: 10}, true, syscall.EPERM},
		{"write with FUA", request{cmd: cmdWrite, flags: cmdFUA, length: 10}, false, 0},
		{"read with FUA", request{cmd: cmdRead, flags: cmdFUA, length: 10}, false, 0},
		{"read with a flag of another", request{cmd: cmdRead, flags: cmdNoHole, length: 10}, false, syscall.EINVAL},
		{"flag unknown", request{cmd: cmdRead, flags: 1 << 9, length: 10}, false, syscall.EINVAL},
		{"command unknown", request{cmd: 8}, false, syscall.EINVAL},
		{"flush", request{cmd: cmdFlush}, true, 0},
		{"flush of a range", request{cmd: cmdFlush, length: 1}, false, syscall.EINVAL},
		{"status of nothing", request{cmd: cmdBlockStatus}, false, syscall.EINVAL},
		{"status", request{cmd: cmdBlockStatus, length: 1}, false, 0},
		{"zeroes", request{cmd: cmdWriteZeroes, flags: cmdNoHole | cmdFastZero, length: size}, false, 0},
	} {
		if got := c.r.check(size, c.readOnly, true, true); got != c.want {
			t.Errorf("%s: %v, not %v", c.name, got, c.want)
		}
	}
	big := request{cmd: cmdRead, length: MaxRequest + 1}
	if got := big.check(1<<40, false, true, true); got != syscall.EINVAL {
		t.Errorf("a read of more than the limit: %v", got)
	}
	if got := (request{cmd: cmdRead, flags: cmdDF, length: 1}).check(size, false, false, false); got != syscall.EINVAL {
		t.Errorf("DF without structured replies: %v", got)
	}
	if got := (request{cmd: cmdBlockStatus, length: 1}).check(size, false, true, false); got != syscall.EINVAL {
		t.Errorf("block status without a context: %v", got)
	}
}

func TestErrno(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{errors.New("the store is on fire"), syscall.EIO},
		{fmt.Errorf("write: %w", syscall.ENOSPC), syscall.ENOSPC},
		{fmt.Errorf("write: %w", syscall.EDQUOT), syscall.ENOSPC},
		{syscall.EROFS, syscall.EPERM},
		{syscall.ENOENT, syscall.EIO}, // the protocol has no such error
	} {
		if got := errnoOf(c.err); got != c.want {
			t.Errorf("%v: %v, not %v", c.err, got, c.want)
		}
	}
}

func goData(name string, infos ...uint16) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

func metaData(name string, queries ...string) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(q))), q...)
	}
	return b
}

// What parses says again exactly what was read, and nothing else parses.
func FuzzOptions(f *testing.F) {
	f.Add(goData("disk0", infoBlockSize, infoName))
	f.Add(goData(""))
	f.Add(metaData("disk0", contextAllocation, ""))
	f.Add([]byte{0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		if name, infos, err := parseGo(data); err == nil && !bytes.Equal(goData(name, infos...), data) {
			t.Errorf("GO %x is read as %q %v", data, name, infos)
		}
		if name, queries, err := parseMeta(data); err == nil && !bytes.Equal(metaData(name, queries...), data) {
			t.Errorf("META %x is read as %q %q", data, name, queries)
		}
	})
}
