package place

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const again = 2 * time.Second // between attempts to open

// lazy is a store that was away when it should have been opened.
type lazy struct {
	url string

	mu    sync.Mutex
	s     store.Store // mu guards; nil: still away
	err   error       // mu guards: why
	tried time.Time   // mu guards
}

var (
	_ store.Syncer = (*lazy)(nil)
	_ store.Stager = (*lazy)(nil)
)

func (l *lazy) get() (store.Store, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.s != nil {
		return l.s, nil
	}
	if time.Since(l.tried) > again {
		l.s, l.err = openOne(l.url, false)
		l.tried = time.Now()
		if l.err == nil {
			return l.s, nil
		}
		l.s = nil
	}
	return nil, fmt.Errorf("%w: %v", store.ErrAway, l.err) // not wrapped: it must not look like an object that is not there
}

// URL implements store.Store.
func (l *lazy) URL() string { return l.url }

// Put implements store.Store.
func (l *lazy) Put(ctx context.Context, key string, data []byte) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.Put(ctx, key, data)
}

// Stage implements store.Stager.
func (l *lazy) Stage(ctx context.Context, key string, data []byte) (store.Staged, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return store.Stage(ctx, s, key, data)
}

// Get implements store.Store.
func (l *lazy) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, key, off, n)
}

// Stat implements store.Store.
func (l *lazy) Stat(ctx context.Context, key string) (store.Info, error) {
	s, err := l.get()
	if err != nil {
		return store.Info{}, err
	}
	return s.Stat(ctx, key)
}

// List implements store.Store.
func (l *lazy) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.List(ctx, prefix, yield)
}

// Delete implements store.Store.
func (l *lazy) Delete(ctx context.Context, key string) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return s.Delete(ctx, key)
}

// Sync implements store.Syncer.
func (l *lazy) Sync(ctx context.Context, prefix string) error {
	s, err := l.get()
	if err != nil {
		return err
	}
	return store.Sync(ctx, s, prefix)
}
