package disk

// Mount is a mounted filesystem: one per superblock, however often it is mounted.
type Mount struct {
	ID     int      // mount id of Path in /proc/self/mountinfo
	Path   string   // where it is mounted, the best place if there are several
	Also   []string // other places
	Source string   // as given to mount
	FSType string   // "ext4", "xfs", "btrfs", …
	// Major and Minor are the superblock's device as stat(2) shows it for most
	// filesystems; btrfs has numbers of its own that no device carries.
	Major, Minor uint32
	Device       string // kernel name of the block device it lives on: "sda1", "dm-0"
	ReadOnly     bool   // the filesystem, not only this mount of it
	// Depth counts the loop devices below: 0 on a disk, 1 on a loop device over a
	// file on such a filesystem. Freeze in falling order: a filesystem above can
	// only be frozen while the one below still takes writes.
	Depth int
}

// Swap is an active swap area.
type Swap struct {
	Path string
	File bool // a file on a filesystem, else a partition or disk
}

// Usage is everything that uses a disk.
type Usage struct {
	Mounts []Mount  // filesystems, highest Depth first
	Swaps  []Swap   // swap areas on the disk itself or in files on its filesystems
	Hidden []string // devices whose filesystem is mounted only where this process cannot see it
}

// Mounts lists the filesystems mounted from a disk, its partitions, what is
// stacked on them and loop devices over files on them, highest Depth first.
func Mounts(d *Disk) ([]Mount, error) {
	u, err := Inspect(d)
	if err != nil {
		return nil, err
	}
	return u.Mounts, nil
}
