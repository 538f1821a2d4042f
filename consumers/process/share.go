package process

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// share is this server's part in sharing the partitions with the other process
// servers on the bus. Everybody says every second that it lives; the first of those
// who live writes the table; everybody does what the table says.
type share struct {
	s      *Server
	me     string
	holder member
	sub    *nats.Subscription
	stop   context.CancelFunc
	done   sync.WaitGroup
	wake   chan struct{} // says: look at the table now

	mu    sync.Mutex
	echo  uint64            // own beats that came back
	peers map[string]peer   // others that were heard of
	gen   uint64            // highest generation anybody spoke of
	known map[string]uint64 // members of the table: echo when first seen there

	// owned by loop
	seen  uint64 // generation that was followed last
	older int    // times an older table was read since
}

// beat is what a server says of itself. It is JSON, for people.
type beat struct {
	Server     string `json:"server"`
	Holder     member `json:"holder"`
	Generation uint64 `json:"generation"` // of the table it follows
	Partitions int    `json:"partitions"` // that it owns
	Leaving    bool   `json:"leaving,omitempty"`
}

type peer struct {
	holder member
	at     uint64 // our echo when it was heard last
}

// missed is how many beats of a server must be missing, while our own come back,
// until it counts as dead. Our own say that the bus works: when nobody hears
// anybody, nobody is dead.
const missed = 4

// leaveTime is how long a partition that moves may take to be committed; then the
// rest of it is dropped and delivered to the next owner.
const leaveTime = 3 * time.Second

// join begins to share the partitions with the others on the bus.
func join(s *Server) error {
	h := &share{s: s, me: strings.ToLower(rand.Text()), wake: make(chan struct{}, 1), peers: map[string]peer{}, known: map[string]uint64{}}
	h.holder = member{bus.ThisProcess(h.me), s.cfg.Standby}
	var err error
	if h.sub, err = s.conn.Subscribe(s.pool.BeatSubject(), h.hear); err != nil {
		return fmt.Errorf("listen to other process servers: %w", err)
	}
	s.share = h // before anything is owned
	ctx, stop := context.WithCancel(s.ctx)
	h.stop = stop
	h.done.Go(func() { h.loop(ctx) })
	return nil
}

// group is the priority group that stands for this server.
func (h *share) group() string { return h.me[:maxGroup] }

// maxGroup is the longest name of a priority group.
const maxGroup = 16

// mine reports whether the table gives partition n to this server.
func (h *share) mine(ctx context.Context, n int) (bool, error) {
	t, _, err := h.read(ctx)
	return t.Partitions[n].Owner == h.me, err
}

// end leaves the partitions to whoever stops the server.
func (h *share) end() {
	h.stop()
	h.done.Wait()
	_ = h.sub.Unsubscribe() // fails only if the connection is gone
}

// resign takes this server out of the table, so that the others need not miss it
// first. Its partitions are left already.
func (h *share) resign(ctx context.Context) {
	if !h.s.conn.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	h.say(true)
	for range 3 {
		t, rev, err := h.read(ctx)
		if err != nil || rev == 0 {
			break
		}
		others := t.clone().Members
		delete(others, h.me)
		next, changed := plan(t, others)
		if len(others) == 0 { // nobody is left to take them
			next, changed = table{Generation: t.Generation + 1}, true
		}
		if !changed || h.write(ctx, next, rev) == nil {
			break
		}
	}
	h.say(true) // with the table's new generation: look at it
}

func (h *share) hear(m *nats.Msg) {
	var b beat
	if err := json.Unmarshal(m.Data, &b); err != nil || b.Server == "" || len(b.Server) > streams.MaxName {
		h.s.log.Debug("a beat was not understood", "err", err)
		return
	}
	h.mu.Lock()
	news := b.Generation > h.gen
	h.gen = max(h.gen, b.Generation)
	_, old := h.peers[b.Server]
	switch {
	case b.Server == h.me:
		h.echo++
	case b.Leaving:
		delete(h.peers, b.Server)
		h.known[b.Server] = 0
		news = news || old
	case len(h.peers) < 1024 || old:
		h.peers[b.Server] = peer{b.Holder, h.echo}
		news = news || !old
	}
	h.mu.Unlock()
	if news {
		h.look()
	}
}

func (h *share) look() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *share) say(leaving bool) {
	h.mu.Lock()
	gen := h.gen
	h.mu.Unlock()
	b, err := json.Marshal(beat{h.me, h.holder, gen, len(h.s.owned()), leaving})
	if err == nil && h.s.conn.IsConnected() { // old beats must not wait in a buffer
		err = h.s.conn.Publish(h.s.pool.BeatSubject(), b)
	}
	if err != nil {
		h.s.log.Debug("a beat was not sent", "err", err)
	}
}

func (h *share) loop(ctx context.Context) {
	t := time.NewTicker(h.s.tempo.beat)
	defer t.Stop()
	for {
		h.say(false)
		if err := h.turn(ctx); err != nil && ctx.Err() == nil {
			h.s.log.Warn("cannot read who owns which partition, going on as before", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-h.wake:
		}
	}
}

// turn reads the table, changes it if that is up to this server, and follows it.
func (h *share) turn(ctx context.Context) error {
	for range 4 { // somebody else may have changed it
		t, rev, err := h.get(ctx)
		if err != nil {
			return err
		}
		live := h.live(t)
		if first(live) == h.me {
			if next, changed := plan(t, live); changed {
				if err := h.put(ctx, next, rev); conflict(err) {
					continue
				} else if err != nil {
					return err
				}
				continue // and follow it
			}
		}
		if t.Generation < h.seen {
			// A copy that lags behind, or a bus that lost its tail. The latter stays.
			if h.older++; h.older <= missed {
				return nil
			}
		}
		h.seen, h.older = t.Generation, 0
		left, err := h.obey(ctx, t)
		if err != nil || len(left) == 0 {
			return err
		}
		if next, changed := let(t, h.me, left); changed {
			if err := h.put(ctx, next, rev); err != nil && !conflict(err) {
				return err
			}
		}
	}
	return nil
}

// obey makes this server own what the table says it owns. It returns the
// partitions that it has let go for somebody else.
func (h *share) obey(ctx context.Context, t table) (left []int, err error) {
	var lost, free []int
	have := h.s.owned()
	for n, s := range t.Partitions {
		mine := slices.Contains(have, n)
		switch {
		case s.Owner == h.me && s.Next == "" && !mine:
			free = append(free, n)
		case s.Owner == h.me && s.Next != "":
			left = append(left, n)
		case s.Owner != h.me && mine:
			lost = append(lost, n)
		}
	}
	if len(lost) > 0 {
		h.s.log.Warn("partitions were taken over by another process server", "partitions", lost, "generation", t.Generation)
		gone, cancel := context.WithCancel(ctx)
		cancel()
		_ = h.s.leave(gone, lost...) // what was not committed is the new owner's
	}
	if len(left) > 0 {
		lctx, cancel := context.WithTimeout(ctx, h.s.tempo.leave)
		err := h.s.leave(lctx, left...)
		cancel()
		h.s.log.Info("partitions given away", "partitions", left, "generation", t.Generation, "err", err)
		if err := h.s.conn.FlushTimeout(answerWait); err != nil { // acknowledgements first
			return nil, fmt.Errorf("give partitions away: %w", err)
		}
	}
	if len(free) > 0 {
		h.s.log.Info("partitions taken", "partitions", free, "generation", t.Generation)
		err = h.s.own(free)
	}
	return left, err
}

// live returns the servers that take part: this one, those that were heard lately,
// and members of the table that were not missed for long enough.
func (h *share) live(t table) map[string]member {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]member{h.me: h.holder}
	for id, p := range h.peers {
		if h.echo > p.at+missed || !bus.Alive(p.holder.Holder) {
			delete(h.peers, id)
			h.known[id] = 0
			continue
		}
		out[id] = p.holder
	}
	for id, holder := range t.Members {
		if _, ok := out[id]; ok {
			continue
		}
		since, ok := h.known[id]
		if !ok { // not heard yet
			since = h.echo + 1
			h.known[id] = since
		}
		if since > 0 && h.echo <= since+missed && bus.Alive(holder.Holder) {
			out[id] = holder
		}
	}
	for id := range h.known {
		if _, member := t.Members[id]; !member {
			delete(h.known, id)
		}
	}
	return out
}

// get reads the table and makes its bucket if it is gone.
func (h *share) get(ctx context.Context) (table, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	t, rev, err := h.read(ctx)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		st, e := h.s.js.Stream(ctx, h.s.pool.Stream())
		if e != nil {
			return t, 0, errors.Join(err, e)
		}
		err = streams.EnsureShares(ctx, h.s.js, max(1, st.CachedInfo().Config.Replicas))
	}
	return t, rev, err
}

func (h *share) read(ctx context.Context) (t table, rev uint64, err error) {
	kv, err := h.s.js.KeyValue(ctx, streams.Shares)
	if err != nil {
		return t, 0, fmt.Errorf("open bucket %s: %w", streams.Shares, err)
	}
	e, err := kv.Get(ctx, h.s.pool.SharesKey())
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return t, 0, nil
	}
	if err != nil {
		return t, 0, fmt.Errorf("read key %s of bucket %s: %w", h.s.pool.SharesKey(), streams.Shares, err)
	}
	if err := json.Unmarshal(e.Value(), &t); err != nil {
		h.s.log.Warn("the table of partitions cannot be read, writing another", "err", err)
		t = table{}
	}
	return t, e.Revision(), nil
}

func (h *share) put(ctx context.Context, t table, rev uint64) error {
	ctx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	return h.write(ctx, t, rev)
}

// write replaces the table that was read at rev, and says so.
func (h *share) write(ctx context.Context, t table, rev uint64) error {
	b, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write the table of partitions: %w", err)
	}
	kv, err := h.s.js.KeyValue(ctx, streams.Shares)
	if err == nil && rev == 0 {
		_, err = kv.Create(ctx, h.s.pool.SharesKey(), b)
	} else if err == nil {
		_, err = kv.Update(ctx, h.s.pool.SharesKey(), b, rev)
	}
	if err != nil {
		return fmt.Errorf("write the table of partitions: %w", err)
	}
	h.mu.Lock()
	h.gen = max(h.gen, t.Generation)
	h.mu.Unlock()
	h.say(false)
	return nil
}

func conflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

func first(live map[string]member) string {
	f := ""
	for id := range live {
		if f == "" || id < f {
			f = id
		}
	}
	return f
}
