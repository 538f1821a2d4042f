package vault

import (
	"container/list"
	"sync"
)

// cache keeps unpacked frames within a budget, the least recently used go first. Who
// claims a frame that is not there has to fetch it; who claims it meanwhile waits.
type cache struct {
	budget int64 // bytes

	mu      sync.Mutex
	entries map[uint32]*entry // mu guards
	recent  list.List         // mu guards: *entry that are there, most recent first
	used    int64             // mu guards: bytes of recent
}

// entry is a frame that is there or on its way. After done is closed data and err
// do not change, and data stays valid even when the cache has dropped it.
type entry struct {
	frame uint32
	done  chan struct{}
	data  []byte
	err   error
	place *list.Element // cache.mu guards
}

func newCache(budget int64) *cache {
	return &cache{budget: budget, entries: map[uint32]*entry{}}
}

// claim returns the entry of a frame, and whether the caller has to complete it.
func (c *cache) claim(frame uint32) (e *entry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.entries[frame]; e != nil {
		if e.place != nil {
			c.recent.MoveToFront(e.place)
		}
		return e, false
	}
	e = &entry{frame: frame, done: make(chan struct{})}
	c.entries[frame] = e
	return e, true
}

// complete hands data to all who wait for e. Errors are not kept: the next claim
// tries again.
func (c *cache) complete(e *entry, data []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.data, e.err = data, err
	close(e.done)
	if err != nil {
		delete(c.entries, e.frame)
		return
	}
	e.place = c.recent.PushFront(e)
	c.used += int64(len(data))
	for c.used > c.budget && c.recent.Len() > 0 {
		old := c.recent.Remove(c.recent.Back()).(*entry)
		delete(c.entries, old.frame)
		c.used -= int64(len(old.data))
	}
}
