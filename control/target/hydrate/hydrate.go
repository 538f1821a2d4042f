package hydrate

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

const (
	chunk = 1 << 20 // what is copied at once, in bytes
	// queue is how many chunks the machine may touch before they are copied; what does not
	// fit comes with the rest.
	queue = 1024
	// flushEvery is how much may have to be copied again after a crash, in bytes.
	flushEvery = 256 << 20
	// quiet is how long the machine must not have read from the vault before what it did
	// not ask for is copied; but not longer than patience.
	quiet    = 20 * time.Millisecond
	patience = time.Second
	// again is how long to wait before what failed is tried again.
	again = 5 * time.Second
	// Reserve is how much room a copy leaves where it is, in bytes: the machine's own writes
	// need it.
	Reserve = 2 << 30
)

// Copy is the local copy of one disk, and what is below it. It is a target.Disk, with the
// same content.
type Copy struct {
	target.Disk
	below *overlay.Overlay
	path  string
	// room says how many bytes are free; a variable for tests.
	room    func() (int64, error)
	reserve int64
	again   time.Duration

	total   int64
	done    atomic.Int64
	whole   atomic.Bool
	touched chan int64   // chunks
	last    atomic.Int64 // when the machine read from the vault, in Unix nanoseconds

	mu  sync.Mutex
	why string
}

// Status is how far a copy is.
type Status struct {
	Done  int64  `json:"done_bytes"`
	Total int64  `json:"total_bytes"`             // that may hold data; the rest is zeros
	Whole bool   `json:"whole"`                   // all is here and verified: the vault is not needed
	Why   string `json:"waits_because,omitempty"` // it stands still
}

// Add puts the status of another disk to it.
func (s Status) Add(o Status) Status {
	s.Done, s.Total, s.Whole = s.Done+o.Done, s.Total+o.Total, s.Whole && o.Whole
	if s.Why == "" {
		s.Why = o.Why
	}
	return s
}

// Open returns the copy of d at path, with what was copied before.
func Open(d target.Disk, path string) (*Copy, error) {
	below, err := overlay.Open(d, path)
	if err != nil {
		return nil, err
	}
	c := &Copy{Disk: d, below: below, path: path, reserve: Reserve, again: again, touched: make(chan int64, queue)}
	c.room = c.free
	d.Extents(func(_, length int64) bool { c.total += length; return true })
	var done int64
	below.Changed(func(_, length int64, _ bool) bool { done += length; return true })
	c.done.Store(done)
	b, err := os.ReadFile(c.mark())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, errors.Join(err, below.Close())
	default:
		c.whole.Store(strings.TrimSpace(string(b)) == c.digest())
	}
	return c, nil
}

func (c *Copy) mark() string { return c.path + ".whole" }

func (c *Copy) digest() string {
	d := c.Digest()
	return hex.EncodeToString(d[:])
}

// Close closes the files, which stay. Run must have returned.
func (c *Copy) Close() error { return c.below.Close() }

// Status says how far it is.
func (c *Copy) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{Done: min(c.done.Load(), c.total), Total: c.total, Whole: c.whole.Load(), Why: c.why}
}

func (c *Copy) waits(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.why = why
}

// ReadAt reads for the machine, and remembers what it wanted.
func (c *Copy) ReadAt(p []byte, off int64) (int, error) {
	if !c.whole.Load() {
		c.last.Store(time.Now().UnixNano())
		for at := off / chunk; at*chunk < off+int64(len(p)); at++ {
			select {
			case c.touched <- at:
			default:
			}
		}
	}
	return c.below.ReadAt(p, off)
}

// Run copies until all is here and verified, or ctx ends. What fails is tried again; an
// error means that the copy is not what the point promises, or cannot be kept.
func (c *Copy) Run(ctx context.Context) error {
	if c.whole.Load() {
		return nil
	}
	err := c.copyAll(ctx)
	if err == nil {
		err = c.verify(ctx)
	}
	if ctx.Err() != nil {
		return c.below.Flush() // for the next one
	}
	if err != nil {
		c.waits(err.Error())
		return err
	}
	c.waits("")
	return nil
}

// copyAll brings every chunk here: those that the machine touched, what lies behind them,
// and round the disk until a round finds nothing.
func (c *Copy) copyAll(ctx context.Context) error {
	chunks := (c.Size() + chunk - 1) / chunk
	var since int64 // copied since the last flush
	// clean is how many chunks in a row, up to next, had nothing to copy.
	for next, clean := int64(0), int64(0); clean < chunks; {
		at, wanted := next%chunks, false
		select {
		case at = <-c.touched:
			wanted = true
		default:
		}
		n, err := c.one(ctx, at, wanted)
		if err != nil {
			return err
		}
		switch {
		case n > 0:
			next, clean = at+1, 0
		case !wanted: // one that the machine wanted and that was here leads nowhere
			next, clean = at+1, clean+1
		}
		if since += n; since >= flushEvery {
			since = 0
			if err := c.below.Flush(); err != nil {
				return err
			}
		}
	}
	return c.below.Flush()
}

// one copies a chunk, however long that takes.
func (c *Copy) one(ctx context.Context, at int64, wanted bool) (int64, error) {
	off := at * chunk
	length := min(chunk, c.Size()-off)
	if !c.missing(off, length) {
		return 0, ctx.Err()
	}
	if !wanted {
		c.giveWay(ctx)
	}
	var filled int64
	for {
		err := c.roomFor(length)
		if err == nil {
			var n int64
			n, err = c.below.Fill(off, length)
			filled += n
			c.done.Add(n)
		}
		if err == nil {
			c.waits("")
			return filled, ctx.Err()
		}
		c.waits(err.Error())
		if !sleep(ctx, c.again) {
			return filled, ctx.Err()
		}
	}
}

// missing says whether anything of a range is still in the vault only.
func (c *Copy) missing(off, length int64) bool { return c.below.Missing(off, length) > 0 }

// giveWay waits until the machine wants nothing from the vault, for a while.
func (c *Copy) giveWay(ctx context.Context) {
	for begin := time.Now(); time.Since(begin) < patience; {
		idle := time.Since(time.Unix(0, c.last.Load()))
		if idle >= quiet || !sleep(ctx, quiet-idle) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *Copy) roomFor(n int64) error {
	free, err := c.room()
	if err != nil {
		return err
	}
	if free-n < c.reserve {
		return fmt.Errorf("%d bytes are free at %s, and %d are left for the machine itself: make room there", free, c.path, c.reserve)
	}
	return nil
}

func (c *Copy) free() (int64, error) {
	dir := c.path[:strings.LastIndexByte(c.path, '/')+1] + "."
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("look at %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// verify reads the copy back and compares it with the promise of the point.
func (c *Copy) verify(ctx context.Context) error {
	v, ok := c.Disk.(target.Verifier)
	if n := c.below.Missing(0, c.Size()); n > 0 {
		return fmt.Errorf("%d bytes of disk %s were not copied", n, c.Name())
	}
	if !ok {
		return fmt.Errorf("disk %s cannot say whether its copy is right", c.Name())
	}
	if err := v.Verify(ctx, c.below); err != nil {
		return fmt.Errorf("the local copy of disk %s: %w", c.Name(), err)
	}
	if err := os.WriteFile(c.mark(), []byte(c.digest()+"\n"), 0o600); err != nil {
		return err
	}
	c.whole.Store(true)
	return nil
}
