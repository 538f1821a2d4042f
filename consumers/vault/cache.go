package vault

import (
	"container/list"
	"sync"
)

// cache keeps values within a budget, the least recently used go first. Who claims a
// value that is not there has to fetch it; who claims it meanwhile waits.
type cache[K comparable, V any] struct {
	budget int64 // bytes
	size   func(V) int64

	mu      sync.Mutex
	entries map[K]*entry[K, V] // mu guards
	recent  list.List          // mu guards: *entry that are there, most recent first
	used    int64              // mu guards: bytes of recent
}

// entry is a value that is there or on its way. After done is closed value and err do
// not change, and value stays valid even when the cache has dropped it.
type entry[K comparable, V any] struct {
	key   K
	done  chan struct{}
	value V
	err   error
	place *list.Element // cache.mu guards
}

func newCache[K comparable, V any](budget int64, size func(V) int64) *cache[K, V] {
	return &cache[K, V]{budget: budget, size: size, entries: map[K]*entry[K, V]{}}
}

// claim returns the entry of a key, and whether the caller has to complete it.
func (c *cache[K, V]) claim(key K) (e *entry[K, V], mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e = c.entries[key]; e != nil {
		if e.place != nil {
			c.recent.MoveToFront(e.place)
		}
		return e, false
	}
	e = &entry[K, V]{key: key, done: make(chan struct{})}
	c.entries[key] = e
	return e, true
}

// complete hands a value to all who wait for e. Errors are not kept: the next claim
// tries again.
func (c *cache[K, V]) complete(e *entry[K, V], value V, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.value, e.err = value, err
	close(e.done)
	if err != nil {
		delete(c.entries, e.key)
		return
	}
	e.place = c.recent.PushFront(e)
	c.used += c.size(value)
	for c.used > c.budget && c.recent.Len() > 0 {
		old := c.recent.Remove(c.recent.Back()).(*entry[K, V])
		delete(c.entries, old.key)
		c.used -= c.size(old.value)
	}
}

// get returns the value of a key, from fetch if it is not there.
func (c *cache[K, V]) get(key K, fetch func() (V, error)) (V, error) {
	e, mine := c.claim(key)
	if mine {
		v, err := fetch()
		c.complete(e, v, err)
	}
	<-e.done
	return e.value, e.err
}
