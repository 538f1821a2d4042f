package shard

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// young is how old what a broken put left must be before Repair takes it away: the
// put may still be under way.
const young = 24 * time.Hour

// repair is one run of Repair.
type repair struct {
	s      *Store
	write  bool
	report func(store.Finding)
	now    time.Time
}

// Repair implements store.Repairer. Every shard is read. What is missing, damaged or
// not the winner's is made anew from the others; a blank store is taken in and filled.
func (s *Store) Repair(ctx context.Context, write bool, report func(store.Finding)) error {
	return s.repairAt(ctx, write, report, time.Now())
}

func (s *Store) repairAt(ctx context.Context, write bool, report func(store.Finding), now time.Time) error {
	r := &repair{s, write, report, now}
	if err := r.members(ctx); err != nil {
		return fmt.Errorf("repair %s: %w", s.url, err)
	}
	err := s.walk(ctx, "", func(e entry) error { return r.object(ctx, e) })
	if err != nil {
		return fmt.Errorf("repair %s: %w", s.url, err)
	}
	return nil
}

// members takes blank stores into the slots that have none.
func (r *repair) members(ctx context.Context) error {
	s := r.s
	for _, m := range s.all {
		m.downUntil.Store(0)
	}
	blank, away, err := s.identify(ctx, s.all)
	if err != nil {
		return err
	}
	for _, err := range away {
		r.report(store.Finding{What: fmt.Sprintf("a store is away: %v", err), Where: s.url, Try: "bring it back, or put an empty one in its place, and repair again"})
	}
	for _, m := range blank {
		if i := r.free(m); i >= 0 {
			f := store.Finding{Where: m.URL(), What: fmt.Sprintf("the store is blank; it takes the place of shard %d", i)}
			if len(away) > 0 { // one of those may be the store that has this place
				f.What, f.Try = "the store is blank, and others are away", "bring those back first, or take them out for good"
			} else if r.write {
				if err := m.Put(ctx, identityKey, s.identity(i)); err != nil {
					return err
				}
				s.mu.Lock()
				s.slots[i] = m
				s.mu.Unlock()
				f.Fixed = true
			}
			r.report(f)
		}
	}
	return nil
}

// free is the first slot that no store has.
func (r *repair) free(*member) int {
	for i := range r.s.k + r.s.m {
		if r.s.slot(i) == nil {
			return i
		}
	}
	return -1
}

// object looks at all there is of a key.
func (r *repair) object(ctx context.Context, e entry) error {
	s := r.s
	v := s.views(ctx, e.key)
	f, err := s.judge(ctx, e.key, v)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return r.leftover(ctx, e, v)
	case err != nil:
		r.report(store.Finding{Key: e.key, Where: s.url, What: err.Error(), Lost: errors.Is(err, store.ErrLost), Try: "put back what you have of the missing stores, and repair again"})
		return nil
	}
	good, trouble, err := r.verify(ctx, e.key, f, v)
	if err != nil {
		return err
	}
	n := 0
	for _, ok := range good {
		if ok {
			n++
		}
	}
	switch {
	case n < s.k:
		r.report(store.Finding{Key: e.key, Where: s.url, What: fmt.Sprintf("%d of %d shards are good, %d must be", n, s.k+s.m, s.k), Lost: true, Try: "put back what you have of the missing stores, and repair again"})
		return nil
	case len(trouble) == 0:
		return r.tidy(ctx, e, v)
	}
	return r.heal(ctx, e.key, f, good, v, trouble)
}

// verify reads all shards. trouble says what is wrong with a member's.
func (r *repair) verify(ctx context.Context, key string, f *found, v answers[*view]) (good []bool, trouble map[int]string, err error) {
	s := r.s
	a := ask(ctx, s, asking[struct{}]{
		n: stored(f.chunk()), only: func(i int) bool { return v.err[i] == nil && f.at[i] != "" },
		do: func(ctx context.Context, i int, m *member) (struct{}, error) {
			raw, err := m.Get(ctx, f.at[i], 0, -1)
			if err != nil {
				return struct{}{}, err
			}
			h, err := decodeHeader(raw)
			if err != nil {
				return struct{}{}, err
			}
			want := f.header
			want.index = i
			if *h != want || int64(len(raw)) != stored(f.share(i)) {
				return struct{}{}, malformed("its header is another's")
			}
			_, err = h.unpack(nil, i, 0, raw[headerSize:])
			return struct{}{}, err
		},
	})
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	good, trouble = make([]bool, s.k+s.m), map[int]string{}
	for i := range good {
		switch {
		case v.err[i] != nil:
			if s.slot(i) != nil {
				trouble[i] = fmt.Sprintf("the store does not answer: %v", v.err[i])
			}
		case f.at[i] == "" && v.got[i].bad:
			trouble[i] = "the shard is damaged"
		case f.at[i] == "" && v.got[i].cell != nil:
			trouble[i] = "another put's remains are in the shard's place"
		case f.at[i] == "":
			trouble[i] = "the shard is missing"
		case a.err[i] != nil:
			trouble[i] = fmt.Sprintf("the shard is damaged: %v", a.err[i])
		default:
			good[i] = true
			if f.at[i] != key {
				trouble[i] = "the shard is beside its place"
			}
		}
	}
	return good, trouble, nil
}

// heal makes the object whole.
func (r *repair) heal(ctx context.Context, key string, f *found, good []bool, v answers[*view], trouble map[int]string) error {
	s := r.s
	fixed := map[int]bool{}
	if r.write {
		e, err := r.whole(ctx, f, good)
		if err != nil {
			r.report(store.Finding{Key: key, Where: s.url, What: err.Error(), Lost: true})
			return nil
		}
		// A place must not be cleared while anything depends on what is in it: first
		// there must be a record of who has won.
		g, err := s.ballot(ctx, key, nil, true)
		if err != nil || g != f.gen {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.report(store.Finding{Key: key, Where: s.url, What: fmt.Sprintf("a put is under way: %v", err), Try: "repair again later"})
			return nil
		}
		a := ask(ctx, s, asking[struct{}]{
			n: int64(len(e.shards[0])), only: func(i int) bool { return trouble[i] != "" && v.err[i] == nil },
			do: func(ctx context.Context, i int, m *member) (struct{}, error) {
				if err := m.Delete(ctx, key); err != nil {
					return struct{}{}, err
				}
				return struct{}{}, m.Put(ctx, key, e.shards[i])
			},
		})
		for i := range trouble {
			if fixed[i] = a.err[i] == nil; !fixed[i] && v.err[i] == nil {
				trouble[i] += fmt.Sprintf("; not repaired: %v", a.err[i])
			}
		}
		s.mu.Lock()
		delete(s.known, key)
		s.mu.Unlock()
	}
	whole := r.write
	for i := range good {
		if what := trouble[i]; what != "" {
			r.report(store.Finding{Key: key, Where: s.slot(i).URL(), What: fmt.Sprintf("shard %d: %s", i, what), Fixed: fixed[i]})
		}
		whole = whole && s.slot(i) != nil && (trouble[i] == "" || fixed[i])
	}
	if whole {
		return r.clear(ctx, key)
	}
	return nil
}

// whole reads the object and takes it apart as its writer did.
func (r *repair) whole(ctx context.Context, f *found, good []bool) (*encoded, error) {
	g := *f
	g.at = make([]string, len(f.at))
	for i, ok := range good {
		if ok {
			g.at[i] = f.at[i]
		}
	}
	data, err := r.s.read(ctx, &g, 0, f.length)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], f.sum[:]) {
		return nil, fmt.Errorf("%w: its shards are good, and together they are not the object", store.ErrLost)
	}
	e := &encoded{h: f.header}
	e.h.index = 0
	return e, r.s.split(e, data)
}

// tidy takes away the records of an object that is whole without them.
func (r *repair) tidy(ctx context.Context, e entry, v answers[*view]) error {
	if !e.record || v.ok() < r.s.k+r.s.m || !r.write {
		return nil
	}
	return r.clear(ctx, e.key)
}

func (r *repair) clear(ctx context.Context, key string) error {
	a := ask(ctx, r.s, asking[struct{}]{do: func(ctx context.Context, _ int, m *member) (struct{}, error) {
		records, err := listRecords(ctx, m, key)
		if err != nil {
			return struct{}{}, err
		}
		return struct{}{}, deleteRecords(ctx, m, key, records)
	}})
	_ = a // what is left costs a few empty objects, and the next repair takes it
	return ctx.Err()
}

// leftover deals with what is no object: the remains of a put that broke off.
func (r *repair) leftover(ctx context.Context, e entry, v answers[*view]) error {
	newest := time.Time{}
	for _, c := range e.cells {
		if c.Modified.After(newest) {
			newest = c.Modified
		}
	}
	if v.ok() < r.s.k+r.s.m || r.now.Sub(newest) < young {
		return nil
	}
	f := store.Finding{Key: e.key, Where: r.s.url, What: fmt.Sprintf("%d shards of a put that broke off, or of an object that was deleted while a store was away", e.n)}
	if r.write {
		a := ask(ctx, r.s, asking[struct{}]{do: func(ctx context.Context, _ int, m *member) (struct{}, error) {
			return struct{}{}, r.s.deleteAt(ctx, m, e.key)
		}})
		f.Fixed = a.ok() == r.s.k+r.s.m
	}
	r.report(f)
	return nil
}
