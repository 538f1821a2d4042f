//go:build !linux

package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Image files work everywhere; everything about devices is Linux, except that raw
// disks can be read on Windows.

func openImage(path string) (*os.File, info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, info{}, fmt.Errorf("open image: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = ErrNotDisk
	}
	abs, absErr := filepath.Abs(path)
	if err := errors.Join(err, absErr); err != nil {
		_ = f.Close()
		return nil, info{}, fmt.Errorf("open image %s: %w", path, err)
	}
	return f, info{size: uint64(fi.Size()), identity: "file-" + abs}, nil
}

func (d *Disk) nextData(start uint64) uint64 { return start }

func flock(*os.File) error { return nil }

// Inspect tells what uses a disk; here nothing is known.
func Inspect(*Disk) (*Usage, error) { return &Usage{}, nil }

// ActiveSwaps lists every active swap area of the machine; here none is known.
func ActiveSwaps() ([]Swap, error) { return nil, nil }

// FilesystemOf finds the filesystem that holds a path; here none is known.
func FilesystemOf(string) (m Mount, ok bool, err error) { return Mount{}, false, nil }

// present cannot tell here.
func (d *Disk) present() error { return nil }

// Local is a disk that the machine has in it.
type Local struct{ Name, Stable string }

// Locals lists the machine's own disks; here they have to be named.
func Locals() ([]Local, error) {
	return nil, errors.New("the disks of this system cannot be listed: name them")
}
