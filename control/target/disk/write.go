package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/control/target"
)

// Format is how a disk is laid out in a file.
type Format string

// The formats.
const (
	Raw   Format = "raw"   // the bytes of the disk
	VHD   Format = "vhd"   // fixed VHD, a whole number of MiB and a footer: Azure, Hyper-V
	QCOW2 Format = "qcow2" // QEMU; needs qemu-img
	VMDK  Format = "vmdk"  // VMware, VirtualBox; needs qemu-img
)

// Options says how to write.
type Options struct {
	Format   Format          // default Raw, which is all a block device can take
	Force    bool            // replace a file; overwrite a device that holds data
	ReadBack bool            // read and compare what was written, whatever the format
	Progress target.Progress // may be nil
	// Libvirt has a Target also describe the machine for libvirt, in MACHINE.xml beside its
	// disks; Virtio is the hardware to describe.
	Libvirt, Virtio bool
}

// check completes o.
func (o *Options) check() error {
	switch o.Format {
	case "":
		o.Format = Raw
	case Raw, VHD:
	case QCOW2, VMDK:
		for _, tool := range []string{"qemu-img", "qemu-nbd"} {
			if _, err := exec.LookPath(tool); err != nil {
				return fmt.Errorf("%s, needed for format %s, not found: apt-get install qemu-utils", tool, o.Format)
			}
		}
	default:
		return fmt.Errorf("format %q is none of raw, vhd, qcow2, vmdk", o.Format)
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	return nil
}

// Write writes d, which must be a target.Restorer, to path: a block device, or a file
// that is made. It returns when everything is verified and on stable storage.
func Write(ctx context.Context, d target.Disk, path string, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	r, ok := d.(target.Restorer)
	if !ok {
		return fmt.Errorf("disk %s cannot be restored as a whole", d.Name())
	}
	device, err := destination(path, o)
	if err != nil {
		return err
	}
	if device {
		err = writeDevice(ctx, r, path, o)
	} else {
		err = writeFile(ctx, r, path, o)
	}
	if errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("%w: make room at %s, or write elsewhere", err, filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write disk %s to %s: %w", d.Name(), path, err)
	}
	return nil
}

// destination looks at what path is before anything is done to it.
func destination(path string, o Options) (device bool, err error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if strings.HasPrefix(filepath.Clean(path), "/dev/") {
			return false, fmt.Errorf("device %s does not exist", path) // not a file in memory
		}
		return false, nil
	case err != nil:
		return false, err
	case st.Mode().Type() == fs.ModeDevice:
		if o.Format != Raw {
			return false, fmt.Errorf("%s is a block device: only raw can be written to it, not %s", path, o.Format)
		}
		return true, nil
	case !st.Mode().IsRegular():
		return false, fmt.Errorf("%s is neither a file nor a block device", path)
	case !o.Force:
		return false, fmt.Errorf("%s exists: remove it, or force it to be replaced", path)
	}
	return false, nil
}

// Names in the directory NAME.partial beside that of the file itself.
const (
	sourceSocket = "source.sock"
	resultSocket = "result.sock"
)

// writeFile writes path by way of the directory path.partial.
func writeFile(ctx context.Context, d target.Restorer, path string, o Options) (err error) {
	partial, name := path+".partial", filepath.Base(path)
	unlock, err := enter(partial)
	if err != nil {
		return err
	}
	defer unlock()
	clean := func() {
		for _, n := range []string{name, sourceSocket, resultSocket} {
			_ = os.Remove(filepath.Join(partial, n)) // it is mostly not there
		}
	}
	clean()
	defer func() {
		clean()
		_ = os.Remove(partial) // unless somebody put something of theirs there
	}()
	file := filepath.Join(partial, name)
	if o.Format == QCOW2 || o.Format == VMDK {
		err = convert(ctx, d, partial, name, o)
	} else {
		err = writeImage(ctx, d, file, o)
	}
	if err == nil {
		err = errors.Join(os.Chmod(file, 0o600), syncPath(file)) // it holds all that the disk did
	}
	if err != nil {
		return err
	}
	if err := os.Rename(file, path); err != nil {
		return err
	}
	return syncPath(filepath.Dir(path))
}

// enter makes the directory partial and keeps everybody else out of it.
func enter(partial string) (unlock func(), err error) {
	if err := os.Mkdir(partial, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	dir, err := os.Open(partial)
	if err != nil {
		return nil, err
	}
	busy := fmt.Errorf("%s is being written by another run", partial)
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		dir.Close()
		return nil, busy
	}
	// The other run may have removed it just now.
	var here, there unix.Stat_t
	if err := errors.Join(unix.Fstat(int(dir.Fd()), &here), unix.Stat(partial, &there)); err != nil || here.Ino != there.Ino {
		dir.Close()
		return nil, busy
	}
	return func() { dir.Close() }, nil
}

// writeImage writes a raw image or a fixed VHD.
func writeImage(ctx context.Context, d target.Restorer, file string, o Options) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	size := d.Size()
	if o.Format == VHD {
		size = VHDAlign(size)
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	e := newEager(f)
	defer e.end()
	if err := d.Restore(ctx, e, o.Progress); err != nil {
		return err
	}
	if o.Format == VHD {
		if _, err := f.WriteAt(VHDFooter(size, d.Digest()), size); err != nil {
			return err
		}
	}
	if o.ReadBack {
		return compare(ctx, d, f, size, o.Progress)
	}
	return nil
}

// syncPath puts a file or a directory onto stable storage.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
