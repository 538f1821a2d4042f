package overlay

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// PageSize is the unit of copy-on-write in bytes.
const PageSize = 4096

const (
	stripeSize = 1 << 20 // what one lock guards in one piece, in bytes
	stripes    = 64
)

// Base is what lies below an overlay. target.Disk is one.
type Base interface {
	io.ReaderAt
	Size() int64 // bytes
	// Extents calls yield for every run of bytes that may hold data, ascending.
	Extents(yield func(off, length int64) bool)
}

// Stats counts what an overlay did, in bytes.
type Stats struct {
	Read     int64 // returned to readers
	BaseRead int64 // of these and of pages to fill, read from the base
	Written  int64 // taken from writers
}

// Overlay is a writable disk over a Base. Its methods may be called from many
// goroutines; requests in flight that overlap take effect in any order.
type Overlay struct {
	base Base
	size int64
	path string

	// change guards the pages of a stripe against two writers at once: filling a
	// page and replacing it must not mix. Readers take no part in it.
	change [stripes]sync.Mutex

	mu     sync.RWMutex // guards states, file, recent
	states *states
	file   file
	recent recent // nil until Track

	files    files
	unsynced atomic.Bool // something was written to the data file
	flusher  flusher

	read, baseRead, written atomic.Int64
}

// New returns an overlay over base whose changes go to a new file at path, made at
// the first write, and its map beside it.
func New(base Base, path string) (*Overlay, error) {
	for _, p := range []string{path, path + ".map"} {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("overlay file %s: there is something already", p)
		}
	}
	return open(base, path, osFiles{})
}

// Open returns the overlay that has been at path, with all that was flushed, or a new
// one if nothing was. base must be the one it had.
func Open(base Base, path string) (*Overlay, error) { return open(base, path, osFiles{}) }

func open(base Base, path string, fs files) (*Overlay, error) {
	size := base.Size()
	if size < 0 {
		return nil, fmt.Errorf("overlay over a disk of %d bytes", size)
	}
	o := &Overlay{base: base, size: size, path: path, files: fs, states: newStates(pages(size))}
	var err error
	base.Extents(func(off, length int64) bool {
		if off < 0 || length < 0 || off > size || length > size-off {
			err = fmt.Errorf("overlay: the disk of %d bytes has an extent of %d bytes at %d", size, length, off)
			return false
		}
		if length > 0 {
			first := off / PageSize
			o.states.set(first, pages(off+length)-first, isBase)
		}
		return true
	})
	clear(o.states.dirty)
	if err == nil {
		err = o.reopen()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open overlay %s: %w", path, err), o.Close())
	}
	return o, nil
}

// pages returns how many pages n bytes touch.
func pages(n int64) int64 { return (n + PageSize - 1) / PageSize }

// Size returns the size of the disk in bytes.
func (o *Overlay) Size() int64 { return o.size }

// Stats returns what was read and written so far.
func (o *Overlay) Stats() Stats {
	return Stats{Read: o.read.Load(), BaseRead: o.baseRead.Load(), Written: o.written.Load()}
}

// Close closes the files, which stay where they are. It flushes nothing. No other method
// may be running.
func (o *Overlay) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, f := range []*file{&o.file, &o.flusher.pages} {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

// run returns the state at a byte and the end of the run of bytes that share it,
// at most end, with the data file if there is one.
func (o *Overlay) run(off, end int64) (state, int64, file) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	page := off / PageSize
	st, n := o.states.run(page, pages(end)-page)
	return st, min((page+n)*PageSize, end), o.file
}

// check refuses what lies outside the disk.
func (o *Overlay) check(off, length int64) error {
	if off < 0 || length < 0 || off > o.size || length > o.size-off {
		return fmt.Errorf("%d bytes at %d lie outside the disk of %d: %w", length, off, o.size, unix.EINVAL)
	}
	return nil
}

// ReadAt reads what the machine would read.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, o.check(off, 0)
	}
	end := min(off+int64(len(p)), o.size)
	done := 0
	for at := off; at < end; {
		st, next, file := o.run(at, end)
		part := p[at-off : next-off]
		switch st {
		case isHole, isZeroed:
			clear(part)
		case isBase:
			if err := o.readBase(part, at); err != nil {
				return done, err
			}
		case isWritten:
			if n, err := file.ReadAt(part, at); n < len(part) {
				return done, fmt.Errorf("read overlay: %w", err)
			}
		}
		done += len(part)
		at = next
	}
	o.read.Add(int64(done))
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

func (o *Overlay) readBase(p []byte, off int64) error {
	n, err := o.base.ReadAt(p, off)
	o.baseRead.Add(int64(n))
	if n == len(p) {
		return nil // io.EOF at the very end is fine
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d of the base: %w", len(p), off, err)
}

// Extents describes length bytes at off, which lie in the disk, in ascending runs.
// A hole reads as zeros.
func (o *Overlay) Extents(off, length int64, yield func(off, length int64, hole bool) bool) {
	end := min(off+length, o.size)
	for off < end {
		st, next, _ := o.run(off, end)
		zero := st == isHole || st == isZeroed
		for next < end {
			st, n, _ := o.run(next, end)
			if zero != (st == isHole || st == isZeroed) {
				break
			}
			next = n
		}
		if !yield(off, next-off, zero) {
			return
		}
		off = next
	}
}

// Changed describes what was changed since the base, in ascending runs of whole
// pages (the last may be short). Zero runs read as zeros. Nothing may be writing.
func (o *Overlay) Changed(yield func(off, length int64, zero bool) bool) {
	for off := int64(0); off < o.size; {
		st, next, _ := o.run(off, o.size)
		if st == isWritten || st == isZeroed {
			if !yield(off, next-off, st == isZeroed) {
				return
			}
		}
		off = next
	}
}
