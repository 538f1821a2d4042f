package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// devnum is a device number.
type devnum struct{ major, minor uint32 }

func (n devnum) String() string { return fmt.Sprintf("%d:%d", n.major, n.minor) }

func parseDevnum(s string) (devnum, bool) {
	var n devnum
	c, err := fmt.Sscanf(s, "%d:%d", &n.major, &n.minor)
	return n, err == nil && c == 2
}

// host is where the kernel shows its tables; tests point it elsewhere.
type host struct{ sys, proc string }

var live = host{sys: "/sys", proc: "/proc"}

// device is the directory of a block device: /sys/devices/…/sda or …/sda/sda1.
func (h host) device(n devnum) (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(h.sys, "dev/block", n.String()))
	if err != nil {
		return "", fmt.Errorf("look up device %s: %w", n, err)
	}
	return dir, nil
}

// number reads the device number in a device's directory.
func number(dir string) (devnum, bool) {
	return parseDevnum(readLine(filepath.Join(dir, "dev")))
}

// partitions are the directories of a whole disk's partitions.
func partitions(dir string) []string {
	var dirs []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		p := filepath.Join(dir, e.Name())
		if e.IsDir() && exists(filepath.Join(p, "partition")) {
			dirs = append(dirs, p)
		}
	}
	return dirs
}

// linked are the directories behind the symbolic links in dir (holders, slaves).
func linked(dir string) []string {
	var dirs []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if p, err := filepath.EvalSymlinks(filepath.Join(dir, e.Name())); err == nil {
			dirs = append(dirs, p)
		}
	}
	return dirs
}

// devices is a set of block devices and their names.
type devices map[devnum]string

// add puts a device, its partitions and whatever is stacked on them (device
// mapper, md) into the set.
func (s devices) add(dir string) {
	n, ok := number(dir)
	if !ok {
		return
	}
	if _, have := s[n]; have {
		return
	}
	s[n] = filepath.Base(dir)
	for _, p := range partitions(dir) {
		s.add(p)
	}
	for _, p := range linked(filepath.Join(dir, "holders")) {
		s.add(p)
	}
}

// loops are the loop devices in use: directory and backing file.
func (h host) loops() map[string]string {
	found := make(map[string]string)
	dirs, _ := filepath.Glob(filepath.Join(h.sys, "block/loop*"))
	for _, d := range dirs {
		file := readLine(filepath.Join(d, "loop/backing_file"))
		if file == "" || strings.HasSuffix(file, " (deleted)") {
			continue
		}
		if dir, err := filepath.EvalSymlinks(d); err == nil {
			found[dir] = file
		}
	}
	return found
}
