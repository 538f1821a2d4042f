package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/leeward-dr/leeward/control/target"
)

// blocks remembers which blocks of a disk were written, a bit each.
type blocks struct {
	mu   sync.Mutex
	size int64 // bytes of the disk
	bits []uint64
}

func newBlocks(size int64) *blocks {
	return &blocks{size: size, bits: make([]uint64, (size/target.BlockSize+64)/64)}
}

// mark adds bytes, which must be whole blocks of the disk.
func (b *blocks) mark(off, length int64) error {
	end := off + length
	if off < 0 || length < 0 || end > b.size || off%target.BlockSize != 0 || end%target.BlockSize != 0 && end != b.size {
		return fmt.Errorf("%d bytes at %d are not whole blocks of a disk of %d", length, off, b.size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := off / target.BlockSize; i*target.BlockSize < end; i++ {
		b.bits[i/64] |= 1 << (i % 64)
	}
	return nil
}

// gaps calls f for every run of bytes that was not marked, in pieces of at most most
// bytes.
func (b *blocks) gaps(most int64, f func(off, length int64) error) error {
	start := int64(-1)
	for i := int64(0); i*target.BlockSize < b.size; i++ {
		off := i * target.BlockSize
		marked := b.bits[i/64]&(1<<(i%64)) != 0
		if start >= 0 && (marked || off-start >= most) {
			if err := f(start, off-start); err != nil {
				return err
			}
			start = -1
		}
		if !marked && start < 0 {
			start = off
		}
	}
	if start >= 0 {
		return f(start, b.size-start)
	}
	return nil
}

// marking passes writes on and remembers them.
type marking struct {
	*blocks
	dst io.WriterAt
}

func (m marking) WriteAt(p []byte, off int64) (int, error) {
	if err := m.mark(off, int64(len(p))); err != nil {
		return 0, err
	}
	return m.dst.WriteAt(p, off)
}

// comparing takes writes to compare them with what is there.
type comparing struct {
	*blocks
	there io.ReaderAt
	pool  sync.Pool
}

func (c *comparing) WriteAt(p []byte, off int64) (int, error) {
	if err := c.mark(off, int64(len(p))); err != nil {
		return 0, err
	}
	buf, _ := c.pool.Get().(*[]byte)
	if buf == nil || cap(*buf) < len(p) {
		b := make([]byte, len(p))
		buf = &b
	}
	defer c.pool.Put(buf)
	got := (*buf)[:len(p)]
	if n, err := c.there.ReadAt(got, off); n < len(got) {
		return 0, fmt.Errorf("read back %d bytes at %d: %w", len(p), off, err)
	}
	if !bytes.Equal(got, p) {
		return 0, fmt.Errorf("what was written at %d, %d bytes, reads back different", off, len(p))
	}
	return len(p), nil
}

// gapSize is how many bytes of zeros are handled at once.
const gapSize = 1 << 20

// compare holds what is there, size bytes and at least those of d, against d. What d
// does not have must be zeros.
func compare(ctx context.Context, d target.Restorer, there io.ReaderAt, size int64, progress target.Progress) error {
	c := &comparing{blocks: newBlocks(size), there: there}
	c.blocks.size = d.Size() // what Restore may write
	if err := d.Restore(ctx, c, func(_ string, done, total int64) { progress("verify "+d.Name(), done, total) }); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	c.blocks.size = size
	buf, zeros := make([]byte, gapSize), make([]byte, gapSize)
	return c.gaps(gapSize, func(off, length int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n, err := there.ReadAt(buf[:length], off); int64(n) < length {
			return fmt.Errorf("verify: read back %d bytes at %d: %w", length, off, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if !bytes.Equal(buf[:length], zeros[:length]) {
			return fmt.Errorf("verify: %d bytes at %d should be zeros and are not", length, off)
		}
		return nil
	})
}
