package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Churn makes, grows, holes, cuts, renames and deletes files below Dir until its
// context ends, at most Room bytes of them.
type Churn struct {
	Dir   string
	Room  int64
	Seed  uint64
	Pause time.Duration // between two steps
	Trim  time.Duration // between two fstrims; 0: never

	rnd   *rand.Rand
	noise *rand.ChaCha8
	files []string
	sizes map[string]int64
	total int64
	next  int
	buf   []byte
}

// Run churns. It returns nil when ctx ends.
func (c *Churn) Run(ctx context.Context) error {
	c.rnd = rand.New(rand.NewPCG(c.Seed, 7))
	c.noise = rand.NewChaCha8([32]byte{byte(c.Seed), byte(c.Seed >> 8), 9})
	c.sizes, c.buf = map[string]int64{}, make([]byte, 1<<20)
	if err := os.MkdirAll(filepath.Join(c.Dir, "churn"), 0o755); err != nil {
		return err
	}
	trimmed := time.Now()
	t := time.NewTicker(max(c.Pause, time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if err := c.step(); err != nil {
			return fmt.Errorf("churn: %w", err)
		}
		if c.Trim > 0 && time.Since(trimmed) > c.Trim {
			trimmed = time.Now()
			// Not every filesystem can be trimmed on every device; it is extra spice.
			_, _ = rig.Run(ctx, "fstrim", c.Dir)
		}
	}
}

func (c *Churn) step() error {
	if len(c.files) == 0 || c.total < c.Room/2 && c.rnd.IntN(3) > 0 {
		return full(c.create())
	}
	if c.total > c.Room {
		return c.remove()
	}
	path := c.files[c.rnd.IntN(len(c.files))]
	switch c.rnd.IntN(8) {
	case 0:
		return full(c.create())
	case 1:
		return c.remove()
	case 2:
		n := c.rnd.Int64N(c.sizes[path] + 1)
		c.total += n - c.sizes[path]
		c.sizes[path] = n
		return full(os.Truncate(path, n))
	case 3:
		return full(c.hole(path))
	case 4:
		to := filepath.Join(filepath.Dir(path), fmt.Sprintf("r%d", c.next))
		c.next++
		for i := range c.files {
			if c.files[i] == path {
				c.files[i] = to
			}
		}
		c.sizes[to] = c.sizes[path]
		delete(c.sizes, path)
		return full(os.Rename(path, to))
	default:
		return full(c.write(path, c.rnd.Int64N(c.sizes[path]+1), c.rnd.IntN(2) == 0))
	}
}

// full forgives a full filesystem: the next steps make room.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return err
}

func (c *Churn) create() error {
	path := filepath.Join(c.Dir, "churn", fmt.Sprintf("f%d", c.next))
	c.next++
	c.files = append(c.files, path)
	c.sizes[path] = 0
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return c.write(path, 0, c.rnd.IntN(4) == 0)
}

// write puts up to 512 KiB at off, some of it compressible.
func (c *Churn) write(path string, off int64, sync bool) error {
	p := c.buf[:1+c.rnd.IntN(512<<10)]
	if c.rnd.IntN(2) == 0 {
		c.noise.Read(p)
	} else {
		for i := 0; i < len(p); i += 64 {
			copy(p[i:], fmt.Sprintf("%-63d\n", c.next*1000003+i))
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	n, err := f.WriteAt(p, off)
	if grown := off + int64(n) - c.sizes[path]; grown > 0 {
		c.sizes[path] += grown
		c.total += grown
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func (c *Churn) hole(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	off := c.rnd.Int64N(c.sizes[path]+1) &^ 4095
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, 4096*int64(1+c.rnd.IntN(32)))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

func (c *Churn) remove() error {
	i := c.rnd.IntN(len(c.files))
	path := c.files[i]
	c.files[i] = c.files[len(c.files)-1]
	c.files = c.files[:len(c.files)-1]
	c.total -= c.sizes[path]
	delete(c.sizes, path)
	return os.Remove(path)
}
