package vault

import (
	"cmp"
	"slices"
)

// sized is an object with what it weighs.
type sized struct {
	key  string
	size int64
}

// sample chooses the segments that a check of a subset reads whole.
func (c *checker) sample() {
	if c.o.Subset == 0 || c.o.ReadData {
		return
	}
	var all []sized
	for id, dc := range c.disks {
		for _, e := range dc.history {
			for _, refs := range [][]segmentRef{e.raw, e.folded} {
				for _, r := range refs {
					all = append(all, sized{r.key(id), r.size})
				}
			}
		}
	}
	c.whole, c.report.Next = choose(all, c.o.Subset, c.o.After)
}

// choose takes objects in the order of their keys, those after a key first and then
// from the beginning, until they weigh the share; at least one. It returns the last
// key too.
func choose(all []sized, share float64, after string) (chosen map[string]bool, last string) {
	slices.SortFunc(all, func(a, b sized) int { return cmp.Compare(a.key, b.key) })
	total := int64(0)
	for _, s := range all {
		total += s.size
	}
	from, _ := slices.BinarySearchFunc(all, after, func(s sized, k string) int {
		if s.key <= k {
			return -1
		}
		return 1
	})
	chosen = map[string]bool{}
	taken := int64(0)
	for i := range all {
		s := all[(from+i)%len(all)]
		if i > 0 && float64(taken) >= share*float64(total) {
			break
		}
		chosen[s.key] = true
		taken += s.size
		last = s.key
	}
	return chosen, last
}
