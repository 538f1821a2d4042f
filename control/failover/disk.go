package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
)

// Disk shows one disk of a recovery point to a target.
type Disk struct {
	*vault.Reader
	name    string
	promise vault.Digest
	id      vault.DiskID
	at      vault.Position
	v       *vault.Vault
}

var _ target.Versioned = Disk{}

// Name implements target.Disk.
func (d Disk) Name() string { return d.name }

// Digest implements target.Disk.
func (d Disk) Digest() [32]byte { return d.promise }

// Restore implements target.Restorer.
func (d Disk) Restore(ctx context.Context, dst io.WriterAt, progress target.Progress) error {
	o := vault.RestoreOptions{}
	if progress != nil {
		o.Progress = func(done, total int64) { progress(d.name, done, total) }
	}
	_, err := d.Reader.Restore(ctx, dst, o)
	return err
}

// Verify implements target.Verifier. What lies outside the extents is zeros in a copy.
func (d Disk) Verify(ctx context.Context, src io.ReaderAt) error {
	var got vault.Digest
	var err error
	buf := make([]byte, 256*target.BlockSize)
	d.Extents(func(off, length int64) bool { // whole blocks, but for the disk's last
		for end := off + length; off < end && err == nil; off += int64(len(buf)) {
			n := min(int64(len(buf)), end-off)
			if _, rerr := src.ReadAt(buf[:n], off); rerr != nil && !errors.Is(rerr, io.EOF) {
				err = rerr
				break
			}
			clear(buf[n:])
			for at := int64(0); at < n; at += target.BlockSize {
				got.Replace(uint64((off+at)/target.BlockSize), vault.Sum{}, vault.SumOf(buf[at:at+target.BlockSize]))
			}
			err = ctx.Err()
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if got != d.promise {
		return fmt.Errorf("it has digest %x, the recovery point promises %x", got[:8], d.promise[:8])
	}
	return nil
}

// Version implements target.Versioned: the position in the disk's history.
func (d Disk) Version() string { return d.at.String() }

// Since implements target.Versioned by the sums of the blocks, which the vault has for every
// position that it keeps.
func (d Disk) Since(ctx context.Context, versions []string, yield func(off, length int64) bool) error {
	now, err := d.v.SumsAt(ctx, d.id, d.at)
	if err != nil {
		return err
	}
	var runs [][2]uint64 // first block, and the one behind the last
	for _, name := range versions {
		var at vault.Position
		if _, err := fmt.Sscanf(name, "%d/%d", &at.Epoch, &at.Number); err != nil || at.String() != name {
			return fmt.Errorf("%w: %q is no position", target.ErrNoVersion, name)
		}
		then, err := d.v.SumsAt(ctx, d.id, at)
		if errors.Is(err, vault.ErrNotFound) || err == nil && then.Size() != now.Size() {
			return fmt.Errorf("%w: disk %s at %s", target.ErrNoVersion, d.id, at)
		}
		if err != nil {
			return err
		}
		now.Differ(then, func(start, count uint64) bool {
			runs = append(runs, [2]uint64{start, start + count})
			return true
		})
	}
	slices.SortFunc(runs, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
	for i := 0; i < len(runs); {
		start, end := runs[i][0], runs[i][1]
		for i++; i < len(runs) && runs[i][0] <= end; i++ {
			end = max(end, runs[i][1])
		}
		off := int64(start) * target.BlockSize
		if !yield(off, min(int64(end)*target.BlockSize, d.Size())-off) {
			break
		}
	}
	return nil
}

// Data returns how many bytes of the disk may hold data; the rest is zero.
func (d Disk) Data() (n int64) {
	d.Extents(func(_, length int64) bool { n += length; return true })
	return n
}

// disks holds the open disks of a machine.
type disks []Disk

func (all disks) Close() {
	for _, d := range all {
		d.Reader.Close() // read-only: there is nothing to lose
	}
}

func (all disks) fetched() (n int64) {
	for _, d := range all {
		n += d.BytesFetched()
	}
	return n
}

// OpenDisk opens a disk of a recovery point and holds the vault to what the point
// promised: a size or digest that differs is damage, not a detail.
func OpenDisk(ctx context.Context, v *vault.Vault, id vault.DiskID, k *vault.PointDisk) (Disk, error) {
	r, err := v.OpenAt(ctx, id, k.At, vault.ReaderOptions{})
	if err != nil {
		return Disk{}, fmt.Errorf("open disk %s at %s: %w", id, k.At, err)
	}
	switch {
	case r.Size() != int64(k.Size):
		err = fmt.Errorf("disk %s has %d bytes in the vault, the point says %d: run leeward vault check", id, r.Size(), k.Size)
	case r.Digest() != k.Digest:
		err = fmt.Errorf("disk %s has another digest in the vault than the point promises: run leeward vault check", id)
	}
	if err != nil {
		r.Close() // read-only: there is nothing to lose
		return Disk{}, err
	}
	return Disk{Reader: r, name: k.Disk, promise: k.Digest, id: id, at: k.At, v: v}, nil
}

// open opens every disk of a machine at a point.
func open(ctx context.Context, v *vault.Vault, m *vault.PointMachine) (all disks, err error) {
	defer func() {
		if err != nil {
			all.Close()
		}
	}()
	for i := range m.Disks {
		k := &m.Disks[i]
		d, err := OpenDisk(ctx, v, vault.DiskID{Machine: m.Machine, Disk: k.Disk}, k)
		if err != nil {
			return all, err
		}
		all = append(all, d)
	}
	return all, nil
}

// machine says what to bring up: the protected machine at a point, changed as o wants.
func machine(p *vault.Point, m *vault.PointMachine, all disks, o Options) *target.Machine {
	t := &target.Machine{Name: m.Machine, CPUs: int(m.CPUs), Memory: int64(m.Memory), Firmware: m.Firmware, Point: p.ID, Time: p.Time}
	if o.CPUs > 0 {
		t.CPUs = o.CPUs
	}
	if o.MemoryBytes > 0 {
		t.Memory = o.MemoryBytes
	}
	if o.Firmware != "" {
		t.Firmware = o.Firmware
	}
	for _, d := range all {
		t.Disks = append(t.Disks, d)
	}
	return t
}
