package overlay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// file is what an overlay needs of a file.
type file interface {
	io.ReaderAt
	io.WriterAt
	// punch gives space back; the bytes read as zeros then. It may not be able to.
	punch(off, length int64) error
	// sync returns when what was written is on stable storage.
	sync() error
	io.Closer
}

// files is where they lie. Tests have one whose power fails.
type files interface {
	// open opens a file for reading and writing; it wraps fs.ErrNotExist.
	open(path string) (file, error)
	// make makes a new file that reads as size zeros.
	make(path string, size int64) (file, error)
	// put makes or replaces a file as a whole, durably.
	put(path string, size int64, begin []byte) (file, error)
	exists(path string) (bool, error)
	remove(path string) error
	// settle makes that there is a file at path durable.
	settle(path string) error
}

// osFiles are the files of this host.
type osFiles struct{}

type osFile struct{ *os.File }

func (f osFile) sync() error { return unix.Fdatasync(int(f.Fd())) }

func (f osFile) punch(off, length int64) error {
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func (osFiles) open(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFiles) make(path string, size int64) (file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		os.Remove(path)
		return nil, fmt.Errorf("of %d bytes: %w", size, err)
	}
	return osFile{f}, nil
}

func (o osFiles) put(path string, size int64, begin []byte) (file, error) {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := o.make(fresh, size)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(begin, 0)
	if err == nil {
		err = f.(osFile).Sync() // its size too
	}
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err == nil {
		err = o.settle(path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (osFiles) exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (osFiles) remove(path string) error { return os.Remove(path) }

func (osFiles) settle(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
