package shard

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const (
	listAhead = 1024 // entries of a member's list that wait for the others
	batch     = 128  // keys looked at together
	atOnce    = 16
)

// entry is a key as the members' lists show it.
type entry struct {
	key    string
	cells  []store.Info // by member; Key is empty where there is none
	n      int          // members that show it
	away   int          // members that could not be asked
	record bool         // somebody went the slow way here
	commit bool
}

// walk calls yield for every key with a prefix that any member shows, ascending.
func (s *Store) walk(ctx context.Context, prefix string, yield func(entry) error) error {
	records, err := s.recorded(ctx, prefix)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	n := s.k + s.m
	lists := make([]*stream, n)
	for i := range n {
		lists[i] = s.stream(ctx, &wg, i, prefix)
	}
	slow := make([]string, 0, len(records))
	for key := range records {
		slow = append(slow, key)
	}
	slices.Sort(slow)
	for {
		e := entry{cells: make([]store.Info, n)}
		var errs []error
		for _, l := range lists {
			if err := l.peek(ctx); err != nil {
				errs = append(errs, err)
			} else if l.head != nil && (e.key == "" || l.head.Key < e.key) {
				e.key = l.head.Key
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.away = len(errs); e.away > s.m {
			return fmt.Errorf("%w: %d of %d stores can be listed, %d must be: %w", store.ErrAway, n-e.away, n, s.k, errors.Join(errs...))
		}
		if len(slow) > 0 && (e.key == "" || slow[0] < e.key) {
			e.key = slow[0]
		}
		if e.key == "" {
			return nil
		}
		if len(slow) > 0 && slow[0] == e.key {
			e.record, e.commit = true, records[e.key]
			slow = slow[1:]
		}
		for i, l := range lists {
			if l.head != nil && l.head.Key == e.key {
				e.cells[i], l.head = *l.head, nil
				e.n++
			}
		}
		if err := yield(e); err != nil {
			return err
		}
	}
}

// recorded lists the keys with records, and whether one says who won.
func (s *Store) recorded(ctx context.Context, prefix string) (map[string]bool, error) {
	a := ask(ctx, s, asking[map[string]bool]{
		n: 1 << 30, // as long as it takes
		do: func(ctx context.Context, _ int, m *member) (map[string]bool, error) {
			keys := map[string]bool{}
			err := m.List(ctx, recordsAt+prefix, func(i store.Info) error {
				at := strings.LastIndexByte(i.Key, '/')
				if key := i.Key[len(recordsAt):at]; strings.HasPrefix(key, prefix) {
					keys[key] = keys[key] || strings.HasPrefix(i.Key[at+1:], commitMark)
				}
				return nil
			})
			return keys, err
		},
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if a.ok() < s.k {
		return nil, a.trouble(s.k)
	}
	all := map[string]bool{}
	for i, keys := range a.got {
		if a.err[i] != nil {
			continue
		}
		for key, commit := range keys {
			all[key] = all[key] || commit
		}
	}
	return all, nil
}

// stream is a member's list on its way.
type stream struct {
	c    chan store.Info
	head *store.Info
	end  bool
	err  error // valid after c is closed
}

func (s *Store) stream(ctx context.Context, wg *sync.WaitGroup, i int, prefix string) *stream {
	l := &stream{c: make(chan store.Info, listAhead)}
	m := s.slot(i)
	if m == nil || m.down() {
		l.err = errEmptySlot
		close(l.c)
		return l
	}
	wg.Go(func() {
		defer close(l.c)
		l.err = m.List(ctx, prefix, func(i store.Info) error {
			if strings.HasPrefix(i.Key, reserved) {
				return nil
			}
			select {
			case l.c <- i:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if ctx.Err() == nil {
			m.note(l.err)
		}
	})
	return l
}

// peek fills head, or returns why the list broke off. At its end head stays nil.
func (l *stream) peek(ctx context.Context) error {
	if l.head != nil {
		return nil
	}
	if !l.end {
		select {
		case i, ok := <-l.c:
			if ok {
				l.head = &i
				return nil
			}
			l.end = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return l.err
}

// info says what the object is from the sizes of its shards alone.
func (s *Store) info(e entry) (store.Info, bool) {
	if e.record || e.n < s.k {
		return store.Info{}, false
	}
	h := header{k: s.k, m: s.m}
	for i := range s.k {
		n := unstored(e.cells[i].Size)
		if e.cells[i].Key == "" || n < 0 {
			return store.Info{}, false
		}
		h.length += n
	}
	out := store.Info{Key: e.key, Size: h.length}
	for i, c := range e.cells {
		if c.Key == "" {
			continue
		}
		if c.Size != stored(h.share(i)) {
			return store.Info{}, false
		}
		if out.Modified.IsZero() || c.Modified.Before(out.Modified) {
			out.Modified = c.Modified
		}
	}
	return out, true
}

// List implements store.Store. It shows what can be read, and what could be if a store
// came back.
func (s *Store) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("list %s: %w", s.url, err)
	}
	s.rejoin(ctx)
	var stopped error
	var waiting []entry
	flush := func() error {
		infos, err := s.infos(ctx, waiting)
		waiting = waiting[:0]
		if err != nil {
			return err
		}
		for _, i := range infos {
			if i == nil {
				continue
			}
			if stopped = yield(*i); stopped != nil {
				return stopped
			}
		}
		return nil
	}
	err := s.walk(ctx, prefix, func(e entry) error {
		if !e.record && e.n < s.k && e.n+e.away < s.fast() {
			return nil // a put that broke off
		}
		if waiting = append(waiting, e); len(waiting) < batch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if stopped != nil {
		return stopped
	}
	if err != nil {
		if e := ctx.Err(); e != nil {
			return e
		}
		return fmt.Errorf("list %s: %w", s.url, err)
	}
	return nil
}

// infos completes entries; nil for those that are no objects.
func (s *Store) infos(ctx context.Context, es []entry) ([]*store.Info, error) {
	out := make([]*store.Info, len(es))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for j, e := range es {
		if i, ok := s.info(e); ok {
			out[j] = &i
			continue
		}
		g.Go(func() error {
			f, err := s.look(ctx, e.key)
			switch {
			case err == nil:
				out[j] = &store.Info{Key: e.key, Size: f.length, Modified: f.time()}
			case errors.Is(err, store.ErrNotFound):
			case ctx.Err() != nil:
				return ctx.Err()
			default: // it is there, if not to be had: Get says why
				out[j] = &store.Info{Key: e.key}
				for _, c := range e.cells {
					if c.Key != "" {
						out[j].Modified = c.Modified
					}
				}
			}
			return nil
		})
	}
	return out, g.Wait()
}

// Sync implements store.Syncer: what List shows is durable at its members, and no put
// that is still under way can take its place.
func (s *Store) Sync(ctx context.Context, prefix string) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("sync %s: %w", s.url, err)
	}
	s.rejoin(ctx)
	a := ask(ctx, s, asking[struct{}]{n: 1 << 30, do: func(ctx context.Context, _ int, m *member) (struct{}, error) {
		if err := store.Sync(ctx, m.Store, recordsAt+prefix); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, store.Sync(ctx, m.Store, prefix)
	}})
	if err := ctx.Err(); err != nil {
		return err
	}
	if a.ok() < s.k {
		return fmt.Errorf("sync %s: %w", s.url, a.trouble(s.k))
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	err := s.walk(ctx, prefix, func(e entry) error {
		if e.commit || s.isSettled(e.key) || !e.record && e.n < s.k && e.n+e.away < s.fast() {
			return nil
		}
		g.Go(func() error { return s.ascertain(gctx, e.key) })
		return gctx.Err()
	})
	if e := g.Wait(); e != nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("sync %s: %w", s.url, err)
	}
	return nil
}

// ascertain makes sure that an object that can be seen has won.
func (s *Store) ascertain(ctx context.Context, key string) error {
	f, err := s.look(ctx, key)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrLost):
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", key, err)
	case !f.doubt:
		s.settle(key, true)
		return nil
	}
	if _, err := s.agree(ctx, key, nil); err != nil && !errors.Is(err, errOpen) {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}
