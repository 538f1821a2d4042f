package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Inspect tells what uses a disk.
func Inspect(d *Disk) (*Usage, error) { return live.inspect(d) }

// ActiveSwaps lists every active swap area of the machine.
func ActiveSwaps() ([]Swap, error) { return live.swaps() }

// FilesystemOf finds the filesystem that holds a path. ok is false if it lives on
// no block device.
func FilesystemOf(path string) (m Mount, ok bool, err error) { return live.filesystemOf(path) }

func (h host) swaps() ([]Swap, error) {
	b, err := os.ReadFile(filepath.Join(h.proc, "swaps"))
	if err != nil {
		return nil, fmt.Errorf("list swap areas: %w", err)
	}
	return parseSwaps(b), nil
}

func (h host) inspect(d *Disk) (*Usage, error) {
	t, err := h.table()
	if err != nil {
		return nil, err
	}
	devs := make(devices)
	if d.IsBlock() {
		dir, err := h.device(devnum{d.Major(), d.Minor()})
		if err != nil {
			return nil, err
		}
		devs.add(dir)
	} else {
		h.addLoopsOver(d, devs)
	}
	u := &Usage{Mounts: t.on(devs)}
	if u.Swaps, err = h.swapsOn(t, devs); err != nil {
		return nil, err
	}
	u.Hidden = h.hidden(t, devs)
	slices.SortStableFunc(u.Mounts, func(a, b Mount) int { return b.Depth - a.Depth })
	return u, nil
}

// addLoopsOver adds the loop devices over an image file.
func (h host) addLoopsOver(d *Disk, devs devices) {
	mine, err := d.f.Stat()
	if err != nil {
		return
	}
	for dir, file := range h.loops() {
		if fi, err := os.Stat(file); err == nil && os.SameFile(fi, mine) {
			devs.add(dir)
		}
	}
}

// table is the mount table with what is needed to find things in it.
type table struct {
	h     host
	lines []mountLine
	loops map[string]string
	btrfs map[devnum][]devnum // any device of a btrfs → all its devices
}

func (h host) table() (*table, error) {
	text, err := os.ReadFile(filepath.Join(h.proc, "self/mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	lines, err := parseMountinfo(text)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return &table{h: h, lines: lines, loops: h.loops(), btrfs: h.btrfsMembers()}, nil
}

// btrfsMembers maps each device of a mounted btrfs to all of them: a mount names
// only one.
func (h host) btrfsMembers() map[devnum][]devnum {
	members := make(map[devnum][]devnum)
	dirs, _ := filepath.Glob(filepath.Join(h.sys, "fs/btrfs/*/devices"))
	for _, d := range dirs {
		var all []devnum
		for _, p := range linked(d) {
			if n, ok := number(p); ok {
				all = append(all, n)
			}
		}
		for _, n := range all {
			members[n] = all
		}
	}
	return members
}

// devicesOf are the block devices below a mount, none for tmpfs and the like.
func (t *table) devicesOf(m *mountLine) []devnum {
	n := devnum{m.major, m.minor}
	if n.major != 0 {
		return []devnum{n}
	}
	// An anonymous device number: believe the source if it is a block device.
	if !strings.HasPrefix(m.source, "/") {
		return nil
	}
	n, ok := t.h.nodeNumber(m.source)
	if !ok {
		return nil
	}
	if all := t.btrfs[n]; len(all) > 0 {
		return all
	}
	return []devnum{n}
}

// nodeNumber is the device number of a device node, by the kernel's name for it
// if the node cannot be seen from here.
func (h host) nodeNumber(path string) (devnum, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil {
		return devnum{unix.Major(st.Rdev), unix.Minor(st.Rdev)}, st.Mode&unix.S_IFMT == unix.S_IFBLK
	}
	return number(filepath.Join(h.sys, "class/block", filepath.Base(path)))
}

// on lists the filesystems on a set of devices and, adding to the set, on loop
// devices over files on those filesystems.
func (t *table) on(devs devices) []Mount {
	found := make(map[devnum]*Mount)
	var order []*Mount
	for again := true; again; {
		again = false
		for i := range t.lines {
			m := &t.lines[i]
			name, ok := t.onAny(m, devs)
			if !ok {
				continue
			}
			sb := devnum{m.major, m.minor}
			if f := found[sb]; f == nil {
				found[sb] = t.mount(m, name)
				order = append(order, found[sb])
			}
		}
		for dir, file := range t.loops {
			n, ok := number(dir)
			if _, have := devs[n]; have || !ok {
				continue
			}
			if m := t.holding(file); m != nil && found[devnum{m.major, m.minor}] != nil {
				devs.add(dir)
				again = true
			}
		}
	}
	mounts := make([]Mount, len(order))
	for i, m := range order {
		mounts[i] = *m
	}
	return mounts
}

func (t *table) onAny(m *mountLine, devs devices) (string, bool) {
	for _, n := range t.devicesOf(m) {
		if name, ok := devs[n]; ok {
			return name, true
		}
	}
	return "", false
}

// mount gathers every line of the superblock that m shows.
func (t *table) mount(m *mountLine, name string) *Mount {
	best := m
	var paths []string
	for i := range t.lines {
		o := &t.lines[i]
		if o.major != m.major || o.minor != m.minor {
			continue
		}
		paths = append(paths, o.path)
		if (o.root == "/") != (best.root == "/") {
			if o.root == "/" {
				best = o
			}
		} else if len(o.path) < len(best.path) {
			best = o
		}
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == best.path })
	return &Mount{
		ID: best.id, Path: best.path, Also: paths, Source: best.source, FSType: best.fstype,
		Major: best.major, Minor: best.minor, Device: name,
		ReadOnly: hasOption(best.superOpts, "ro"), Depth: t.depth(m, 0),
	}
}

func hasOption(opts, want string) bool {
	return slices.Contains(strings.Split(opts, ","), want)
}

// holding is the mount that a path is on: the longest mountpoint that is a prefix,
// the last one if several are mounted over each other.
func (t *table) holding(path string) *mountLine {
	var best *mountLine
	for i := range t.lines {
		m := &t.lines[i]
		if !within(path, m.path) {
			continue
		}
		if best == nil || len(m.path) >= len(best.path) {
			best = m
		}
	}
	return best
}

func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

const maxDepth = 16 // loops over loops; more is a circle

// depth counts the loop devices below a mount.
func (t *table) depth(m *mountLine, level int) int {
	deepest := 0
	for _, n := range t.devicesOf(m) {
		if dir, err := t.h.device(n); err == nil {
			deepest = max(deepest, t.deviceDepth(dir, level))
		}
	}
	return deepest
}

func (t *table) deviceDepth(dir string, level int) int {
	if level > maxDepth {
		return 0
	}
	if exists(filepath.Join(dir, "partition")) {
		dir = filepath.Dir(dir)
	}
	if file, ok := t.loops[dir]; ok {
		if m := t.holding(file); m != nil {
			return 1 + t.depth(m, level+1)
		}
		return 1
	}
	deepest := 0
	for _, s := range linked(filepath.Join(dir, "slaves")) {
		deepest = max(deepest, t.deviceDepth(s, level+1))
	}
	return deepest
}

// swapsOn lists the swap areas on devices or in files on their filesystems.
func (h host) swapsOn(t *table, devs devices) ([]Swap, error) {
	all, err := h.swaps()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(s Swap) bool {
		if s.File {
			m := t.holding(s.Path)
			if m == nil {
				return true
			}
			_, on := t.onAny(m, devs)
			return !on
		}
		n, ok := h.nodeNumber(s.Path)
		_, on := devs[n]
		return !ok || !on
	}), nil
}

// hidden lists devices that a filesystem driver holds though no mount seen from
// here is on them: another mount namespace has them.
func (h host) hidden(t *table, devs devices) []string {
	seen := make(map[devnum]bool)
	for i := range t.lines {
		for _, n := range t.devicesOf(&t.lines[i]) {
			seen[n] = true
		}
	}
	var names []string
	for n, name := range devs {
		held := len(h.btrfsMembers()[n]) > 0
		for _, fs := range []string{"ext4", "xfs", "f2fs"} {
			held = held || exists(filepath.Join(h.sys, "fs", fs, name))
		}
		if held && !seen[n] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (h host) filesystemOf(path string) (Mount, bool, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Mount{}, false, fmt.Errorf("find the filesystem of %s: %w", path, err)
	}
	defer unix.Close(fd)
	id, err := MountID(fd)
	if err != nil {
		return Mount{}, false, fmt.Errorf("find the filesystem of %s: %w", path, err)
	}
	t, err := h.table()
	if err != nil {
		return Mount{}, false, err
	}
	for i := range t.lines {
		m := &t.lines[i]
		if m.id != id {
			continue
		}
		for _, n := range t.devicesOf(m) {
			if dir, err := h.device(n); err == nil {
				return *t.mount(m, filepath.Base(dir)), true, nil
			}
		}
	}
	return Mount{}, false, nil
}

// MountID tells through which mount a file was opened.
func MountID(fd int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var id int
		if _, err := fmt.Sscanf(line, "mnt_id: %d", &id); err == nil {
			return id, nil
		}
	}
	return 0, fmt.Errorf("the kernel does not tell the mount of descriptor %d", fd)
}
