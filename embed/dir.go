package embed

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What the directory needs, in bytes.
const (
	// keepFree stays free on the disk, so that a full stream does not stop the
	// machine, nor the server from noting what was consumed.
	keepFree = 128 << 20
	// smallOnes is set aside for every stream but CHANGES.
	smallOnes = 384 << 20
	// leastStore is the least a store is good for: the small streams and CHANGES
	// at its smallest (streams.Config.Validate).
	leastStore = smallOnes + 128<<20
)

// lock is a held file descriptor. It is no os.File, which gives the lock up when
// nobody looks at it any more.
type lock int

// hold makes the directory and locks it for this process. The lock goes with the
// process, however it ends.
func hold(dir string) (lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return -1, fmt.Errorf("make directory %s: %w: choose another one or run as its owner", dir, cause(err))
	}
	file := filepath.Join(dir, "lock")
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("directory %s is not writable: %w: choose another one or run as its owner", dir, err)
	}
	l := lock(fd)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer l.release()
		if errors.Is(err, unix.EWOULDBLOCK) {
			b, _ := os.ReadFile(file)
			return -1, fmt.Errorf("directory %s is in use by another appliance (process %s): stop that one or choose another directory", dir, strings.TrimSpace(string(b)))
		}
		return -1, fmt.Errorf("lock %s: %w", file, err)
	}
	err = unix.Ftruncate(fd, 0)
	if err == nil {
		_, err = unix.Pwrite(fd, fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("write %s: %w: is the disk full?", file, err), l.release())
	}
	return l, nil
}

func (l lock) release() error { return unix.Close(int(l)) }

// cause is the bare reason of a file error, where the path was named before.
func cause(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

// storeLimit decides how many bytes the streams may take. used is what they have
// on disk already, free what others could still use of it, want the configured
// limit or 0.
func storeLimit(dir string, want, used, free int64) (int64, error) {
	if need := max(keepFree, leastStore+keepFree-used); free < need {
		return 0, fmt.Errorf("disk of %s has %d MiB free and needs %d MiB: make room there or choose another directory", dir, free>>20, (need+1<<20-1)>>20)
	}
	limit := used + free - keepFree
	if want > 0 && want < limit {
		limit = want
	}
	if limit < leastStore {
		return 0, fmt.Errorf("nats.max_store is %d MiB: allow at least %d MiB", want>>20, leastStore>>20)
	}
	return limit, nil
}

// space measures what storeLimit wants to know.
func space(dir string) (used, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("ask for free space of %s: %w", dir, err)
	}
	err = filepath.WalkDir(filepath.Join(dir, "jetstream"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreMissing(err)
		}
		i, err := e.Info()
		if err == nil {
			used += i.Size()
		}
		return ignoreMissing(err)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("measure the streams: %w", err)
	}
	return used, int64(st.Bavail) * st.Bsize, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
