package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"golang.org/x/sync/semaphore"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Options of a Server that are no settings of an operator.
type Options struct {
	// Partitions are those this server owns, whatever other servers do, each from 0
	// to streams.Partitions-1. Nil: this server shares all partitions with the others
	// on the bus.
	Partitions []int
	Log        *slog.Logger // nil: silent
}

// Server is a process server, see the package comment.
type Server struct {
	conn      *nats.Conn
	js        jetstream.JetStream
	vault     *vault.Vault
	cfg       Config
	pool      streams.Pool
	limits    optimize.Limits
	tempo     tempo
	log       *slog.Logger
	fixed     []int // partitions that are not shared with anybody
	share     *share
	optimizer *optimize.Optimizer
	voice     *voice
	taps      *taps
	memory    *semaphore.Weighted
	held      atomic.Int64       // bytes of links behind gaps, of all disks
	slots     chan struct{}      // one for each commit at the same time
	committed func(vault.DiskID) // for tests: between commit and receipt
	resets    [streams.Partitions]atomic.Int64
	fences    fences

	ctx     context.Context // ends: drop everything
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	service micro.Service

	mu    sync.Mutex
	parts map[int]*part // what it owns now
	disks map[vault.DiskID]*disk
	shown map[vault.DiskID]DiskStats

	counters
}

// New makes a server that does nothing before Start.
func New(b *bus.Bus, v *vault.Vault, c Config, o Options) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	for _, p := range o.Partitions {
		if p < 0 || p >= streams.Partitions {
			return nil, fmt.Errorf("partition %d: there are 0 to %d", p, streams.Partitions-1)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	opt, err := optimize.New(0)
	if err != nil {
		return nil, err
	}
	s := &Server{
		conn: b.Conn, js: b.JS, vault: v, cfg: c, pool: c.Pool, limits: optimize.Default(), tempo: patient(), log: o.Log,
		fixed: o.Partitions, parts: map[int]*part{}, optimizer: opt, memory: semaphore.NewWeighted(c.MemoryBytes), slots: make(chan struct{}, c.Workers),
		disks: map[vault.DiskID]*disk{}, shown: map[vault.DiskID]DiskStats{}, fences: fences{all: map[string]*streams.Fence{}},
	}
	s.limits.Bytes, s.limits.Age = c.BatchBytes, c.BatchAge
	s.voice, s.taps = newVoice(b.JS, o.Log), newTaps(b)
	return s, nil
}

// Start begins to pull and returns. Call it once. A bus that is there and does not answer,
// as while the nodes of a cluster are restarted, is asked again until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.voice.start(s.ctx, s.tempo)
	s.taps.start(s.ctx, s.tempo)
	err := s.followFences(s.ctx) // before the first link is judged
	for err != nil && streams.Retryable(err) && sleep(ctx, s.tempo.retry) {
		s.log.Warn("the fences cannot be read, trying again", "err", err)
		err = s.followFences(s.ctx)
	}
	switch {
	case err != nil:
	case s.fixed != nil:
		err = s.own(s.fixed)
	default:
		err = join(s)
	}
	if err == nil {
		err = s.register()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start the process server: %w", err), s.Stop(context.Background()))
	}
	return nil
}

// Stop takes nothing more, commits what is here, says so, acknowledges it and
// returns. When ctx ends first, the rest is dropped: it is delivered again to the
// next server.
func (s *Server) Stop(ctx context.Context) error {
	if s.ctx == nil {
		return nil
	}
	if s.service != nil {
		_ = s.service.Stop()
	}
	if s.share != nil {
		s.share.end()
	}
	err := s.leave(ctx, s.owned()...)
	if s.share != nil {
		s.share.resign(ctx)
	}
	s.voice.flush(ctx)
	s.cancel()
	s.tasks.Wait()
	s.voice.wait()
	s.taps.wait()
	if err == nil && s.conn.IsConnected() {
		ctx, cancel := context.WithTimeout(ctx, answerWait) // the client insists on a deadline
		defer cancel()
		err = s.conn.FlushWithContext(ctx) // the last acknowledgements
	}
	return err
}

// pin returns the disk, started if need be, or nil when its partition is not this
// server's or is being given away. Until unpin it does not retire.
func (s *Server) pin(id vault.DiskID) *disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.parts[streams.Partition(id.Machine, id.Disk)]
	if p == nil || p.closing {
		return nil
	}
	d := s.disks[id]
	if d == nil {
		d = newDisk(s, id, p)
		s.disks[id] = d
		p.loops.Go(func() { d.loop(p.ctx) })
	}
	d.pins++
	return d
}

func (s *Server) unpin(d *disk) {
	s.mu.Lock()
	d.pins--
	s.mu.Unlock()
}

// forget removes a disk that has nothing to do, and reports whether it did.
func (s *Server) forget(d *disk) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.part.closing || d.pins > 0 || len(d.in) > 0 || len(d.asks) > 0 || len(d.announce) > 0 {
		return false
	}
	delete(s.disks, d.id)
	return true
}

// announce sees to it that RECEIPTS has what the vault holds of every disk of the
// partitions. The vault does not know of pools, so the one that is always there does it
// for all.
func (s *Server) announce(ctx context.Context, partitions ...int) {
	if s.pool != "" {
		return
	}
	mine := map[int]bool{}
	for _, p := range partitions {
		mine[p] = true
	}
	for wait := s.tempo.retry; ; wait = min(2*wait, s.tempo.retryMax) {
		ids, err := s.vault.Disks(ctx)
		if err == nil {
			for _, id := range ids {
				if mine[streams.Partition(id.Machine, id.Disk)] {
					s.lookAfter(id)
				}
			}
			return
		}
		s.log.Warn("the vault cannot be listed, trying again", "err", err, "in", wait)
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (s *Server) lookAfter(id vault.DiskID) {
	d := s.pin(id)
	if d == nil {
		return
	}
	defer s.unpin(d)
	select {
	case d.announce <- struct{}{}:
	default: // it is asked for already
	}
}

// slot waits for one of the places for store I/O. If ctx ends first, so will the
// I/O.
func (s *Server) slot(ctx context.Context) (release func()) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }
	case <-ctx.Done():
		return func() {}
	}
}

// reserve waits until there is room for n bytes of a disk's links.
func (s *Server) reserve(ctx context.Context, d *disk, n int64) error {
	if err := d.quota.Acquire(ctx, n); err != nil {
		return err
	}
	if err := s.memory.Acquire(ctx, n); err != nil {
		d.quota.Release(n)
		return err
	}
	s.inMemory.Add(n)
	return nil
}

func (s *Server) give(n int64) {
	s.inMemory.Add(-n)
	s.memory.Release(n)
}

// answered takes note of an answer that could not be sent: the message will be
// delivered again and recognised.
func (s *Server) answered(err error) {
	if err != nil {
		s.unanswered.Add(1)
	}
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
