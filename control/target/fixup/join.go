package fixup

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// joiner sets up what several devices are together: RAID that software makes, and logical
// volumes of LVM.
type joiner struct {
	d      *devices
	mapper *mapper
	arrays int
	groups map[string]bool // that are set up
}

// join adds to d what its devices hold when they are put together. What cannot be is told in
// d.left.
func (d *devices) join() {
	j := &joiner{d: d, groups: map[string]bool{}}
	for {
		n := len(d.all)
		j.raids()
		j.volumes()
		if len(d.all) == n {
			break
		}
	}
}

// leave notes why something was not set up, once.
func (d *devices) leave(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(d.left, s) {
		d.left = append(d.left, s)
	}
}

// where tells of a device what it is in the machine.
func (d *devices) where(x *device) string {
	if len(x.alias) > 0 {
		return x.alias[0]
	}
	if x.part == 0 {
		return "disk " + d.disks[x.disk]
	}
	return fmt.Sprintf("disk %s, partition %d,", d.disks[x.disk], x.part)
}

// raids starts what is whole.
func (j *joiner) raids() {
	var nodes []string
	var all []*raidMember
	for i := range j.d.all {
		x := &j.d.all[i]
		if x.kind != "raid" || x.joined {
			continue
		}
		m, err := onDevice(x, func(f *os.File) (*raidMember, error) {
			size, err := f.Seek(0, io.SeekEnd)
			if err != nil {
				return nil, err
			}
			return readRaid(f, size)
		})
		if err != nil {
			j.d.leave("%s is part of a RAID: %v", j.d.where(x), err)
			continue
		}
		nodes, all = append(nodes, x.node), append(all, m)
	}
	for _, a := range arrays(nodes, all) {
		name := cmp.Or(a.first.name, a.first.array)
		if why := a.why(); why != "" {
			j.d.leave("RAID %s %s", name, why)
			continue
		}
		node, err := a.start(j.arrays)
		if err != nil {
			j.d.leave("%v", err)
			continue
		}
		j.arrays++
		j.used(a.devices)
		j.d.put(device{node: node, disk: -1, alias: []string{"/dev/md/" + name, "/dev/md" + name}})
		parts, _ := filepath.Glob("/sys/class/block/" + node + "p[0-9]*") // only the pattern could be wrong
		for _, p := range parts {
			part := strings.TrimPrefix(filepath.Base(p), node)
			j.d.put(device{node: node + part, disk: -1, alias: []string{"/dev/md/" + name + part, "/dev/md" + name + part}})
		}
	}
}

// used notes that devices are a part of something that was set up.
func (j *joiner) used(nodes []string) {
	for i := range j.d.all {
		if slices.Contains(nodes, j.d.all[i].node) {
			j.d.all[i].joined = true
		}
	}
}

// volumes sets up the logical volumes of groups that were not seen yet.
func (j *joiner) volumes() {
	devices := map[string]string{} // of physical volumes
	nodes := map[string]string{}
	groups := map[string]*group{}
	for i := range j.d.all {
		x := &j.d.all[i]
		if x.kind != "lvm" {
			continue
		}
		p, err := onDevice(x, func(f *os.File) (*physical, error) { return readPhysical(f) })
		if err != nil {
			j.d.leave("%s is a physical volume of LVM: %v", j.d.where(x), err)
			continue
		}
		devices[p.id], nodes[p.id] = "/dev/"+x.node, x.node
		if g := p.group; g != nil && (groups[g.name] == nil || g.serial > groups[g.name].serial) {
			groups[g.name] = g
		}
	}
	for name, g := range groups {
		// RAID was started before, so what is not there now will not come. The volumes that
		// are whole are set up.
		if j.groups[name] {
			continue
		}
		j.groups[name] = true
		j.setUp(g, devices)
		for _, v := range g.volumes {
			if n := nodes[v.id]; n != "" {
				j.used([]string{n})
			}
		}
	}
}

func (j *joiner) setUp(g *group, devices map[string]string) {
	for i := range g.logical {
		l := &g.logical[i]
		if !l.visible {
			continue
		}
		table, why := g.table(l, devices)
		if why != "" {
			j.d.leave("logical volume %s/%s %s", g.name, l.name, why)
			continue
		}
		if j.mapper == nil {
			m, err := openMapper()
			if err != nil {
				j.d.leave("%v", err)
				return
			}
			j.mapper = m
		}
		name := mapperName(g.name, l.name)
		node, err := j.mapper.make(name, table)
		if err != nil {
			j.d.leave("%v", err)
			continue
		}
		j.d.put(device{node: node, disk: -1, alias: []string{"/dev/mapper/" + name, "/dev/" + g.name + "/" + l.name}})
	}
}

// put adds a device that was set up.
func (d *devices) put(x device) {
	kind, err := onDevice(&x, func(f *os.File) (string, error) {
		kind, uuid, label := identify(f)
		x.uuid, x.label = uuid, label
		return kind, nil
	})
	if err == nil {
		x.kind = kind
	}
	d.all = append(d.all, x)
}

// onDevice does something with a device's file.
func onDevice[T any](x *device, do func(f *os.File) (T, error)) (out T, err error) {
	f, err := os.Open("/dev/" + x.node)
	if err != nil {
		return out, err
	}
	defer f.Close()
	return do(f)
}
