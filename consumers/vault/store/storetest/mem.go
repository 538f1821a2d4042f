package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Op is one operation on a Mem.
type Op struct {
	N    int    // counts the operations from 1
	Verb string // "put", "get", "stat", "list" or "delete"
	Key  string // or prefix
}

// Fault is what happens to an operation. The zero Fault lets it pass.
type Fault struct {
	Delay time.Duration // before it, or until its context ends
	Err   error         // it fails with this
	Done  bool          // with Err: it fails although it took effect
	Torn  int           // with Err, for put: as Done, but with so many bytes only; no store may do this
	Short int           // for get: so many bytes fewer, and no error; no store may do this
	Flip  bool          // for get: one bit is wrong; no store may do this
}

// Mem is a store in memory.
type Mem struct {
	mu      sync.Mutex
	objects map[string]object // mu guards
	sorted  []string          // mu guards; the keys, ascending; nil after one came or went
	faults  func(Op) Fault    // mu guards
	n       int               // mu guards
}

type object struct {
	data     []byte // never changed in place
	modified time.Time
}

var _ store.Store = (*Mem)(nil)

// NewMem returns an empty store.
func NewMem() *Mem { return &Mem{objects: map[string]object{}} }

// Faults sets what decides about every operation from now on, nil for no faults. f is
// called by one operation at a time.
func (m *Mem) Faults(f func(Op) Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = f
}

// Ops returns how many operations there were.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.n
}

// Clone returns a store with the same objects and no faults.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := NewMem()
	for k, o := range m.objects {
		c.objects[k] = o
	}
	return c
}

// Keys returns all keys, ascending.
func (m *Mem) Keys() []string {
	return slices.Clone(m.under(""))
}

// under returns the keys with a prefix, ascending. They must not be changed.
func (m *Mem) under(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sorted == nil {
		m.sorted = slices.Sorted(maps.Keys(m.objects))
	}
	from, _ := slices.BinarySearch(m.sorted, prefix)
	n := sort.Search(len(m.sorted)-from, func(i int) bool { return !strings.HasPrefix(m.sorted[from+i], prefix) })
	return m.sorted[from : from+n]
}

// Bytes returns a copy of an object, nil if there is none.
func (m *Mem) Bytes(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.objects[key].data)
}

// Set creates or replaces an object behind the back of the contract.
func (m *Mem) Set(key string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = object{data: bytes.Clone(data), modified: time.Now()}
	m.sorted = nil
}

// Remove removes an object behind the back of the contract.
func (m *Mem) Remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	m.sorted = nil
}

// URL returns "mem:".
func (m *Mem) URL() string { return "mem:" }

// begin lets the faults decide, then looks at the context.
func (m *Mem) begin(ctx context.Context, verb, key string) (Fault, error) {
	var f Fault
	m.mu.Lock()
	m.n++
	if m.faults != nil {
		f = m.faults(Op{N: m.n, Verb: verb, Key: key})
	}
	m.mu.Unlock()
	if f.Delay > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(f.Delay):
		}
	}
	if err := ctx.Err(); err != nil {
		return f, err
	}
	if f.Err != nil && !f.Done && f.Torn == 0 {
		return f, fmt.Errorf("%s %s in %s: %w", verb, key, m.URL(), f.Err)
	}
	return f, nil
}

func (m *Mem) failed(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s in %s: %w", verb, key, m.URL(), err)
}

// Put implements store.Store.
func (m *Mem) Put(ctx context.Context, key string, data []byte) error {
	f, err := m.begin(ctx, "put", key)
	if err != nil {
		return err
	}
	if err := store.CheckKey(key); err != nil {
		return m.failed("put", key, err)
	}
	if f.Torn > 0 {
		data = data[:min(f.Torn, len(data))]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[key]; ok {
		return m.failed("put", key, store.ErrExists)
	}
	m.objects[key] = object{data: bytes.Clone(data), modified: time.Now()}
	m.sorted = nil
	return m.failed("put", key, f.Err)
}

// Get implements store.Store.
func (m *Mem) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	f, err := m.begin(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	if err := store.CheckKey(key); err != nil {
		return nil, m.failed("get", key, err)
	}
	m.mu.Lock()
	o, ok := m.objects[key]
	m.mu.Unlock()
	if !ok {
		return nil, m.failed("get", key, store.ErrNotFound)
	}
	start, count, err := store.Range(int64(len(o.data)), off, n)
	if err != nil {
		return nil, m.failed("get", key, err)
	}
	if f.Err != nil {
		return nil, m.failed("get", key, f.Err)
	}
	b := bytes.Clone(o.data[start : start+count])
	if f.Flip && len(b) > 0 {
		b[len(b)/2] ^= 1
	}
	return b[:max(0, len(b)-f.Short)], nil
}

// Stat implements store.Store.
func (m *Mem) Stat(ctx context.Context, key string) (store.Info, error) {
	f, err := m.begin(ctx, "stat", key)
	if err != nil {
		return store.Info{}, err
	}
	if err := store.CheckKey(key); err != nil {
		return store.Info{}, m.failed("stat", key, err)
	}
	m.mu.Lock()
	o, ok := m.objects[key]
	m.mu.Unlock()
	if !ok {
		return store.Info{}, m.failed("stat", key, store.ErrNotFound)
	}
	return store.Info{Key: key, Size: int64(len(o.data)), Modified: o.modified}, m.failed("stat", key, f.Err)
}

// List implements store.Store.
func (m *Mem) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	f, err := m.begin(ctx, "list", prefix)
	if err != nil {
		return err
	}
	if err := store.CheckPrefix(prefix); err != nil {
		return m.failed("list", prefix, err)
	}
	for _, k := range m.under(prefix) {
		m.mu.Lock()
		o, ok := m.objects[k]
		m.mu.Unlock()
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := yield(store.Info{Key: k, Size: int64(len(o.data)), Modified: o.modified}); err != nil {
			return err
		}
	}
	return m.failed("list", prefix, f.Err)
}

// Delete implements store.Store.
func (m *Mem) Delete(ctx context.Context, key string) error {
	f, err := m.begin(ctx, "delete", key)
	if err != nil {
		return err
	}
	if err := store.CheckKey(key); err != nil {
		return m.failed("delete", key, err)
	}
	m.Remove(key)
	return m.failed("delete", key, f.Err)
}
