package shard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/reedsolomon"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const (
	reserved    = "shard-set/" // keys of ours in every member
	identityKey = reserved + "id"
	recordsAt   = reserved + "x/"
	maxKey      = 380 // leaves room for the names of records
)

// Config names the stores of a set.
type Config struct {
	URL      string // of the set
	K, M     int    // data and parity shards
	Members  []store.Store
	Create   bool          // make a set of stores that belong to none
	Patience time.Duration // for a member, on top of the time for its bytes; 0: 20 s
}

// Store is k+m stores that together are one.
type Store struct {
	url      string
	k, m     int
	set      id
	code     reedsolomon.Encoder
	patience time.Duration
	all      []*member

	mu      sync.Mutex
	slots   []*member         // mu guards: by shard; nil: not found yet
	tried   time.Time         // mu guards: when we last looked for the rest
	known   map[string]*found // mu guards: objects read lately
	settled map[string]bool   // mu guards: keys whose object stays the one it is
	looking atomic.Bool
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Syncer   = (*Store)(nil)
	_ store.Repairer = (*Store)(nil)
)

const (
	maxKnown   = 4096
	maxSettled = 1 << 18
)

// Open finds out which member has which shard. Up to m of them may be away.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := checkCode(c.K, c.M); err != nil {
		return nil, fmt.Errorf("shard store: %w", err)
	}
	if len(c.Members) != c.K+c.M {
		return nil, fmt.Errorf("shard store %d+%d: %d stores, want %d", c.K, c.M, len(c.Members), c.K+c.M)
	}
	code, err := newCode(c.K, c.M)
	if err != nil {
		return nil, fmt.Errorf("shard store: %w", err)
	}
	s := &Store{
		url: c.URL, k: c.K, m: c.M, code: code, patience: c.Patience, slots: make([]*member, c.K+c.M),
		known: map[string]*found{}, settled: map[string]bool{},
	}
	if s.patience == 0 {
		s.patience = 20 * time.Second
	}
	for _, m := range c.Members {
		s.all = append(s.all, &member{Store: m})
	}
	blank, away, err := s.identify(ctx, s.all)
	if err != nil {
		return nil, err
	}
	if len(blank) == len(s.all) && c.Create {
		return s, s.create(ctx)
	}
	if len(blank) == len(s.all) {
		return nil, fmt.Errorf("open %s: none of the stores belongs to a set: %w", s.url, fs.ErrNotExist)
	}
	if have := len(s.all) - len(blank) - len(away); have < s.k {
		return nil, fmt.Errorf("open %s: %w: %d of %d stores are there, %d must be: %w", s.url, store.ErrAway, have, len(s.all), s.k, errors.Join(away...))
	}
	return s, nil
}

// newCode makes the code of the format: its matrix must never change.
func newCode(k, m int) (reedsolomon.Encoder, error) { return reedsolomon.New(k, m) }

// identify puts members into their slots. Blank ones hold no identity.
func (s *Store) identify(ctx context.Context, members []*member) (blank []*member, away []error, err error) {
	type answer struct {
		m   *member
		b   []byte
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	c := make(chan answer, len(members))
	for _, m := range members {
		go func() {
			b, err := m.Get(ctx, identityKey, 0, -1)
			c <- answer{m, b, err}
		}()
	}
	for range members {
		var a answer
		select {
		case a = <-c:
		case <-ctx.Done():
			away = append(away, ctx.Err())
			continue
		}
		switch {
		case errors.Is(a.err, store.ErrNotFound):
			blank = append(blank, a.m)
		case a.err != nil:
			away = append(away, a.err)
		default:
			if err := s.seat(a.m, a.b); err != nil {
				return nil, nil, err
			}
		}
	}
	return blank, away, nil
}

func (s *Store) seat(m *member, b []byte) error {
	h, err := decodeHeader(b)
	if err != nil {
		return fmt.Errorf("%s in %s: %w; if its disk is damaged, replace it by an empty one and run leeward vault check --repair", identityKey, m.URL(), err)
	}
	if h.kind != kindIdentity || h.k != s.k || h.m != s.m {
		return fmt.Errorf("%s is part of a set of %d+%d, not %d+%d", m.URL(), h.k, h.m, s.k, s.m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.set == (id{}) {
		s.set = h.set
	}
	if s.set != h.set {
		return fmt.Errorf("%s is part of another set (%x) than the stores before it (%x): leave it out", m.URL(), h.set[:4], s.set[:4])
	}
	if at := s.slots[h.index]; at != nil && at != m {
		return fmt.Errorf("%s and %s are both shard %d of the set: is one a copy of the other?", m.URL(), at.URL(), h.index)
	}
	s.slots[h.index] = m
	return nil
}

func (s *Store) identity(i int) []byte {
	h := header{kind: kindIdentity, k: s.k, m: s.m, index: i, set: s.set}
	return h.encode()
}

// create makes a set of blank members. Whoever makes one at the same time gets an
// error, or we do: the identities then belong to two sets.
func (s *Store) create(ctx context.Context) error {
	rand.Read(s.set[:]) // never fails
	for i, m := range s.all {
		err := m.Put(ctx, identityKey, s.identity(i))
		if errors.Is(err, store.ErrExists) {
			return fmt.Errorf("create %s: somebody else is making a set with %s: open it again", s.url, m.URL())
		}
		if err != nil {
			return fmt.Errorf("create %s: %w: all stores must be there to make a set", s.url, err)
		}
		s.slots[i] = m
	}
	return nil
}

// slot is the member with shard i, nil if we have not found it.
func (s *Store) slot(i int) *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slots[i]
}

// rejoin looks now and then for members that were away when we opened.
func (s *Store) rejoin(ctx context.Context) {
	s.mu.Lock()
	var lost []*member
	if time.Since(s.tried) > rest {
		seated := map[*member]bool{}
		for _, m := range s.slots {
			seated[m] = true
		}
		for _, m := range s.all {
			if !seated[m] {
				lost = append(lost, m)
			}
		}
		s.tried = time.Now()
	}
	s.mu.Unlock()
	if len(lost) == 0 || !s.looking.CompareAndSwap(false, true) {
		return
	}
	defer s.looking.Store(false)
	ctx, cancel := context.WithTimeout(ctx, straggler)
	defer cancel()
	_, _, _ = s.identify(ctx, lost) // what does not fit stays out, as it was
}

// majority of the stores must agree in the slow way, fast of them in the fast one; see
// the package's documentation.
func (s *Store) majority() int { return (s.k+s.m)/2 + 1 }
func (s *Store) fast() int     { return (2*(s.k+s.m)-s.majority())/2 + 1 }

// URL implements store.Store.
func (s *Store) URL() string { return s.url }

func (s *Store) check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckKey(key); err != nil {
		return fmt.Errorf("%s: %w", s.url, err)
	}
	if len(key) > maxKey || strings.HasPrefix(key, reserved) {
		return fmt.Errorf("%s: %w %q: longer than %d, or below %s", s.url, store.ErrKey, key, maxKey, reserved)
	}
	s.rejoin(ctx)
	return nil
}

// encoded is an object taken apart.
type encoded struct {
	h      header // of shard 0
	shards [][]byte
}

func (e *encoded) header(i int) *header {
	h := e.h
	h.index = i
	return &h
}

func (s *Store) encode(data []byte) (*encoded, error) {
	e := &encoded{h: header{
		kind: kindShard, k: s.k, m: s.m, length: int64(len(data)), set: s.set, created: time.Now().UnixNano(), sum: sha256.Sum256(data),
	}}
	rand.Read(e.h.gen[:]) // never fails
	return e, s.split(e, data)
}

// split fills in the shards of data.
func (s *Store) split(e *encoded, data []byte) error {
	chunk := e.h.chunk()
	parts := make([][]byte, s.k+s.m)
	for i := range parts {
		from := min(int64(i)*chunk, int64(len(data)))
		to := min(from+chunk, int64(len(data)))
		switch {
		case i >= s.k:
			parts[i] = make([]byte, chunk)
		case to-from == chunk:
			parts[i] = data[from:to:to]
		default:
			parts[i] = make([]byte, chunk)
			copy(parts[i], data[from:to])
		}
	}
	if chunk > 0 {
		if err := s.code.Encode(parts); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
	}
	e.shards = make([][]byte, len(parts))
	for i, p := range parts {
		h := e.header(i)
		e.shards[i] = h.pack(p[:h.share(i)])
	}
	return nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	e, err := s.encode(data)
	if err != nil {
		return fmt.Errorf("put %s in %s: %w", key, s.url, err)
	}
	won := 0
	ask(ctx, s, asking[struct{}]{
		n: int64(len(e.shards[0])), linger: true,
		do: func(ctx context.Context, i int, m *member) (struct{}, error) {
			return struct{}{}, m.Put(ctx, key, e.shards[i])
		},
		enough: func(_ int, _ struct{}, err error) bool {
			if err == nil {
				won++
			}
			return won >= s.fast()
		},
	})
	if won >= s.fast() {
		s.settle(key, true)
		return nil
	}
	gen, err := s.agree(ctx, key, e)
	switch {
	case err != nil:
		return fmt.Errorf("put %s in %s: %w", key, s.url, err)
	case gen != e.h.gen:
		return fmt.Errorf("put %s in %s: %w", key, s.url, store.ErrExists)
	}
	return nil
}

// settle notes that the object at key stays the one it is, or not any more.
func (s *Store) settle(key string, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !is {
		delete(s.settled, key)
		delete(s.known, key)
		return
	}
	if len(s.settled) >= maxSettled {
		clear(s.settled)
	}
	s.settled[key] = true
}

func (s *Store) isSettled(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settled[key]
}

// Delete implements store.Store. The first store alone decides whether an object is
// kept, so that a refusal does not come when half of it is gone.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	s.settle(key, false)
	asked := false
	remove := func(ctx context.Context, _ int, m *member) (struct{}, error) {
		return struct{}{}, s.deleteAt(ctx, m, key)
	}
	first := -1
	for i := range s.k + s.m {
		if m := s.slot(i); m != nil && !m.down() {
			first = i
			a := ask(ctx, s, asking[struct{}]{do: remove, only: func(j int) bool { return j == i }})
			if errors.Is(a.err[i], store.ErrKept) || errors.Is(a.err[i], store.ErrDenied) {
				return fmt.Errorf("delete %s in %s: %w", key, s.url, a.err[i])
			}
			asked = a.err[i] == nil
			break
		}
	}
	a := ask(ctx, s, asking[struct{}]{do: remove, only: func(j int) bool { return j != first }})
	done := a.ok()
	if asked {
		a.err[first] = nil
		done++
	}
	for _, err := range a.err {
		if errors.Is(err, store.ErrKept) || errors.Is(err, store.ErrDenied) {
			return fmt.Errorf("delete %s in %s: %w", key, s.url, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if done < s.k {
		return fmt.Errorf("delete %s in %s: %w", key, s.url, a.trouble(s.k))
	}
	return nil
}

// deleteAt removes all that a member has of key; the record of who won goes last.
func (s *Store) deleteAt(ctx context.Context, m *member, key string) error {
	if err := m.Delete(ctx, key); err != nil {
		return err
	}
	records, err := listRecords(ctx, m, key)
	if err != nil {
		return err
	}
	return deleteRecords(ctx, m, key, records)
}

func deleteRecords(ctx context.Context, m *member, key string, records []string) error {
	var last []string
	for _, r := range records {
		if strings.HasPrefix(r, commitMark) {
			last = append(last, r)
			continue
		}
		if err := m.Delete(ctx, recordKey(key, r)); err != nil {
			return err
		}
	}
	for _, r := range last {
		if err := m.Delete(ctx, recordKey(key, r)); err != nil {
			return err
		}
	}
	return nil
}
