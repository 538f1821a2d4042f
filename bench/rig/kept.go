package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// keepWord is what the product starts processes with that keep a machine. They outlive
// control, as they shall, and so a bench that ends in the middle.
const keepWord = "keep-machine"

// keptIn lists the processes that keep a machine below dir.
func keptIn(dir string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // only the pattern could be wrong
	for _, name := range all {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		argv := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
		below := func(a string) bool { return strings.HasPrefix(a, dir+string(filepath.Separator)) }
		if !slices.Contains(argv, keepWord) || !slices.ContainsFunc(argv, below) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// endKept kills those that a run has left below dir. Their machines die with them.
func endKept(dir string) error {
	var left []int
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if left = keptIn(dir); len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			p, err := os.FindProcess(pid)
			if err != nil {
				continue
			}
			// Between the two it may have become another process, but for the handle.
			if slices.Contains(keptIn(dir), pid) {
				if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
					return fmt.Errorf("end process %d, which keeps a machine: %w", pid, err)
				}
			}
			_ = p.Release()
		}
	}
	return fmt.Errorf("processes %v keep machines below %s and do not end", left, dir)
}
