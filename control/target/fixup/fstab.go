package fixup

import (
	"fmt"
	"slices"
	"strings"
)

// device is what a configuration file may call a file system by.
type device struct {
	node  string // as the helper has it: vda1
	disk  int    // of the machine, from 0
	part  int    // from 1; 0 is the whole disk
	kind  string // ext, xfs, btrfs, vfat, swap, …; "" if unknown
	uuid  string
	label string
	// partID and volume are the names of the partition, and of the physical volume of LVM that
	// it is, below /dev/disk/by-partuuid and by-id/lvm-pv-uuid-; "" if it has none.
	partID, volume string

	alias  []string // other names, of what several devices are together; disk is -1 then
	joined bool     // what it holds is a part of another device
}

// devices are all of a machine, and what its disks were called at home.
type devices struct {
	all   []device
	disks []string // "sda", "nvme0n1" …
	left  []string // what was not put together, and why
}

// find returns the device that a name such as /dev/sda2, UUID=… or LABEL=… means.
func (d *devices) find(spec string) (*device, bool) {
	tag, value, tagged := strings.Cut(spec, "=")
	value = strings.Trim(value, `"`)
	for _, alias := range []struct{ folder, tag string }{{"/dev/disk/by-uuid/", "UUID"}, {"/dev/disk/by-label/", "LABEL"}} {
		if v, ok := strings.CutPrefix(spec, alias.folder); ok {
			tag, value, tagged = alias.tag, v, true
		}
	}
	disk, part := -1, 0
	if !tagged {
		disk, part = d.place(spec)
	}
	for i := range d.all {
		x := &d.all[i]
		switch {
		case !x.joined && slices.Contains(x.alias, spec):
			return x, true
		case x.joined: // its UUID may be that of what it is a part of
		case tagged && tag == "UUID" && value != "" && strings.EqualFold(x.uuid, value),
			tagged && tag == "LABEL" && value != "" && x.label == value,
			!tagged && disk >= 0 && disk == x.disk && part == x.part:
			return x, true
		}
	}
	return nil, false
}

// place tells of a name like /dev/sda2 or /dev/nvme0n1p2 the disk, -1 if it is none of the
// machine's, and the partition. A machine's only disk may have been called anything.
func (d *devices) place(spec string) (disk, part int) {
	name, ok := strings.CutPrefix(spec, "/dev/")
	if !ok {
		return -1, 0
	}
	disk, part = -1, 0
	digits := len(name)
	for digits > 0 && name[digits-1] >= '0' && name[digits-1] <= '9' {
		digits--
	}
	whole := name
	if p := name[digits:]; p != "" && len(p) < 5 {
		fmt.Sscan(p, &part) // digits only
		whole = name[:digits]
		// nvme0n1p2: the p separates; nvme0n1 alone is a disk.
		if base, ok := strings.CutSuffix(whole, "p"); ok && base != "" && base[len(base)-1] >= '0' && base[len(base)-1] <= '9' {
			whole = base
		} else if strings.HasPrefix(whole, "nvme") || strings.HasPrefix(whole, "mmcblk") {
			whole, part = name, 0
		}
	}
	for i, n := range d.disks {
		if n == whole {
			return i, part
		}
	}
	if len(d.disks) == 1 && kernelName(whole) {
		return 0, part
	}
	return -1, 0
}

// kernelName says whether a name is one that a kernel gives disks in the order in which it
// finds them.
func kernelName(disk string) bool {
	for _, p := range []string{"sd", "hd", "vd", "xvd"} {
		if rest, ok := strings.CutPrefix(disk, p); ok && len(rest) == 1 && rest[0] >= 'a' && rest[0] <= 'z' {
			return true
		}
	}
	return strings.HasPrefix(disk, "nvme") || strings.HasPrefix(disk, "cciss")
}

// unstable says whether a name means another thing, or nothing, on other hardware.
func unstable(spec string) bool {
	for _, p := range []string{"/dev/disk/by-path/", "/dev/disk/by-id/"} {
		if strings.HasPrefix(spec, p) {
			return true
		}
	}
	name, ok := strings.CutPrefix(spec, "/dev/")
	if !ok {
		return false
	}
	name = strings.TrimRight(name, "0123456789")
	return kernelName(name) || strings.HasPrefix(name, "nvme")
}

// network file systems cannot be reached from a copy that is kept apart.
var networkFS = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "iscsi", "sshfs", "fuse.sshfs", "ocfs2", "gfs2"}

// fixFstab rewrites an fstab so that it holds on other hardware: file systems by UUID, and
// nofail for those that are not there. said tells each change, cannot what is lost.
func fixFstab(text string, d *devices) (fixed string, said, cannot []string) {
	var out strings.Builder
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			out.WriteString(line)
			continue
		}
		for len(f) < 4 {
			f = append(f, "defaults")
		}
		spec, mount, kind, options := f[0], f[1], f[2], strings.Split(f[3], ",")
		x, there := d.find(spec)
		gone := false
		switch {
		case slices.Contains(networkFS, kind):
			gone = true
		case unstable(spec) && there && x.uuid != "":
			said = append(said, fmt.Sprintf("%s: %s is called UUID=%s", mount, spec, x.uuid))
			f[0] = "UUID=" + x.uuid
		case unstable(spec) && mount == "/":
			cannot = append(cannot, fmt.Sprintf("the root file system is %s in fstab, which is on none of the protected disks under that name", spec))
		case unstable(spec), (strings.HasPrefix(spec, "UUID=") || strings.HasPrefix(spec, "LABEL=")) && !there && mount != "/":
			gone = true
		}
		if gone && !slices.Contains(options, "nofail") {
			said = append(said, fmt.Sprintf("%s (%s) is not on the protected disks: the machine goes on without it (nofail)", mount, spec))
			f[3] = strings.Join(append(options, "nofail"), ",")
		} else if f[0] == spec {
			out.WriteString(line)
			continue
		}
		out.WriteString(strings.Join(f, " ") + "\n")
	}
	return out.String(), said, cannot
}
