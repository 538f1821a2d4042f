package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// LockDir is where Lock keeps its files if it is not told otherwise.
const LockDir = "/run/leeward"

// ErrLocked means that another process protects this disk.
var ErrLocked = errors.New("is already protected by another process")

// DiskLock is the right to be the only one to protect a disk on this host.
type DiskLock struct{ f *os.File }

// Lock takes the lock of a disk with a file in dir (LockDir if empty). It does not
// wait: ErrLocked names the process that has it. The kernel gives the lock back
// when the process dies.
func Lock(dir string, d *Disk) (*DiskLock, error) {
	if dir == "" {
		dir = LockDir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", d.path, err)
	}
	path := filepath.Join(dir, lockName(d)+".lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", d.path, err)
	}
	if err := flock(f); err != nil {
		holder := readHolder(f)
		_ = f.Close()
		if errors.Is(err, ErrLocked) {
			return nil, fmt.Errorf("%s %w (%s, lock file %s)", d.path, ErrLocked, holder, path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	text := fmt.Sprintf("pid %d\n", os.Getpid())
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &DiskLock{f}, nil
}

// Unlock gives the lock back. The file stays: removing it would let two processes
// hold locks on two files of one name.
func (l *DiskLock) Unlock() error { return l.f.Close() }

// lockName is one name per disk, by whatever path it was opened.
func lockName(d *Disk) string {
	if d.info.block {
		return fmt.Sprintf("disk-%d-%d", d.info.major, d.info.minor)
	}
	return strings.Map(func(r rune) rune {
		if r == ':' || r == '/' || r == '\\' {
			return '-'
		}
		return r
	}, d.info.identity)
}

func readHolder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	if s := strings.TrimSpace(string(b[:n])); s != "" {
		return s
	}
	return "pid unknown"
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
