package disk

import (
	"fmt"
	"os"
	"path/filepath"
)

// On returns the path of the whole disk that something is on: a partition, or a link to one
// such as /dev/disk/by-uuid/X. What is a whole disk is on itself. What is made of other devices,
// such as a logical volume, is on none.
func On(path string) (string, error) { return on("/sys/class/block", path) }

func on(class, path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("the disk that %s is on: %w", path, err)
	}
	dev, err := filepath.EvalSymlinks(filepath.Join(class, filepath.Base(real)))
	if err != nil {
		return "", fmt.Errorf("the disk that %s is on: %s is no block device: %w", path, real, err)
	}
	if below, _ := os.ReadDir(filepath.Join(dev, "slaves")); len(below) > 0 {
		return "", fmt.Errorf("the disk that %s is on: %s is made of others (%s): name the disk", path, real, below[0].Name())
	}
	if _, err := os.Stat(filepath.Join(dev, "partition")); err == nil {
		dev = filepath.Dir(dev)
	}
	return filepath.Join(filepath.Dir(real), filepath.Base(dev)), nil
}
