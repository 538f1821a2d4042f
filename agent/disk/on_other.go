//go:build !linux

package disk

import "errors"

// On is known on Linux only.
func On(string) (string, error) {
	return "", errors.New("the disk that a file system is on is known on Linux only: name the disk")
}
