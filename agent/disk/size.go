//go:build !windows

package disk

import "io"

func (d *Disk) deviceSize() (uint64, error) {
	n, err := d.f.Seek(0, io.SeekEnd)
	return uint64(n), err
}
