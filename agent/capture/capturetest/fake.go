package capturetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/leeward-dr/leeward/agent/capture"
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
}

var _ capture.Source = (*Fake)(nil)

// NewFake makes a disk of zeros of so many bytes.
func NewFake(size int64) *Fake {
	blocks := (size + capture.BlockSize - 1) / capture.BlockSize
	return &Fake{data: make([]byte, blocks*capture.BlockSize), size: size, set: new(capture.Set)}
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
	if n == 0 || !f.started {
		return n, nil
	}
	f.writes++
	if f.blind {
		return n, nil
	}
	f.seen++
	first, last := uint64(off)/capture.BlockSize, (uint64(off)+uint64(n)-1)/capture.BlockSize
	f.set.Add(first, last-first+1)
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

// Start implements capture.Source.
func (f *Fake) Start(ctx context.Context) error {
	f.locked(func() { f.started, f.writes, f.seen = true, 0, 0 })
	return ctx.Err()
}

// Take implements capture.Source.
func (f *Fake) Take(ctx context.Context) (*capture.Set, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.started {
		return nil, errors.New("fake source is not started")
	}
	if err := errors.Join(ctx.Err(), f.takeErr); err != nil {
		return nil, err
	}
	if f.lost {
		return nil, f.lose()
	}
	taken := f.set
	f.set = new(capture.Set)
	return taken, nil
}

// lose reports a loss and goes on from here.
func (f *Fake) lose() error {
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
	if f.lost || f.writes != f.seen {
		return f.lose()
	}
	return ctx.Err()
}

// Close implements capture.Source. The disk stays.
func (f *Fake) Close() error {
	f.locked(func() { f.started = false })
	return nil
}
