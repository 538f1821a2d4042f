package agent

import (
	"sync"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/streams/wire"
)

// maxGenerations bounds the journal: each generation is a bitmap of at most
// 32 MiB per TiB of disk.
const maxGenerations = 16

// linksPerGeneration is how many links share a generation at most.
const linksPerGeneration = 256

// journal remembers which blocks were sent in links that the vault has not
// confirmed. Its memory is bounded by the size of the disk, not by time.
type journal struct {
	mu sync.Mutex
	// guarded by mu:
	generations []*generation // oldest first
}

type generation struct {
	first, last uint64 // links
	blocks      capture.Set
}

// add notes the extents of a link.
func (j *journal) add(number uint64, extents []wire.Extent) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := len(j.generations)
	if n == 0 || j.generations[n-1].last-j.generations[n-1].first+1 >= linksPerGeneration {
		j.generations = append(j.generations, &generation{first: number})
		j.fold()
		n = len(j.generations)
	}
	g := j.generations[n-1]
	g.last = number
	for _, e := range extents {
		g.blocks.Add(e.Start, uint64(e.Count))
	}
}

// fold merges the two oldest generations when there are too many: what they hold
// is kept longer than needed, never shorter.
func (j *journal) fold() {
	if len(j.generations) <= maxGenerations {
		return
	}
	a, b := j.generations[0], j.generations[1]
	b.first = a.first
	b.blocks.Merge(&a.blocks)
	j.generations = j.generations[1:]
}

// confirm forgets the generations that the vault holds up to number.
func (j *journal) confirm(number uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(j.generations) > 0 && j.generations[0].last <= number {
		j.generations = j.generations[1:]
	}
}

// take empties the journal and returns every block that is not confirmed.
func (j *journal) take() *capture.Set {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := j.union()
	j.generations = nil
	return all
}

// peek returns every block that is not confirmed.
func (j *journal) peek() *capture.Set {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.union()
}

// union returns the blocks of all generations. The caller holds the lock.
func (j *journal) union() *capture.Set {
	all := new(capture.Set)
	for _, g := range j.generations {
		all.Merge(&g.blocks)
	}
	return all
}
