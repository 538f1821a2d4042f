package quiesce

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lockProgram locks the pages of the running program's file in memory, so that
// going on never means reading that file.
func lockProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		from, to, ok := mappingOf(s.Text(), exe)
		if !ok {
			continue
		}
		_, _, errno := unix.Syscall(unix.SYS_MLOCK, from, to-from, 0)
		if errno != 0 {
			return fmt.Errorf("lock the program in memory: %w", errno)
		}
	}
	return s.Err()
}

// mappingOf reads a line of /proc/self/maps: the addresses if it maps file.
func mappingOf(line, file string) (from, to uintptr, ok bool) {
	if !strings.HasSuffix(line, " "+file) {
		return 0, 0, false
	}
	var a, b uint64
	if n, err := fmt.Sscanf(line, "%x-%x", &a, &b); n != 2 || err != nil || b <= a || b > uint64(^uintptr(0)) {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b), true
}
