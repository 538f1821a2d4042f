package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// found is where an object is.
type found struct {
	header
	at     []string // key at each member; empty: not there, as far as we know
	doubt  bool     // its put has not returned, and may yet lose
	damage bool     // a shard is missing or not what it should be
}

// look finds the object at a key, or ErrNotFound, or that it cannot know.
func (s *Store) look(ctx context.Context, key string) (*found, error) {
	cells := map[id]int{}
	type cell struct {
		h   *header
		bad bool
	}
	var sure *header
	a := ask(ctx, s, asking[cell]{
		do: func(ctx context.Context, i int, m *member) (cell, error) {
			h, bad, err := s.readCell(ctx, i, m, key)
			return cell{h, bad}, err
		},
		enough: func(_ int, c cell, err error) bool {
			if err != nil || c.h == nil || c.h.kind != kindShard {
				return false
			}
			if cells[c.h.gen]++; cells[c.h.gen] >= s.fast() {
				sure = c.h
			}
			return sure != nil
		},
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if sure != nil {
		f := &found{header: *sure, at: make([]string, s.k+s.m)}
		for i, c := range a.got {
			// Who has not answered has it too, most likely.
			if a.err[i] != nil || c.h != nil && c.h.gen == sure.gen {
				f.at[i] = key
			}
		}
		return f, nil
	}
	if a.ok() == len(a.err) && len(cells) == 0 {
		// The usual miss: there is nothing at all, so nobody has won.
		free := true
		for _, c := range a.got {
			free = free && c.h == nil && !c.bad
		}
		if free {
			return nil, store.ErrNotFound
		}
	}
	v := s.views(ctx, key)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.judge(ctx, key, v)
}

// judge decides from what members know whether there is an object.
func (s *Store) judge(ctx context.Context, key string, v answers[*view]) (*found, error) {
	t := count(v, key)
	away := s.k + s.m - t.seen
	if t.seen < s.majority() || away > s.m {
		return nil, v.trouble(s.k)
	}
	g, won := s.winner(t)
	if !won {
		var ok bool
		if g, ok = s.readable(t); !ok {
			for h, n := range t.cells {
				if n+away+t.bad >= s.fast() {
					return nil, fmt.Errorf("%w: %d of %d shards are there, %d stores are not, %d shards cannot be read (generation %x)", s.absence(away), n, s.k+s.m, away, t.bad, h[:4])
				}
			}
			if t.bad > s.m {
				return nil, fmt.Errorf("%w: %d of %d shards are damaged", store.ErrLost, t.bad, s.k+s.m)
			}
			return nil, store.ErrNotFound
		}
	}
	n := t.holds[g]
	switch {
	case n == 0 && away == 0 && t.bad == 0:
		return nil, store.ErrNotFound // it is just being deleted
	case n < s.k && n+away >= s.k:
		return nil, fmt.Errorf("%w: %d of %d shards are there, %d must be", store.ErrAway, n, s.k+s.m, s.k)
	case n < s.k:
		return nil, fmt.Errorf("%w: %d of %d shards are left, %d must be", store.ErrLost, n, s.k+s.m, s.k)
	}
	f := &found{at: make([]string, s.k+s.m), doubt: !won, damage: n < s.k+s.m}
	for i, x := range v.got {
		if v.err[i] == nil {
			f.at[i] = x.has(key, g)
		}
	}
	return f, s.head(ctx, f, g, t.heads[g])
}

func (s *Store) absence(away int) error {
	if away > 0 {
		return store.ErrAway
	}
	return store.ErrLost
}

// head fills in the header, from a spare if no place has one.
func (s *Store) head(ctx context.Context, f *found, g id, h *header) error {
	if h != nil {
		f.header = *h
		return nil
	}
	for i, at := range f.at {
		m := s.slot(i)
		if at == "" || m == nil {
			continue
		}
		b, err := m.Get(ctx, at, 0, headerSize)
		if err != nil {
			continue
		}
		if h, err := decodeHeader(b); err == nil && h.kind == kindShard && h.gen == g && h.set == s.set {
			f.header = *h
			return nil
		}
	}
	return fmt.Errorf("%w: no shard of it can be read", store.ErrLost)
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := s.check(ctx, key); err != nil {
		return store.Info{}, err
	}
	f, err := s.look(ctx, key)
	if err != nil {
		return store.Info{}, fmt.Errorf("stat %s in %s: %w", key, s.url, err)
	}
	return store.Info{Key: key, Size: f.length, Modified: f.time()}, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := s.check(ctx, key); err != nil {
		return nil, err
	}
	s.mu.Lock()
	f := s.known[key]
	s.mu.Unlock()
	fresh := f == nil
	for {
		if f == nil {
			var err error
			if f, err = s.look(ctx, key); err != nil {
				return nil, fmt.Errorf("get %s in %s: %w", key, s.url, err)
			}
		}
		start, size, err := store.Range(f.length, off, n)
		if err == nil {
			var b []byte
			if b, err = s.read(ctx, f, start, size); err == nil {
				s.remember(key, f)
				return b, nil
			}
		}
		s.mu.Lock()
		delete(s.known, key)
		s.mu.Unlock()
		if fresh || ctx.Err() != nil {
			return nil, fmt.Errorf("get %s in %s: %w", key, s.url, err)
		}
		f, fresh = nil, true // what we knew may be old
	}
}

func (s *Store) remember(key string, f *found) {
	if f.doubt {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[key] = f
}

// piece is a part of one shard's data.
type piece struct {
	i    int
	a, b int64 // in the shard
	to   int64 // in the answer
}

// read returns n bytes at off: from the data shards that have them, or from any k
// where one of those does not answer well.
func (s *Store) read(ctx context.Context, f *found, off, n int64) ([]byte, error) {
	out := make([]byte, n)
	chunk := f.chunk()
	var pieces []piece
	for at := off; at < off+n; {
		i := at / chunk
		a := at - i*chunk
		b := min(chunk, a+off+n-at)
		pieces = append(pieces, piece{int(i), a, b, at - off})
		at += b - a
	}
	var mu sync.Mutex
	var broken []piece
	var g errgroup.Group
	for _, p := range pieces {
		g.Go(func() error {
			data, err := s.readShard(ctx, f, p.i, p.a, p.b)
			if err != nil {
				mu.Lock()
				broken = append(broken, p)
				mu.Unlock()
				return nil
			}
			copy(out[p.to:], data)
			return nil
		})
	}
	_ = g.Wait()
	if len(broken) == 0 {
		return out, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return out, s.rebuild(ctx, f, broken, out)
}

// readShard reads and verifies bytes a to b of the data of shard i.
func (s *Store) readShard(ctx context.Context, f *found, i int, a, b int64) ([]byte, error) {
	m := s.slot(i)
	if m == nil || f.at[i] == "" {
		return nil, errEmptySlot
	}
	if m.down() {
		return nil, errSlow
	}
	off, n, first := f.span(i, a, b)
	type answer struct {
		raw []byte
		err error
	}
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, s.patience/4+time.Duration(n/slowest)*time.Second)
	defer cancel()
	c := make(chan answer, 1) // the member may not care for contexts
	go func() {
		raw, err := m.Get(ctx, f.at[i], off, n)
		c <- answer{raw, err}
	}()
	var x answer
	select {
	case x = <-c:
	case <-ctx.Done():
		x.err = errSlow
	}
	if err := parent.Err(); err != nil {
		return nil, err
	}
	if x.err != nil {
		m.note(x.err)
		return nil, x.err
	}
	if int64(len(x.raw)) != n {
		return nil, malformed("%d bytes of %d", len(x.raw), n)
	}
	data, err := f.unpack(make([]byte, 0, n), i, first, x.raw)
	if err != nil {
		return nil, err
	}
	skip := a - first*blockSize
	return data[skip : skip+b-a], nil
}

// rebuild fills in pieces from any k of the other shards.
func (s *Store) rebuild(ctx context.Context, f *found, pieces []piece, out []byte) error {
	a, b := pieces[0].a, pieces[0].b
	broken := map[int]bool{}
	for _, p := range pieces {
		a, b = min(a, p.a), max(b, p.b)
		broken[p.i] = true
	}
	have := 0
	r := ask(ctx, s, asking[[]byte]{
		n: b - a, only: func(i int) bool { return !broken[i] },
		do: func(ctx context.Context, i int, _ *member) ([]byte, error) {
			part := make([]byte, b-a) // a data shard that ends early ends in zeros
			if end := min(b, f.share(i)); end > a {
				data, err := s.readShard(ctx, f, i, a, end)
				if err != nil {
					return nil, err
				}
				copy(part, data)
			}
			return part, nil
		},
		enough: func(_ int, _ []byte, err error) bool {
			if err == nil {
				have++
			}
			return have >= s.k
		},
	})
	if have < s.k {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, err := range r.err {
			if errors.Is(err, store.ErrAway) && err != errEmptySlot {
				return r.trouble(s.k)
			}
		}
		return fmt.Errorf("%w: %d of %d shards can be read, %d must be", store.ErrLost, have, s.k+s.m, s.k)
	}
	parts := make([][]byte, s.k+s.m)
	for i := range parts {
		if r.err[i] == nil && !broken[i] {
			parts[i] = r.got[i]
		}
	}
	if err := s.code.ReconstructData(parts); err != nil {
		return fmt.Errorf("%w: %w", store.ErrLost, err)
	}
	for _, p := range pieces {
		copy(out[p.to:p.to+p.b-p.a], parts[p.i][p.a-a:p.b-a])
	}
	return nil
}
