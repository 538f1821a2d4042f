package standby

import (
	"cmp"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/azure"
)

// Task is one disk to do something with.
type Task struct {
	Key   azure.Key
	Drop  bool             // nobody wants it any more
	Point *vault.Point     // to bring it to
	Disk  *vault.PointDisk // there
	Limit time.Duration    // how far behind it may be
}

// Due returns what is to be done now, the oldest copy first. want says of every machine that
// is to have copies how far they may be behind; all are the recovery points; have is what is
// kept.
func Due(owner string, want map[string]time.Duration, all []*vault.Point, have []azure.KeptDisk) (tasks []Task) {
	kept, fresh := map[azure.Key]azure.KeptDisk{}, map[azure.Key]bool{}
	for _, k := range have {
		kept[k.Key] = k
	}
	for machine, interval := range want {
		p, err := failover.Select(all, machine, failover.LatestProcessed)
		if err != nil {
			for k := range kept {
				fresh[k] = fresh[k] || k.Machine == machine // it has no points now; that is no reason to lose it
			}
			continue
		}
		for i := range p.Machines {
			if p.Machines[i].Machine != machine {
				continue
			}
			for d := range p.Machines[i].Disks {
				disk := &p.Machines[i].Disks[d]
				key := azure.Key{Owner: owner, Machine: machine, Disk: disk.Disk}
				k, there := kept[key]
				fresh[key] = true
				if there && k.Sure && k.Size == int64(disk.Size) && p.Time.Sub(k.Time) < interval && !k.Time.IsZero() {
					continue
				}
				tasks = append(tasks, Task{Key: key, Point: p, Disk: disk, Limit: interval})
			}
		}
	}
	slices.SortFunc(tasks, func(a, b Task) int {
		return cmp.Or(kept[a.Key].Time.Compare(kept[b.Key].Time), cmp.Compare(a.Key.Machine, b.Key.Machine), cmp.Compare(a.Key.Disk, b.Key.Disk))
	})
	for _, k := range have {
		if !fresh[k.Key] {
			tasks = append(tasks, Task{Key: k.Key, Drop: true})
		}
	}
	return tasks
}
