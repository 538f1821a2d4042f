package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Local is a disk that the machine has in it, as opposed to one that software makes.
type Local struct {
	Name   string // of the kernel, e.g. nvme0n1
	Stable string // a path that a reboot does not give to another disk; /dev/NAME if there is none
}

// Locals lists the machine's own fixed disks, those that can be written: no loop, RAM,
// device mapper or md devices (the disks below them are listed), nothing removable, no
// drive without a medium, none of the hidden paths of a multipath device. In the order
// of their names.
func Locals() ([]Local, error) { return locals("/sys/block", "/dev/disk/by-id") }

// made starts the names of what software makes out of other things.
var made = []string{"loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd", "mtdblock", "drbd", "rbd", "bcache", "zd"}

func locals(sys, byID string) ([]Local, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, fmt.Errorf("list the disks of this machine: %w", err)
	}
	stable, err := stablePaths(byID)
	if err != nil {
		return nil, err
	}
	var all []Local
	for _, e := range entries {
		name := e.Name()
		is := func(file string) bool { return readLine(filepath.Join(sys, name, file)) == "1" }
		if slices.ContainsFunc(made, func(p string) bool { return strings.HasPrefix(name, p) }) ||
			is("removable") || is("hidden") || is("ro") || readLine(filepath.Join(sys, name, "size")) == "0" {
			continue
		}
		l := Local{Name: name, Stable: stable[name]}
		if l.Stable == "" {
			l.Stable = "/dev/" + strings.ReplaceAll(name, "!", "/")
		}
		all = append(all, l)
	}
	return all, nil
}

// telling orders the links of by-id, the best first: what the drive itself says of its
// identity comes before what is made up of its model and port.
var telling = []string{"nvme-eui.", "nvme-uuid.", "wwn-", "scsi-3", "ata-", "nvme-", "scsi-", "virtio-", ""}

// stablePaths finds the best link to each disk.
func stablePaths(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the names of this machine's disks: %w", err)
	}
	rank := func(name string) int {
		return slices.IndexFunc(telling, func(p string) bool { return strings.HasPrefix(name, p) })
	}
	best := map[string]string{}
	for _, e := range entries {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // a device that goes away while we look
		}
		name := filepath.Base(to)
		if old, ok := best[name]; !ok || rank(e.Name()) < rank(filepath.Base(old)) {
			best[name] = filepath.Join(dir, e.Name())
		}
	}
	return best, nil
}
