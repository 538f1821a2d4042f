//go:build !linux

package disk

// Queue cannot be had here.
func (d *Disk) Queue(int) (Reads, error) { return nil, ErrNoQueue }
