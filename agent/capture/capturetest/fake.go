package capturetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
)

// Fake is a disk in memory that follows its own writes: a capture.Source and what
// it follows in one. It is safe for use by many goroutines.
type Fake struct {
	mu      sync.Mutex
	data    []byte
	size    int64
	started bool
	set     *capture.Set
	writes  uint64 // since Start
	seen    uint64 // of these the source knows
	blind   bool
	lost    bool
	takeErr error
	other   bool // another disk is in its place

	lacks   *capture.Set // what the vault lacks against mark
	closed  *capture.Set // the part that is in the chain up to sealed
	mark    *capture.Mark
	sealed  *capture.Mark
	last    uint64 // epoch
	resumed error
	discard bool
}

var (
	_ capture.Source = (*Fake)(nil)
	_ capture.Keeper = (*Fake)(nil)
)

// NewFake makes a disk of zeros of so many bytes.
func NewFake(size int64) *Fake {
	blocks := (size + capture.BlockSize - 1) / capture.BlockSize
	return &Fake{data: make([]byte, blocks*capture.BlockSize), size: size, set: new(capture.Set), lacks: new(capture.Set), closed: new(capture.Set)}
}

// Path is a name for messages.
func (f *Fake) Path() string { return "fake" }

// Size is the size in bytes.
func (f *Fake) Size() uint64 { return uint64(f.size) }

// Blocks is the size in blocks, rounded up.
func (f *Fake) Blocks() uint64 { return uint64(len(f.data) / capture.BlockSize) }

// WriteAt writes to the disk like its owner.
func (f *Fake) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || off > f.size || int64(len(p)) > f.size-off {
		return 0, io.ErrShortWrite
	}
	n := copy(f.data[off:], p)
	if n == 0 {
		return n, nil
	}
	f.writes++
	if f.blind {
		return n, nil
	}
	f.seen++
	first, last := uint64(off)/capture.BlockSize, (uint64(off)+uint64(n)-1)/capture.BlockSize
	f.lacks.Add(first, last-first+1)
	if f.started {
		f.set.Add(first, last-first+1)
	}
	return n, nil
}

// ReadBlocks reads like disk.Disk does.
func (f *Fake) ReadBlocks(ctx context.Context, start uint64, buf []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(buf)%capture.BlockSize != 0 || start > f.Blocks() || uint64(len(buf)/capture.BlockSize) > f.Blocks()-start {
		return fmt.Errorf("fake: cannot read %d bytes at block %d", len(buf), start)
	}
	copy(buf, f.data[start*capture.BlockSize:])
	return ctx.Err()
}

// Lose makes the next Take or Audit report a loss.
func (f *Fake) Lose() { f.locked(func() { f.lost = true }) }

// Blind makes writes invisible to the source until it is called with false; only
// Audit can tell.
func (f *Fake) Blind(on bool) { f.locked(func() { f.blind = on }) }

// Replace puts another disk in the place of this one.
func (f *Fake) Replace() { f.locked(func() { f.other = true }) }

// FailTakes makes every Take fail with err until it is called with nil.
func (f *Fake) FailTakes(err error) { f.locked(func() { f.takeErr = err }) }

func (f *Fake) locked(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
}

// Name implements capture.Source.
func (f *Fake) Name() string { return "fake" }

// Guarantee implements capture.Source.
func (f *Fake) Guarantee() string { return "exact, being in memory" }

// Cheap implements capture.Source.
func (f *Fake) Cheap() bool { return true }

// Start implements capture.Source. After Close it takes over what was kept.
func (f *Fake) Start(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started, f.set, f.resumed = true, new(capture.Set), nil
	if f.mark == nil {
		f.resumed = errors.New("nothing was kept")
		f.writes, f.seen, f.lacks = 0, 0, new(capture.Set)
		return ctx.Err()
	}
	f.unseal()
	f.set.Merge(f.lacks)
	return ctx.Err()
}

// Take implements capture.Source.
func (f *Fake) Take(ctx context.Context) (*capture.Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		return nil, errors.New("fake source is not started")
	}
	if err := errors.Join(ctx.Err(), f.takeErr, f.present()); err != nil {
		return nil, err
	}
	if f.lost {
		return nil, f.lose()
	}
	taken := f.set
	f.set = new(capture.Set)
	return taken, nil
}

func (f *Fake) present() error {
	if f.other {
		return fmt.Errorf("fake %w", disk.ErrReplaced)
	}
	return nil
}

// lose reports a loss and goes on from here.
func (f *Fake) lose() error {
	f.void()
	f.lost, f.writes, f.seen, f.set = false, 0, 0, new(capture.Set)
	return fmt.Errorf("fake: %w", capture.ErrLost)
}

// Audit implements capture.Source.
func (f *Fake) Audit(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		return errors.New("fake source is not started")
	}
	if err := f.present(); err != nil {
		return err
	}
	if f.lost || f.writes != f.seen {
		return f.lose()
	}
	return ctx.Err()
}

// Close implements capture.Source. The disk stays, and writes to it are recorded,
// unless Discard was called.
func (f *Fake) Close() error {
	f.locked(func() {
		f.started = false
		if f.discard {
			f.void()
		}
	})
	return nil
}

// Resumed implements capture.Keeper.
func (f *Fake) Resumed() (err error) {
	f.locked(func() { err = f.resumed })
	return err
}

// Fits implements capture.Keeper.
func (f *Fake) Fits(base capture.Mark) (err error) {
	f.locked(func() {
		if m := f.mark; m == nil || base.Epoch < m.Epoch || base.Epoch == m.Epoch && base.Number < m.Number || base.Epoch > f.last {
			err = fmt.Errorf("a vault at %v does not fit %v", base, m)
		}
	})
	return err
}

// Opening implements capture.Keeper.
func (f *Fake) Opening(epoch uint64) { f.locked(func() { f.last = epoch; f.unseal() }) }

// Seal implements capture.Keeper.
func (f *Fake) Seal(m capture.Mark) {
	f.locked(func() {
		if f.sealed == nil {
			f.closed, f.lacks, f.sealed = f.lacks, new(capture.Set), &m
			f.lacks.Merge(f.set)
		}
	})
}

// Confirm implements capture.Keeper.
func (f *Fake) Confirm(m capture.Mark) {
	f.locked(func() {
		if s := f.sealed; s != nil && s.Epoch == m.Epoch && m.Number >= s.Number {
			f.mark, f.sealed, f.closed = s, nil, new(capture.Set)
		}
	})
}

// Void implements capture.Keeper.
func (f *Fake) Void() { f.locked(f.void) }

// Discard implements capture.Keeper.
func (f *Fake) Discard() { f.locked(func() { f.discard = true }) }

func (f *Fake) void() { f.mark = nil; f.unseal() }

func (f *Fake) unseal() {
	f.lacks.Merge(f.closed)
	f.closed, f.sealed = new(capture.Set), nil
}
