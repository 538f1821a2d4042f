//go:build !linux

package dir

import "os"

// writeAll writes data to a new file.
func writeAll(f *os.File, data []byte) error {
	_, err := f.Write(data)
	return err
}
