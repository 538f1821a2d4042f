package agent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

// checkSpool makes sure that the spool is not on a disk that is protected: each write
// to it would be a change of that disk, and would wait for ever in a freeze.
func (a *Agent) checkSpool(dev *disk.Disk) error {
	if a.cfg.Spool == "" {
		return nil
	}
	on, ok, err := disk.FilesystemOf(a.cfg.Spool)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if !ok {
		return nil // in memory, or from another machine
	}
	u, err := disk.Inspect(dev)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(u.Mounts, func(m disk.Mount) bool { return m.Major == on.Major && m.Minor == on.Minor }) {
		return fmt.Errorf("spool %s is on %s, which is on the protected disk %s: name a directory on another disk, or none", a.cfg.Spool, on.Path, dev.Path())
	}
	return nil
}

// scanOptions are for reading whole disks.
func (c Config) scanOptions() scan.Options {
	return scan.Options{BytesPerSecond: c.ScanRate, TableDir: c.Spool}
}

// writesTo are the paths that this process writes to, or might, while filesystems are
// frozen: whatever holds one of them is not frozen.
func (c Config) writesTo() []string {
	paths := []string{c.StateDir}
	if c.Spool != "" {
		paths = append(paths, c.Spool)
	}
	// A log in a file: nothing is logged on purpose during a freeze, but a library may.
	for _, fd := range []string{"1", "2"} {
		path, err := os.Readlink(filepath.Join("/proc/self/fd", fd))
		if err != nil {
			continue
		}
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// checkpointBytes of a disk are compared before what was sent of it is known to be in
// the stream, so that a comparison that is interrupted need not begin again.
const checkpointBytes = 1 << 30

func (c Config) checkpointBlocks() uint64 {
	return cmp.Or(c.checkpoint, checkpointBytes) / wire.BlockSize
}

// looked is how far a comparison got: of the blocks before next everything that had to
// be sent is in links of an epoch, and so in the journal.
type looked struct{ epoch, next uint64 }

// begin is where a comparison in an epoch with the given base begins: where the one
// before stopped, if the vault has what this process sent and nobody else's.
func (r *replica) begin(base uint64) uint64 {
	if r.looked.epoch != base || base == 0 {
		r.looked = looked{}
	}
	r.looked.epoch = r.pub.Epoch()
	return min(r.looked.next, r.dev.Blocks())
}

// settled notes that a comparison need not look at the blocks before next again.
func (r *replica) settled(ctx context.Context, flush func(context.Context) error, next uint64) error {
	if err := flush(ctx); err != nil {
		return err
	}
	if _, err := r.pub.Flush(ctx); err != nil {
		return err
	}
	r.looked = looked{r.pub.Epoch(), next}
	return nil
}
