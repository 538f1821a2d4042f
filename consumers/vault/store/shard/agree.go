package shard

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Marks of records. A record says all it has to say in its name.
const (
	promiseMark = "p-" // p-BALLOT: lower ballots are over
	voteMark    = "v-" // v-BALLOT-GEN
	spareMark   = "s-" // s-GEN: a shard whose place is taken; it has a body
	commitMark  = "c-" // c-GEN: this generation won
)

const (
	maxBallots = 16 // of one writer, before it gives up for now
	maxUnclear = 3  // times that it waits for another
)

func recordKey(key, record string) string { return recordsAt + key + "/" + record }

func genName(g id) string { return hex.EncodeToString(g[:]) }

func parseGen(s string) (g id, ok bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(g) || strings.ToLower(s) != s {
		return g, false
	}
	return id(b), true
}

// ballot is a number, and who has it to tell equal ones apart.
type ballot struct {
	number uint64
	who    string
}

func (b ballot) String() string { return fmt.Sprintf("%016x%s", b.number, b.who) }

func (b ballot) compare(c ballot) int {
	return cmp.Or(cmp.Compare(b.number, c.number), cmp.Compare(b.who, c.who))
}

const ballotLength = 16 + 26

func parseBallot(s string) (b ballot, ok bool) {
	if len(s) != ballotLength {
		return b, false
	}
	_, err := fmt.Sscanf(s[:16], "%016x", &b.number)
	b.who = s[16:]
	return b, err == nil && b.String() == s
}

// view is what one member knows of a key.
type view struct {
	cell     *header // what holds the place of the key; nil: nothing, or bad
	bad      bool    // something does, and nobody can tell what
	spares   []id
	promised ballot // highest
	voted    ballot // highest, for vote
	vote     id
	commit   *id
}

func (v *view) read(records []string) {
	for _, r := range records {
		mark, rest := r[:min(2, len(r))], r[min(2, len(r)):]
		switch mark {
		case promiseMark:
			if b, ok := parseBallot(rest); ok && b.compare(v.promised) > 0 {
				v.promised = b
			}
		case voteMark:
			if len(rest) <= ballotLength+1 {
				continue
			}
			b, ok := parseBallot(rest[:ballotLength])
			g, fine := parseGen(rest[ballotLength+1:])
			if ok && fine && b.compare(v.voted) > 0 {
				v.voted, v.vote = b, g
			}
		case spareMark:
			if g, ok := parseGen(rest); ok {
				v.spares = append(v.spares, g)
			}
		case commitMark:
			if g, ok := parseGen(rest); ok {
				v.commit = &g
			}
		}
	}
}

// has reports whether the member has a shard of a generation, and where.
func (v *view) has(key string, g id) (at string) {
	if v.cell != nil && v.cell.kind == kindShard && v.cell.gen == g {
		return key
	}
	if slices.Contains(v.spares, g) {
		return recordKey(key, spareMark+genName(g))
	}
	return ""
}

func listRecords(ctx context.Context, m store.Store, key string) (records []string, err error) {
	prefix := recordKey(key, "")
	err = m.List(ctx, prefix, func(i store.Info) error {
		if r := i.Key[len(prefix):]; !strings.Contains(r, "/") {
			records = append(records, r)
		}
		return nil
	})
	return records, err
}

// readCell reads what holds the key's place at a member.
func (s *Store) readCell(ctx context.Context, i int, m *member, key string) (h *header, bad bool, err error) {
	b, err := m.Get(ctx, key, 0, headerSize)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, false, nil
	case errors.Is(err, store.ErrRange):
		return nil, true, nil
	case err != nil:
		return nil, false, err
	}
	h, err = decodeHeader(b)
	if err != nil || h.set != s.set || h.index != i || h.k != s.k || h.m != s.m || h.kind == kindIdentity {
		return nil, true, nil
	}
	return h, false, nil
}

func (s *Store) look1(ctx context.Context, i int, m *member, key string) (*view, error) {
	records, err := listRecords(ctx, m, key)
	if err != nil {
		return nil, err
	}
	v := new(view)
	v.read(records)
	v.cell, v.bad, err = s.readCell(ctx, i, m, key)
	return v, err
}

// views asks all members what they know of a key.
func (s *Store) views(ctx context.Context, key string) answers[*view] {
	return ask(ctx, s, asking[*view]{do: func(ctx context.Context, i int, m *member) (*view, error) { return s.look1(ctx, i, m, key) }})
}

// tally is what several views say together.
type tally struct {
	seen   int
	bad    int
	cells  map[id]int // shards in the key's own place
	holds  map[id]int // shards anywhere
	heads  map[id]*header
	vote   id
	voted  ballot
	top    ballot // highest promise or vote
	commit *id
}

func count(a answers[*view], key string) *tally {
	t := &tally{cells: map[id]int{}, holds: map[id]int{}, heads: map[id]*header{}}
	for i, v := range a.got {
		if a.err[i] != nil {
			continue
		}
		t.seen++
		if v.bad {
			t.bad++
		}
		gens := slices.Clone(v.spares)
		if v.cell != nil && v.cell.kind == kindShard {
			t.cells[v.cell.gen]++
			t.heads[v.cell.gen] = v.cell
			if !slices.Contains(gens, v.cell.gen) {
				gens = append(gens, v.cell.gen)
			}
		}
		for _, g := range gens {
			t.holds[g]++
		}
		if v.voted.compare(t.voted) > 0 {
			t.voted, t.vote = v.voted, v.vote
		}
		for _, b := range []ballot{v.promised, v.voted} {
			if b.compare(t.top) > 0 {
				t.top = b
			}
		}
		if v.commit != nil {
			t.commit = v.commit
		}
	}
	return t
}

// winner is the generation that has won for certain.
func (s *Store) winner(t *tally) (g id, ok bool) {
	if t.commit != nil {
		return *t.commit, true
	}
	for g, n := range t.cells {
		if n >= s.fast() {
			return g, true
		}
	}
	return g, false
}

// readable is the generation with enough shards in the key's place to read it. There
// is at most one, for it takes more than half of the places.
func (s *Store) readable(t *tally) (g id, ok bool) {
	for g, n := range t.cells {
		if n >= s.k {
			return g, true
		}
	}
	return g, false
}

var (
	errOpen  = errors.New("nobody has won")
	errAgain = errors.New("another ballot")
	// errUnclear: perhaps what we do not see makes a put whole, or its writer died.
	errUnclear = fmt.Errorf("%w: another put of the name broke off, and the stores that are there cannot tell how it ended: bring one more back", store.ErrAway)
)

// agree finds out which generation wins a key, and sees to it that all will think so.
// mine is our own object, nil if we have none to propose: then errOpen says that there
// is nothing to agree on. It may be called at any time by anybody.
func (s *Store) agree(ctx context.Context, key string, mine *encoded) (id, error) {
	var last error
	unclear := 0
	for try := range maxBallots {
		g, err := s.ballot(ctx, key, mine, false)
		if errors.Is(err, errUnclear) && unclear < maxUnclear {
			// Its writer is most likely alive, and about to clear it up.
			unclear++
			g, err = s.await(ctx, key)
		}
		if err == nil {
			s.settle(key, true)
		}
		if !errors.Is(err, errAgain) {
			return g, err
		}
		last = err
		if err := pause(ctx, time.Duration(mathrand.Int64N(int64(10*time.Millisecond)<<min(try, 7)))); err != nil {
			return id{}, err
		}
	}
	return id{}, &store.BusyError{Err: fmt.Errorf("%d writers' ballots crossed ours: %w", maxBallots, last)}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await gives another writer a while to win.
func (s *Store) await(ctx context.Context, key string) (id, error) {
	for wait := 5 * time.Millisecond; wait < straggler; wait *= 2 {
		if err := pause(ctx, wait); err != nil {
			return id{}, err
		}
		a := s.views(ctx, key)
		if t := count(a, key); t.seen >= s.majority() {
			if g, ok := s.winner(t); ok {
				return g, nil
			}
		}
	}
	return id{}, errAgain
}

// ballot is one attempt to agree. With record it goes on until there is a record of
// who won, also where the shards alone say it.
func (s *Store) ballot(ctx context.Context, key string, mine *encoded, record bool) (id, error) {
	a := s.views(ctx, key)
	t := count(a, key)
	if t.seen < s.majority() {
		return id{}, a.trouble(s.majority())
	}
	if g, ok := s.winner(t); ok && (!record || t.commit != nil) {
		return g, nil
	}
	if mine == nil && len(t.holds) == 0 && t.bad == 0 && t.voted == (ballot{}) {
		return id{}, errOpen
	}
	b := ballot{t.top.number + 1, rand.Text()}
	a = s.promise(ctx, key, b)
	t = count(a, key)
	switch {
	case t.seen < s.majority():
		return id{}, a.trouble(s.majority())
	case t.commit != nil:
		return *t.commit, nil
	case t.top.compare(b) > 0:
		return id{}, errAgain
	}
	g, err := s.choose(t, mine)
	if err != nil {
		return id{}, err
	}
	if mine != nil && g == mine.h.gen {
		if err := s.spread(ctx, key, mine, a); err != nil {
			return id{}, err
		}
	}
	v := s.vote(ctx, key, b, g)
	switch w := count(v, key); {
	case w.seen < s.majority():
		return id{}, v.trouble(s.majority())
	case w.commit != nil:
		return *w.commit, nil
	case w.top.compare(b) > 0:
		return id{}, errAgain
	}
	c := ask(ctx, s, asking[struct{}]{do: func(ctx context.Context, _ int, m *member) (struct{}, error) {
		return struct{}{}, putOnce(ctx, m, recordKey(key, commitMark+genName(g)), nil)
	}})
	if c.ok() < s.majority() {
		return id{}, c.trouble(s.majority())
	}
	return g, nil
}

func putOnce(ctx context.Context, m *member, key string, data []byte) error {
	if err := m.Put(ctx, key, data); err != nil && !errors.Is(err, store.ErrExists) {
		return err
	}
	return nil
}

// promise ends all lower ballots, the fast one included: where a place is free, a
// blocker takes it.
func (s *Store) promise(ctx context.Context, key string, b ballot) answers[*view] {
	return ask(ctx, s, asking[*view]{do: func(ctx context.Context, i int, m *member) (*view, error) {
		if err := m.Put(ctx, recordKey(key, promiseMark+b.String()), nil); err != nil {
			return nil, err
		}
		h := header{kind: kindBlocker, k: s.k, m: s.m, index: i, set: s.set}
		if err := putOnce(ctx, m, key, h.encode()); err != nil {
			return nil, err
		}
		return s.look1(ctx, i, m, key)
	}})
}

// choose says which generation a ballot must propose, after its promises.
func (s *Store) choose(t *tally, mine *encoded) (id, error) {
	if t.voted != (ballot{}) {
		return t.vote, nil
	}
	var could []id // have won in the fast way, for all we see
	for g, n := range t.cells {
		if n+t.bad+s.k+s.m-t.seen >= s.fast() {
			could = append(could, g)
		}
	}
	own := mine != nil && len(could) == 1 && could[0] == mine.h.gen
	switch {
	case len(could) == 1 && (own || t.holds[could[0]] >= s.k):
		return could[0], nil
	case len(could) > 0:
		return id{}, errUnclear
	}
	if g, ok := s.readable(t); ok {
		return g, nil // somebody may have read it
	}
	if mine == nil {
		return id{}, errOpen
	}
	return mine.h.gen, nil
}

// spread makes our object durable before we propose it.
func (s *Store) spread(ctx context.Context, key string, mine *encoded, a answers[*view]) error {
	w := ask(ctx, s, asking[struct{}]{
		n: int64(len(mine.shards[0])),
		do: func(ctx context.Context, i int, m *member) (struct{}, error) {
			if v := a.got[i]; a.err[i] == nil && v.has(key, mine.h.gen) != "" {
				return struct{}{}, nil
			}
			return struct{}{}, putOnce(ctx, m, recordKey(key, spareMark+genName(mine.h.gen)), mine.shards[i])
		},
	})
	if w.ok() < max(s.k, s.majority()) {
		return w.trouble(max(s.k, s.majority()))
	}
	return nil
}

// vote proposes a generation. A vote counts where no higher promise was made before
// it.
func (s *Store) vote(ctx context.Context, key string, b ballot, g id) answers[*view] {
	return ask(ctx, s, asking[*view]{do: func(ctx context.Context, i int, m *member) (*view, error) {
		if err := m.Put(ctx, recordKey(key, voteMark+b.String()+"-"+genName(g)), nil); err != nil {
			return nil, err
		}
		return s.look1(ctx, i, m, key)
	}})
}
