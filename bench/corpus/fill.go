package corpus

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Shares of the disk's size, in percent; see the package comment.
const (
	shareFiles = 42
	shareTable = 8
	shareNoise = 8
	shareStale = 6
)

// contents puts everything that stays on the disk.
func (c *Corpus) contents(ctx context.Context, s *source, p put) error {
	want := c.Size / 100 * shareFiles
	got, err := s.copyFiles(ctx, "", want, p)
	if err != nil {
		return err
	}
	c.Parts["files"] = got
	table := c.Size/100*shareTable + max(0, want-got)
	if err := s.tables(ctx, "rows", table, p); err != nil {
		return err
	}
	c.Parts["tables"] = table
	c.Parts["noise"] = c.Size / 100 * shareNoise
	return s.noiseFiles(ctx, c.Parts["noise"], p)
}

// stale puts what will be deleted.
func (c *Corpus) stale(ctx context.Context, s *source, p put) error {
	want := c.Size / 100 * shareStale
	got, err := s.copyFiles(ctx, "old", want, p)
	if err != nil {
		return err
	}
	c.Parts["stale"] = max(got, want)
	return s.tables(ctx, "old", max(0, want-got), p)
}

// fillExt4 makes a filesystem and fills it through a mount.
func fillExt4(ctx context.Context, c *Corpus, s *source) (err error) {
	// The mount belongs to this function, not to the bench: nothing of it may stay
	// while the image is measured.
	r, err := rig.New("", nil)
	if err != nil {
		return err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	if err := rig.Mkfs(ctx, "ext4", c.Base); err != nil {
		return err
	}
	dev, err := r.Loop(ctx, c.Base)
	if err != nil {
		return err
	}
	dir, unmount, err := r.Mount(ctx, "disk", "ext4", dev, "noatime")
	if err != nil {
		return err
	}
	p := func(_ context.Context, name string, in io.Reader, _ int64) error {
		return write(filepath.Join(dir, name), in)
	}
	if err := c.contents(ctx, s, p); err != nil {
		return err
	}
	if err := c.stale(ctx, s, func(ctx context.Context, name string, in io.Reader, n int64) error {
		return p(ctx, filepath.Join("deleted", name), in, n)
	}); err != nil {
		return err
	}
	// Only what has reached the disk is there to be found after it was deleted.
	if err := rig.Syncfs(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "deleted")); err != nil {
		return err
	}
	if err := unmount(); err != nil {
		return err
	}
	return rig.Syncfs(c.Base)
}

func write(path string, in io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, in); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// fillPlain lays the contents out one after the other, with a gap after each
// stretch so that zeros lie between, as on a disk in use.
func fillPlain(ctx context.Context, c *Corpus, s *source) error {
	f, err := os.OpenFile(c.Base, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	at, stretch := int64(0), int64(0)
	used := c.Size / 100 * (shareFiles + shareTable + shareNoise + shareStale)
	p := func(_ context.Context, name string, in io.Reader, n int64) error {
		n = min(n, c.Size-at)
		if _, err := io.Copy(io.NewOffsetWriter(f, at), io.LimitReader(in, n)); err != nil {
			return fmt.Errorf("lay out %s: %w", name, err)
		}
		n = (n + Block - 1) &^ (Block - 1)
		at, stretch = at+n, stretch+n
		if stretch >= 8<<20 {
			gap := int64(float64(stretch) * float64(c.Size-used) / float64(used) * 0.9)
			at, stretch = min(c.Size, at+gap&^(Block-1)), 0
		}
		return nil
	}
	err = c.contents(ctx, s, p)
	if err == nil {
		err = c.stale(ctx, s, p)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
