package targettest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/control/target"
)

// Disk is a target.Restorer over bytes in memory or an image file. Its digest is the XOR
// of the SHA-256 of every block that is not zero, with its index before it: like the
// vault's it does not depend on the order of the blocks, and it is not the vault's.
type Disk struct {
	io.ReaderAt
	name    string
	size    int64
	extents [][2]int64 // offset, length
	digest  [32]byte
	broken  atomic.Bool
}

// errBroken is what a broken disk answers.
var errBroken = errors.New("the disk is broken, as the test wants it")

// Mem returns a disk that holds data. Its extents are the runs of blocks that are not
// all zero.
func Mem(name string, data []byte) *Disk {
	d := &Disk{ReaderAt: newBytes(data), name: name, size: int64(len(data))}
	h := new(hash)
	for off := 0; off < len(data); off += target.BlockSize {
		b := data[off:min(off+target.BlockSize, len(data))]
		if zero(b) {
			continue
		}
		h.block(int64(off/target.BlockSize), padded(b))
		d.add(int64(off), int64(len(b)))
	}
	d.digest = h.sum
	return d
}

// Image returns a disk over a file, closed when the test ends. Its extents are what
// the file system has allocated.
func Image(t testing.TB, name, path string) *Disk {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d := &Disk{ReaderAt: f, name: name, size: st.Size()}
	for off := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		end, err2 := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		d.add(data, end-data)
		off = end
	}
	h := new(hash)
	buf := make([]byte, target.BlockSize)
	for _, e := range d.extents {
		for off := e[0]; off < e[0]+e[1]; off += target.BlockSize {
			clear(buf)
			if _, err := f.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			h.block(off/target.BlockSize, buf)
		}
	}
	d.digest = h.sum
	return d
}

// add appends an extent, one with the last if they touch.
func (d *Disk) add(off, length int64) {
	if n := len(d.extents); n > 0 && d.extents[n-1][0]+d.extents[n-1][1] == off {
		d.extents[n-1][1] += length
		return
	}
	d.extents = append(d.extents, [2]int64{off, length})
}

// Break makes every read fail from now on, or no longer.
func (d *Disk) Break(broken bool) { d.broken.Store(broken) }

// Lie gives the disk a digest that its content has not.
func (d *Disk) Lie() { d.digest[0] ^= 1 }

// Name returns the name of the disk.
func (d *Disk) Name() string { return d.name }

// Size returns the size in bytes.
func (d *Disk) Size() int64 { return d.size }

// Digest returns the digest of the content.
func (d *Disk) Digest() [32]byte { return d.digest }

// Extents calls yield for what may hold data.
func (d *Disk) Extents(yield func(off, length int64) bool) {
	for _, e := range d.extents {
		if !yield(e[0], e[1]) {
			return
		}
	}
}

// ReadAt reads the content.
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	if d.broken.Load() {
		return 0, fmt.Errorf("read %d bytes at %d: %w", len(p), off, errBroken)
	}
	return d.ReaderAt.ReadAt(p, off)
}

// hash computes a Disk's digest.
type hash struct{ sum [32]byte }

func (h *hash) block(index int64, data []byte) {
	if zero(data) {
		return
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(data)), uint64(index))
	s := sha256.Sum256(append(b, data...))
	for i := range s {
		h.sum[i] ^= s[i]
	}
}

// Restore writes the content to dst, the last extent first.
func (d *Disk) Restore(ctx context.Context, dst io.WriterAt, progress target.Progress) error {
	h := new(hash)
	var done int64
	for i := len(d.extents) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := d.extents[i]
		buf := make([]byte, e[1])
		if _, err := d.ReadAt(buf, e[0]); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for off := int64(0); off < e[1]; off += target.BlockSize {
			h.block((e[0]+off)/target.BlockSize, padded(buf[off:min(off+target.BlockSize, e[1])]))
		}
		if _, err := dst.WriteAt(buf, e[0]); err != nil {
			return err
		}
		done += e[1]
		if progress != nil {
			progress("restore "+d.name, done, d.size)
		}
	}
	if h.sum != d.digest {
		return fmt.Errorf("disk %s has not the digest that was promised", d.name)
	}
	return nil
}

// Verify fails unless src has the digest.
func (d *Disk) Verify(ctx context.Context, src io.ReaderAt) error {
	h := new(hash)
	buf := make([]byte, target.BlockSize)
	for off := int64(0); off < d.size; off += target.BlockSize {
		clear(buf)
		if _, err := src.ReadAt(buf[:min(target.BlockSize, d.size-off)], off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		h.block(off/target.BlockSize, buf)
	}
	if h.sum != d.digest {
		return fmt.Errorf("disk %s: the copy has not the digest that was promised", d.name)
	}
	return ctx.Err()
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func padded(b []byte) []byte {
	if len(b) == target.BlockSize {
		return b
	}
	return append(b[:len(b):len(b)], make([]byte, target.BlockSize-len(b))...)
}

func newBytes(b []byte) io.ReaderAt { return byteReader(b) }

type byteReader []byte

func (b byteReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
