package disk

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// On Windows image files and whole raw disks (\\.\PhysicalDriveN) can be read, which
// is enough for the scan driver. It has never been run there: it compiles, no more is
// promised. Volumes are not locked and nothing is frozen.

// rawPrefix begins the name of a device.
const rawPrefix = `\\.\`

// Control codes of winioctl.h.
const (
	ioctlDiskGetLengthInfo      = 0x0007405C // → GET_LENGTH_INFORMATION
	ioctlStorageGetDeviceNumber = 0x002D1080 // → STORAGE_DEVICE_NUMBER
)

// deviceNumber is STORAGE_DEVICE_NUMBER.
type deviceNumber struct{ kind, device, partition uint32 }

func open(path string) (*os.File, info, error) {
	if strings.HasPrefix(path, rawPrefix) {
		return openRaw(path)
	}
	return openImage(path)
}

// openRaw opens a device past the cache, as others may go on writing to it.
func openRaw(path string) (*os.File, info, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, info{}, fmt.Errorf("open disk %s: %w", path, err)
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil,
		windows.OPEN_EXISTING, windows.FILE_FLAG_NO_BUFFERING, 0)
	if err != nil {
		return nil, info{}, fmt.Errorf("open disk %s: %w (reading a disk needs an administrator)", path, err)
	}
	in, err := rawInfo(h, path)
	if err != nil {
		_ = windows.CloseHandle(h)
		return nil, info{}, err
	}
	return os.NewFile(uintptr(h), path), in, nil
}

func rawInfo(h windows.Handle, path string) (info, error) {
	var length uint64
	if err := control(h, ioctlDiskGetLengthInfo, unsafe.Pointer(&length), uint32(unsafe.Sizeof(length))); err != nil {
		return info{}, fmt.Errorf("ask for the size of %s: %w", path, err)
	}
	in := info{size: length, block: true, name: strings.TrimPrefix(path, rawPrefix)}
	var n deviceNumber
	if err := control(h, ioctlStorageGetDeviceNumber, unsafe.Pointer(&n), uint32(unsafe.Sizeof(n))); err == nil {
		// A whole disk is partition 0; a volume on one disk says which part it is.
		if n.partition != 0 && n.partition != ^uint32(0) {
			return info{}, fmt.Errorf(`%s %w: use \\.\PhysicalDrive%d`, path, ErrPartition, n.device)
		}
		in.minor = n.device
	}
	return in, nil
}

func control(h windows.Handle, code uint32, out unsafe.Pointer, size uint32) error {
	var got uint32
	if err := windows.DeviceIoControl(h, code, nil, 0, (*byte)(out), size, &got, nil); err != nil {
		return err
	}
	if got < size {
		return fmt.Errorf("the driver answered %d bytes, want %d", got, size)
	}
	return nil
}

// deviceSize asks the driver: a device has no end to seek to.
func (d *Disk) deviceSize() (uint64, error) {
	var length uint64
	err := control(windows.Handle(d.f.Fd()), ioctlDiskGetLengthInfo, unsafe.Pointer(&length), uint32(unsafe.Sizeof(length)))
	return length, err
}
