package mastertarget

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/consumers/vault"
)

// ErrRefused means that the disk is not written to, for a reason that the message names.
var ErrRefused = errors.New("this disk is not written to")

// Config says what to bring home, and where that is.
type Config struct {
	Vault *vault.Vault
	Disk  vault.DiskID
	Path  string // block device or image file
	// StateDir is where the record of what is known of the disk is kept. It must not be
	// on that disk.
	StateDir string
	// Size of the disk in bytes, as the point has it.
	Size uint64
	// Other allows a disk that is not the one the machine had; an image is made if there
	// is none.
	Other bool
	// Progress, if set, is told how far long work is, in bytes, one call at a time.
	Progress func(what string, done, total int64)
	Log      *slog.Logger // nil: silent
}

// Master is a disk that is brought home. Its methods are called by one goroutine.
type Master struct {
	cfg   Config
	id    string     // of the disk
	read  *disk.Disk // sees past caches
	write *os.File   // held for nobody else
	rec   *record

	window uint64 // blocks
}

// Open opens the disk for writing, or says with ErrRefused why that must not be. No other
// Master may be open for the same StateDir and disk, which is checked.
func Open(ctx context.Context, cfg Config) (_ *Master, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	if cfg.Size == 0 || cfg.Size > 1<<62 {
		return nil, fmt.Errorf("%w: %s would have %d bytes", ErrRefused, cfg.Disk, cfg.Size)
	}
	m := &Master{cfg: cfg, window: windowBlocks}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if err := m.make(); err != nil {
		return nil, err
	}
	if m.read, err = disk.Open(cfg.Path); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m.id = m.read.Identity()
	if err := m.suits(ctx); err != nil {
		return nil, err
	}
	if err := m.hold(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("directory of the record: %w", err)
	}
	if m.rec, err = m.load(); err != nil {
		return nil, err
	}
	return m, nil
}

// make makes an image of the right size if that was asked for.
func (m *Master) make() error {
	c := &m.cfg
	if !c.Other || strings.HasPrefix(filepath.Clean(c.Path), "/dev/") {
		return nil
	}
	st, err := os.Stat(c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f, err := os.OpenFile(c.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("make image: %w", err)
		}
		return errors.Join(f.Truncate(int64(c.Size)), f.Sync(), f.Close())
	case err != nil:
		return err
	case st.Mode().IsRegular() && st.Size() == 0:
		return os.Truncate(c.Path, int64(c.Size))
	}
	return nil
}

// suits says why the disk is not the one to write to.
func (m *Master) suits(ctx context.Context) error {
	c := &m.cfg
	size := m.read.Size()
	switch {
	case size < c.Size:
		return fmt.Errorf("%w: %s has %d bytes, disk %s needs %d: name a larger one", ErrRefused, c.Path, size, c.Disk, c.Size)
	case size > c.Size && !m.read.IsBlock():
		return fmt.Errorf("%w: image %s has %d bytes, disk %s has %d: name the right one, or one that does not exist yet", ErrRefused, c.Path, size, c.Disk, c.Size)
	case size > c.Size && !c.Other:
		return fmt.Errorf("%w: %s has %d bytes, disk %s had %d: name the right one, or say that another may be overwritten", ErrRefused, c.Path, size, c.Disk, c.Size)
	case c.Other:
		return nil
	}
	want, err := m.original(ctx)
	if err != nil {
		return err
	}
	if want == "" || want != m.id {
		return fmt.Errorf("%w: %s is %s, disk %s of machine %s was %s: name that one, or say that another disk may be overwritten",
			ErrRefused, c.Path, cmp.Or(m.id, "a disk without identity"), c.Disk.Disk, c.Disk.Machine, cmp.Or(want, "of unknown identity"))
	}
	return nil
}

// original returns the identity of the disk that the machine's agent protected, "" if it
// is not known.
func (m *Master) original(ctx context.Context) (string, error) {
	w, err := m.cfg.Vault.Epochs(ctx, m.cfg.Disk)
	if err != nil {
		return "", fmt.Errorf("who protected disk %s: %w", m.cfg.Disk, err)
	}
	for i := len(w) - 1; i >= 0; i-- {
		o, err := m.cfg.Vault.Opened(ctx, m.cfg.Disk, w[i])
		if errors.Is(err, vault.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		if o.Identity != "" {
			return o.Identity, nil
		}
	}
	return "", nil
}

// hold opens the disk for writing and keeps everybody else out.
func (m *Master) hold() error {
	path := m.cfg.Path
	flags := os.O_RDWR
	if m.read.IsBlock() {
		flags |= unix.O_EXCL // the kernel refuses if it, or a part of it, is in use
	}
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %s is in use%s: boot the machine from something else, or unmount it", ErrRefused, path, m.user())
	}
	if err != nil {
		return fmt.Errorf("open disk for writing: %w", err)
	}
	m.write = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %s is being written by another process: %w", ErrRefused, path, err)
	}
	if m.read.IsBlock() {
		return nil
	}
	if loop := loopOver(path); loop != "" {
		return fmt.Errorf("%w: image %s is in use by %s: detach that (losetup -d %s), or name it instead", ErrRefused, path, loop, loop)
	}
	return nil
}

// user tells who uses the disk, as far as mounts say it: " (mounted at /x)", or "".
func (m *Master) user() string {
	u, err := disk.Inspect(m.read)
	if err != nil {
		return ""
	}
	for _, x := range u.Mounts {
		return fmt.Sprintf(" (mounted at %s)", x.Path)
	}
	for _, x := range u.Swaps {
		return fmt.Sprintf(" (for swap, %s)", x.Path)
	}
	return ""
}

// loopOver returns the loop device over an image, "" if there is none.
func loopOver(path string) string {
	mine, err := os.Stat(path)
	if err != nil {
		return ""
	}
	all, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return ""
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it went meanwhile
		}
		if st, err := os.Stat(strings.TrimSuffix(string(b), "\n")); err == nil && os.SameFile(st, mine) {
			return "/dev/" + strings.Split(p, "/")[3]
		}
	}
	return ""
}

// Close lets the disk go. What was brought stays recorded.
func (m *Master) Close() error {
	var errs []error
	if m.write != nil {
		errs = append(errs, m.write.Close())
	}
	if m.read != nil {
		errs = append(errs, m.read.Close())
	}
	m.write, m.read = nil, nil
	return errors.Join(errs...)
}
