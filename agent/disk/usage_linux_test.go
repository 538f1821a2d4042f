package disk

import (
	"os"
	"path/filepath"
	"testing"
)

// tree makes files and, where the content begins with "->", symbolic links.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := cutArrow(content); ok {
			err = os.Symlink(filepath.Join(root, to), path)
		} else {
			err = os.WriteFile(path, []byte(content+"\n"), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func cutArrow(s string) (string, bool) {
	if len(s) > 2 && s[:2] == "->" {
		return s[2:], true
	}
	return "", false
}

// A server as they are: LVM over a partition, a volume of it over two disks, a
// btrfs over two disks, swap on a volume and in a file, another disk beside.
func server(t *testing.T) host {
	t.Helper()
	root := tree(t, map[string]string{
		"sys/dev/block/8:0": "->sys/devices/sda", "sys/devices/sda/dev": "8:0",
		"sys/dev/block/8:1": "->sys/devices/sda/sda1", "sys/devices/sda/sda1/dev": "8:1", "sys/devices/sda/sda1/partition": "1",
		"sys/dev/block/8:2": "->sys/devices/sda/sda2", "sys/devices/sda/sda2/dev": "8:2", "sys/devices/sda/sda2/partition": "2",
		"sys/dev/block/8:16": "->sys/devices/sdb", "sys/devices/sdb/dev": "8:16",
		"sys/dev/block/8:32": "->sys/devices/sdc", "sys/devices/sdc/dev": "8:32",
		"sys/dev/block/253:0": "->sys/devices/dm-0", "sys/devices/dm-0/dev": "253:0",
		"sys/dev/block/253:1": "->sys/devices/dm-1", "sys/devices/dm-1/dev": "253:1",
		"sys/dev/block/7:0": "->sys/devices/loop0", "sys/devices/loop0/dev": "7:0", "sys/devices/loop0/loop/backing_file": "/srv/vm image",
		"sys/devices/sda/sda2/holders/dm-0": "->sys/devices/dm-0", "sys/devices/dm-0/slaves/sda2": "->sys/devices/sda/sda2",
		"sys/devices/sda/sda2/holders/dm-1": "->sys/devices/dm-1", "sys/devices/dm-1/slaves/sda2": "->sys/devices/sda/sda2",
		"sys/devices/sdb/holders/dm-1": "->sys/devices/dm-1", "sys/devices/dm-1/slaves/sdb": "->sys/devices/sdb",
		"sys/block/loop0":               "->sys/devices/loop0",
		"sys/class/block/nvme0n1":       "->sys/devices/sdb",
		"sys/class/block/nvme1n1":       "->sys/devices/sdc",
		"sys/fs/btrfs/uuid/devices/sdb": "->sys/devices/sdb",
		"sys/fs/btrfs/uuid/devices/sdc": "->sys/devices/sdc",
		"sys/fs/xfs/sda1/log/log_head":  "1",
		"proc/swaps":                    "Filename Type Size Used Priority\n/srv/swap file 1 0 -2\n/elsewhere/swap file 1 0 -2",
		"proc/self/mountinfo": `20 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw
21 20 253:1 / /srv rw - xfs /dev/mapper/vg-srv rw
22 20 0:44 /@ /data rw - btrfs /dev/nvme1n1 rw
23 20 0:44 /@home /home rw - btrfs /dev/nvme1n1 rw
24 20 7:0 / /vm ro - ext4 /dev/loop0 ro
25 20 0:5 / /elsewhere rw - tmpfs tmpfs rw`,
	})
	return host{sys: filepath.Join(root, "sys"), proc: filepath.Join(root, "proc")}
}

func (u *Usage) paths() (paths []string) {
	for _, m := range u.Mounts {
		paths = append(paths, m.Path)
	}
	return paths
}

func TestUsageOfStackedDisks(t *testing.T) {
	h := server(t)
	for _, c := range []struct {
		minor  uint32
		paths  map[string]int // depth
		swaps  int
		hidden int
	}{
		{0, map[string]int{"/vm": 1, "/": 0, "/srv": 0}, 1, 1},
		{16, map[string]int{"/vm": 1, "/srv": 0, "/data": 0}, 1, 0},
		{32, map[string]int{"/data": 0}, 0, 0},
	} {
		u, err := h.inspect(&Disk{info: info{block: true, major: 8, minor: c.minor}})
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Mounts) != len(c.paths) || len(u.Swaps) != c.swaps || len(u.Hidden) != c.hidden {
			t.Errorf("8:%d: mounts %v, swaps %v, hidden %v", c.minor, u.paths(), u.Swaps, u.Hidden)
		}
		for i, m := range u.Mounts {
			if d, ok := c.paths[m.Path]; !ok || d != m.Depth || i > 0 && u.Mounts[i-1].Depth < m.Depth {
				t.Errorf("8:%d: mount %d is %+v", c.minor, i, m)
			}
		}
	}
}

// A loop device over a file on its own filesystem cannot be, but must not hang.
func TestDepthOfACircle(t *testing.T) {
	root := tree(t, map[string]string{
		"sys/dev/block/7:0": "->sys/devices/loop0", "sys/devices/loop0/dev": "7:0", "sys/devices/loop0/loop/backing_file": "/file",
		"sys/block/loop0": "->sys/devices/loop0", "proc/swaps": "Filename",
		"proc/self/mountinfo": "20 1 7:0 / / rw - ext4 /dev/loop0 rw",
	})
	h := host{sys: filepath.Join(root, "sys"), proc: filepath.Join(root, "proc")}
	u, err := h.inspect(&Disk{info: info{block: true, major: 7}})
	if err != nil || len(u.Mounts) != 1 {
		t.Fatalf("got %+v, %v", u, err)
	}
}
