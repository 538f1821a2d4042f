package agent

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Classes and shift of ioprio_set(2), which x/sys does not name.
const (
	ioBestEffort = 2
	ioIdle       = 3
	ioShift      = 13
	ioThread     = 1 // IOPRIO_WHO_PROCESS: one thread
)

// SetIOClass puts the disk reads of this process behind those of others: "low" (last of
// the best-effort class) or "idle" (only when nobody else reads, which also slows the
// last reads inside a freeze). "" changes nothing. It counts where the disk's scheduler
// honours it (bfq, mq-deadline).
func SetIOClass(class string) error {
	prio := 0
	switch class {
	case "":
		return nil
	case "low":
		prio = ioBestEffort<<ioShift | 7
	case "idle":
		prio = ioIdle << ioShift
	default:
		return fmt.Errorf("io-class is %q: use low, idle, or nothing", class)
	}
	// It belongs to threads; those made later have it from the one that makes them.
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("set io-class: %w", err)
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioThread, uintptr(id), uintptr(prio))
		if errno != 0 && errno != unix.ESRCH {
			return fmt.Errorf("set io-class %s: %w", class, errno)
		}
	}
	return nil
}
