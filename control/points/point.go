package points

import (
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

func (p *pending) confirmed() bool {
	for _, c := range p.cuts {
		if c.found == nil {
			return false
		}
	}
	return true
}

// each calls fn for every cut in the order of the marker.
func (p *pending) each(fn func(vault.DiskID, *cut)) {
	for _, k := range p.marker.Members {
		for _, d := range k.Disks {
			id := vault.DiskID{Machine: k.Machine, Disk: d.Disk}
			fn(id, p.cuts[id])
		}
	}
}

// point builds the recovery point of a complete marker. Sizes and digests are the
// vault's, facts about the machines are the marker's.
func (p *pending) point() *vault.Point {
	m := p.marker
	out := &vault.Point{
		ID: m.ID, Group: m.Group, Time: time.Unix(0, m.Time).UTC(),
		Consistency: string(m.Consistency), Frozen: time.Duration(m.Frozen), Skew: time.Duration(m.Skew),
	}
	for _, k := range m.Members {
		pm := vault.PointMachine{
			Machine: k.Machine, Host: k.Facts.Host, CPUs: k.Facts.CPUs, Memory: k.Facts.Memory,
			Firmware: k.Facts.Firmware, OS: k.Facts.OS, Kernel: k.Facts.Kernel, NICs: k.Facts.NICs, Frozen: time.Duration(k.Frozen),
		}
		for _, d := range k.Disks {
			c := p.cuts[vault.DiskID{Machine: k.Machine, Disk: d.Disk}]
			if c.found.Consistency != out.Consistency {
				out.Consistency = string(wire.Crash) // promise no more than the weakest cut
			}
			pm.Disks = append(pm.Disks, vault.PointDisk{
				Disk: d.Disk, At: c.at, Size: c.found.Size, Digest: c.found.Digest,
				Frozen: d.Frozen, Note: d.Note,
			})
		}
		out.Machines = append(out.Machines, pm)
	}
	return out
}
