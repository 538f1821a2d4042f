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

	"github.com/leeward-dr/leeward/agent/disk/home"
	"github.com/leeward-dr/leeward/consumers/vault"
)

// ErrRefused means that the disk is not written to, for a reason that the message names.
var ErrRefused = home.ErrRefused

// Config says what to bring home, and where that is.
type Config struct {
	Vault *vault.Vault
	Disk  vault.DiskID
	Path  string // block device or image file on this host
	// Rescue, if set, has the disk: a machine that was booted from a live system, where an
	// operator said which of its disks may be overwritten with this one. Path and Other mean
	// nothing then.
	Rescue *Rescue
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
	cfg Config
	id  string // of the disk
	dev device
	rec *record

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
	if err := m.open(ctx); err != nil {
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

// open opens the disk and holds it, or says why it must not be written to.
func (m *Master) open(ctx context.Context) error {
	if m.cfg.Rescue != nil {
		f, err := m.cfg.Rescue.open(ctx, m.cfg.Disk.Disk, m.cfg.Size)
		if err != nil {
			return err
		}
		m.dev, m.id = f, f.identity()
		m.cfg.Path = f.String()
		m.cfg.Progress = f.progress(m.cfg.Progress)
		return nil
	}
	if err := m.make(); err != nil {
		return err
	}
	d, err := home.Open(m.cfg.Path)
	if err != nil {
		return err
	}
	m.dev, m.id = &local{d, m.cfg.Size}, d.Identity()
	if err := m.suits(ctx, d); err != nil {
		return err
	}
	return d.Hold()
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
func (m *Master) suits(ctx context.Context, d *home.Disk) error {
	c := &m.cfg
	size := d.Size()
	switch {
	case size < c.Size:
		return fmt.Errorf("%w: %s has %d bytes, disk %s needs %d: name a larger one", ErrRefused, c.Path, size, c.Disk, c.Size)
	case size > c.Size && !d.IsBlock():
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

// Close lets the disk go. What was brought stays recorded.
func (m *Master) Close() error {
	var errs []error
	if m.dev != nil {
		errs = append(errs, m.dev.close())
	}
	m.dev = nil
	return errors.Join(errs...)
}
