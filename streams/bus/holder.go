package bus

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// ThisProcess describes this process as the holder of a lease.
func ThisProcess(instance string) Holder {
	h := Holder{Instance: instance, PID: os.Getpid(), Since: time.Now().UTC(), Scope: scope()}
	h.Host, _ = os.Hostname()
	if h.Host == "" {
		h.Host = "unknown"
	}
	h.Started, _, _ = process(h.PID)
	return h
}

// Alive reports whether h may still be running. It is false only when that is
// certain: h ran under this very kernel and process namespace, and its process
// is gone, a zombie, or another one under the same number.
func Alive(h Holder) bool {
	if h.Scope == "" || h.Scope != scope() || h.PID <= 0 {
		return true
	}
	started, state, err := process(h.PID)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		return true
	}
	return state != 'Z' && state != 'X' && (h.Started == 0 || h.Started == started)
}

// scope names the space in which a process number means something: this boot of
// this kernel and this process namespace. Empty where that cannot be told.
func scope() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	ns, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + " " + ns
}

// process reads when a process started (clock ticks after boot) and its state.
func process(pid int) (started uint64, state byte, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The command name stands in brackets and may hold anything; the fields
	// after its last bracket start with number 3, the state.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return 0, 0, errors.New("/proc/" + strconv.Itoa(pid) + "/stat is not understood")
	}
	started, err = strconv.ParseUint(string(f[19]), 10, 64)
	return started, f[0][0], err
}
