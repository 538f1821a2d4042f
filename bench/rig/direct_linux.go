package rig

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Block is the unit in which images are compared, in bytes.
const Block = 4096

// Chunk is how much is read at once, in bytes.
const Chunk = 1 << 20

// Image is what is remembered of a disk's content: enough to prove that another is
// equal, and to name the blocks that are not.
type Image struct {
	Size   int64
	SHA256 [sha256.Size]byte // of all bytes
	Blocks []uint32          // CRC-32C of every block
}

// Zeros counts the blocks of zeros that are something else in b: what a discard leaves.
func (a *Image) Zeros(b *Image) (count int) {
	zeros := crc32.Checksum(make([]byte, Block), crc32.MakeTable(crc32.Castagnoli))
	for i := range min(len(a.Blocks), len(b.Blocks)) {
		if a.Blocks[i] == zeros && b.Blocks[i] != zeros {
			count++
		}
	}
	return count
}

// Differ lists at most limit blocks in which two images differ.
func (a *Image) Differ(b *Image, limit int) (blocks []int, count int) {
	for i := range min(len(a.Blocks), len(b.Blocks)) {
		if a.Blocks[i] != b.Blocks[i] {
			if count++; len(blocks) < limit {
				blocks = append(blocks, i)
			}
		}
	}
	return blocks, count
}

// Aligned allocates n bytes fit for direct I/O.
func Aligned(n int) []byte {
	b := make([]byte, n+Block)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (Block - 1))
	return b[off : off+n : off+n]
}

// ReadDirect reads a device or file past the page cache and calls fn for each
// piece in order. Where the filesystem refuses direct I/O it says so.
func ReadDirect(ctx context.Context, path string, fn func(off int64, p []byte) error) (err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s past the page cache: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return pieces(ctx, f, fn)
}

// ReadCached reads a file the ordinary way and calls fn for each piece in order.
func ReadCached(ctx context.Context, path string, fn func(off int64, p []byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return pieces(ctx, f, fn)
}

// pieces reads one piece ahead of fn.
func pieces(ctx context.Context, f *os.File, fn func(off int64, p []byte) error) error {
	type piece struct {
		p   []byte
		err error
	}
	free, full := make(chan []byte, 3), make(chan piece, 1)
	for range 3 {
		free <- Aligned(Chunk)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for off := int64(0); ; {
			var b []byte
			select {
			case b = <-free:
			case <-stop:
				return
			}
			n, err := f.ReadAt(b, off)
			off += int64(n)
			if errors.Is(err, io.EOF) {
				err = io.EOF
			}
			select {
			case full <- piece{b[:n], err}:
			case <-stop:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for off := int64(0); ; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		x := <-full
		if x.err != nil && x.err != io.EOF {
			return x.err
		}
		if len(x.p) > 0 {
			if err := fn(off, x.p); err != nil {
				return err
			}
		}
		off += int64(len(x.p))
		if x.err == io.EOF {
			return nil
		}
		free <- x.p[:cap(x.p)]
	}
}

// DeviceImage reads a whole device or file past the page cache.
func DeviceImage(ctx context.Context, path string) (*Image, error) {
	return image(ctx, path, ReadDirect)
}

// FileImage reads a whole file.
func FileImage(ctx context.Context, path string) (*Image, error) {
	return image(ctx, path, ReadCached)
}

func image(ctx context.Context, path string, read func(context.Context, string, func(int64, []byte) error) error) (*Image, error) {
	m, table, whole := new(Image), crc32.MakeTable(crc32.Castagnoli), sha256.New()
	err := read(ctx, path, func(off int64, p []byte) error {
		whole.Write(p)
		m.Size = off + int64(len(p))
		for len(p) > 0 {
			n := min(Block, len(p))
			m.Blocks = append(m.Blocks, crc32.Checksum(p[:n], table))
			p = p[n:]
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	whole.Sum(m.SHA256[:0])
	return m, nil
}
