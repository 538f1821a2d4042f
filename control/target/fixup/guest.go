package fixup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Prefix begins the line of the report on the helper's first serial port.
const Prefix = "LEEWARD-FIXUP "

// Names in the helper's initramfs.
const (
	specPath    = "/spec.json"
	loadPath    = "/modules" // with the modules in the order in which to load them
	programPath = "/leeward"
	reportPort  = "/dev/ttyS0"
	mountPoint  = "/machine"
)

// diskTime is how long the helper waits for the machine's disks.
const diskTime = 60 * time.Second

// Main is the helper: the first and only process of a virtual machine. It does what the
// spec says, reports, and turns the machine off; it does not return. Anywhere else it
// refuses.
func Main() error {
	if os.Getpid() != 1 {
		return errors.New("this is the first process of a helper that control starts, it is of no use elsewhere")
	}
	report := new(Report)
	if err := work(report); err != nil {
		report.Error = err.Error()
	}
	tell(report)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func tell(report *Report) {
	b, err := json.Marshal(report)
	if err != nil {
		return
	}
	f, err := os.OpenFile(reportPort, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	fmt.Fprintf(f, "\n%s%s\n", Prefix, b)
	unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) // until it is out
	f.Close()
}

func work(report *Report) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the helper's program failed: %v\n%s", p, debug.Stack())
		}
	}()
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		os.Mkdir(m.at, 0o755)
		if err := unix.Mount("none", m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	b, err := os.ReadFile(specPath)
	if err != nil {
		return err
	}
	var spec Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("what is to be done cannot be understood: %w", err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	d, err := findDevices(spec.Disks)
	if err != nil {
		return err
	}
	return workOn(d, spec, report)
}

// loadModules loads what the helper's own kernel needs.
func loadModules() error {
	list, err := os.ReadFile(loadPath)
	if err != nil {
		return err
	}
	for _, p := range strings.Fields(string(list)) {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			// One that finds no hardware does no harm; what is missing will be missed.
			fmt.Fprintf(os.Stderr, "load %s: %v\n", p, err)
		}
	}
	return nil
}

// findDevices waits until all disks are there, and looks at what they hold.
func findDevices(disks []string) (devices, error) {
	d := devices{disks: disks}
	for deadline := time.Now().Add(diskTime); ; time.Sleep(20 * time.Millisecond) {
		last := "/sys/class/block/" + diskNode(len(disks)-1)
		if _, err := os.Stat(last); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return d, fmt.Errorf("not all of the %d disks were seen within %v", len(disks), diskTime)
		}
	}
	for i := range disks {
		node := diskNode(i)
		d.add(node, i, 0, "")
		// What cannot be read has no names.
		ids, _ := onDevice(&device{node: node}, func(f *os.File) (map[int]string, error) { return partitionIDs(f), nil })
		parts, err := filepath.Glob("/sys/class/block/" + node + "[0-9]*")
		if err != nil {
			return d, err
		}
		for _, p := range parts {
			name := filepath.Base(p)
			if n, err := strconv.Atoi(strings.TrimPrefix(name, node)); err == nil {
				d.add(name, i, n, ids[n])
			}
		}
	}
	d.join()
	return d, nil
}

// diskNode names the disks as the kernel does: vda … vdz. A machine has at most 24.
func diskNode(i int) string { return "vd" + string(rune('a'+i)) }

func (d *devices) add(node string, disk, part int, id string) {
	x := device{node: node, disk: disk, part: part, partID: id}
	if f, err := os.Open("/dev/" + node); err == nil {
		x.kind, x.uuid, x.label = identify(f)
		if size, err := f.Seek(0, io.SeekEnd); err == nil && endsAsRaid(f, size) {
			x.kind, x.uuid, x.label = "raid", "", ""
		}
		if x.kind == "lvm" {
			x.volume = volumeID(f)
		}
		f.Close()
	}
	if part > 0 && slices.ContainsFunc(d.all, func(o device) bool { return o.disk == disk && o.part == 0 && o.kind == "raid" }) {
		return // it lies in the RAID, and is found there
	}
	d.all = append(d.all, x)
}

// kernelFS are the kernel's names of the file systems that are looked into.
var kernelFS = map[string]string{"ext": "ext4", "xfs": "xfs", "btrfs": "btrfs", "vfat": "vfat"}

// foreign says of what cannot be looked into what it is.
var foreign = map[string]string{
	"luks": "encrypted (LUKS)", "lvm": "a physical volume of LVM", "raid": "part of a RAID", "bcache": "a bcache", "zfs": "part of a ZFS pool",
}

func mountDevice(x *device, at string, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	err := unix.Mount("/dev/"+x.node, at, kernelFS[x.kind], unix.MS_NOATIME, options)
	if errors.Is(err, unix.EINVAL) && x.kind == "xfs" { // a copy has the UUID of another
		err = unix.Mount("/dev/"+x.node, at, "xfs", unix.MS_NOATIME, "nouuid")
	}
	if err != nil {
		return fmt.Errorf("mount %s (%s): %w", x.node, x.kind, err)
	}
	return nil
}

// isRoot says whether what is mounted is the root of a system.
func isRoot(at string) bool {
	for _, p := range []string{"etc/os-release", "etc/fstab", "etc/passwd"} {
		if _, err := os.Lstat(filepath.Join(at, p)); err == nil {
			return true
		}
	}
	return false
}

// findRoot mounts the root file system, and says why it cannot be.
func findRoot(d *devices, report *Report) (*device, error) {
	var roots []*device
	for i := range d.all {
		x := &d.all[i]
		if kernelFS[x.kind] == "" || x.kind == "vfat" {
			continue
		}
		// A crash-consistent file system replays its journal at this: it is an overlay.
		err := mountDevice(x, mountPoint, "")
		if err != nil {
			report.Notes = append(report.Notes, err.Error())
			continue
		}
		found := isRoot(mountPoint)
		if !found && x.kind == "btrfs" {
			if err := unix.Unmount(mountPoint, 0); err != nil {
				return nil, err
			}
			if err := mountDevice(x, mountPoint, "subvol=@"); err != nil {
				continue
			}
			found = isRoot(mountPoint)
		}
		if err := unix.Unmount(mountPoint, 0); err != nil {
			return nil, err
		}
		if found {
			roots = append(roots, x)
		}
	}
	var hidden []string
	for _, x := range d.all {
		if what := foreign[x.kind]; what != "" && !x.joined {
			hidden = append(hidden, d.where(&x)+" is "+what)
		}
	}
	locked := hidden
	hidden = append(hidden[:len(hidden):len(hidden)], d.left...)
	switch {
	case len(roots) == 0 && len(hidden) > 0:
		report.Cannot = append(report.Cannot, fmt.Sprintf("the machine's root file system was not found; %s, which cannot be looked into while the machine does not run", strings.Join(hidden, "; ")))
	case len(roots) == 0:
		report.Cannot = append(report.Cannot, "no root file system of Linux was found on the machine's disks")
	case len(roots) > 1:
		var all []string
		for _, x := range roots {
			all = append(all, strings.TrimSuffix(d.where(x), ","))
		}
		report.Cannot = append(report.Cannot, "the machine has several root file systems, and which one it boots is not known here: "+strings.Join(all, ", "))
	default:
		for _, l := range locked { // what is not needed to find the root; the machine may want it
			report.Notes = append(report.Notes, l+": it was not looked into")
		}
		err := mountDevice(roots[0], mountPoint, "")
		if err == nil && !isRoot(mountPoint) {
			if err = unix.Unmount(mountPoint, 0); err == nil {
				err = mountDevice(roots[0], mountPoint, "subvol=@")
			}
		}
		return roots[0], err
	}
	return nil, nil
}

// workOn does what the spec says to the machine on these devices.
func workOn(d devices, spec Spec, report *Report) (err error) {
	root, err := findRoot(&d, report)
	if err != nil || root == nil {
		return err
	}
	report.Notes = append(report.Notes, d.left...)
	mounted := []string{mountPoint}
	defer func() {
		unix.Sync()
		for _, m := range slices.Backward(mounted) {
			if uerr := unix.Unmount(m, 0); uerr != nil {
				err = errors.Join(err, fmt.Errorf("unmount %s: %w", m, uerr))
			}
		}
	}()
	dir, err := os.OpenRoot(mountPoint)
	if err != nil {
		return err
	}
	defer dir.Close()
	t := tree{dir}
	for _, m := range bootMounts(t, &d) {
		if err := mountDevice(m.device, filepath.Join(mountPoint, m.at), ""); err != nil {
			return err
		}
		mounted = append(mounted, filepath.Join(mountPoint, m.at))
	}
	switch spec.Do {
	case Fix:
		return fix(dir, d, spec, report)
	case Undo:
		report.Changes, err = undo(t)
		return err
	}
	return fmt.Errorf("the helper cannot %q", spec.Do)
}

type mount struct {
	at     string
	device *device
}

// bootMounts lists what fstab mounts below /boot and /usr, the upper ones first.
func bootMounts(t tree, d *devices) (all []mount) {
	text, _ := t.read("etc/fstab")
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0][0] == '#' || !slices.Contains([]string{"/boot", "/boot/efi", "/efi", "/usr", "/var"}, f[1]) {
			continue
		}
		if x, ok := d.find(f[0]); ok && kernelFS[x.kind] != "" && t.isDir(f[1][1:]) {
			all = append(all, mount{f[1][1:], x})
		}
	}
	slices.SortFunc(all, func(a, b mount) int { return strings.Compare(a.at, b.at) })
	return all
}

// copyLabel gives to what SELinux says of from, if it says anything.
func copyLabel(from, to *os.File) {
	const name = "security.selinux"
	b := make([]byte, 256)
	if n, err := unix.Fgetxattr(int(from.Fd()), name, b); err == nil {
		_ = unix.Fsetxattr(int(to.Fd()), name, b[:n], 0) // without, SELinux relabels or complains
	}
}

// freeSpace returns how many bytes are free where f is.
func freeSpace(f *os.File) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}
