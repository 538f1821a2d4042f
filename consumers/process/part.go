package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
)

// part is a partition that this server owns, from take to leave.
type part struct {
	n        int
	ctx      context.Context // ends: drop everything
	cancel   context.CancelFunc
	pullCtx  context.Context // ends: take nothing more
	pullStop context.CancelFunc
	pulls    sync.WaitGroup // ends with pullCtx
	loops    sync.WaitGroup // one for each disk
	sub      *nats.Subscription
	closing  bool         // guarded by Server.mu: no disk may be started
	claimed  atomic.Int64 // Unix ns: when JetStream was first seen to refuse the requests of others; 0: not claimed
}

// undisturbed is when the last of the requests has ended that another server had made
// before this one claimed the partition. Until then what is delivered again may go there.
func (p *part) undisturbed(request time.Duration) time.Time {
	if at := p.claimed.Load(); at != 0 {
		return time.Unix(0, at).Add(request)
	}
	return time.Time{}
}

// own takes partitions that nobody else works on.
func (s *Server) own(partitions []int) error {
	var first *part
	for _, n := range partitions {
		p, err := s.take(n)
		if err != nil {
			return err
		}
		if first == nil {
			first = p
		}
	}
	if first != nil { // one look at the vault for all of them
		s.tasks.Go(func() { s.announce(s.ctx, partitions...) })
	}
	return nil
}

// take begins to pull partition n.
func (s *Server) take(n int) (*part, error) {
	p := &part{n: n}
	p.ctx, p.cancel = context.WithCancel(s.ctx)
	p.pullCtx, p.pullStop = context.WithCancel(p.ctx)
	var err error
	if p.sub, err = s.conn.QueueSubscribe(s.pool.SumsPartition(n), "leeward-process", s.asked); err != nil {
		p.cancel()
		return nil, fmt.Errorf("subscribe to requests for sums of partition %d: %w", n, err)
	}
	s.mu.Lock()
	s.parts[n] = p
	s.mu.Unlock()
	p.pulls.Go(func() { s.pull(p) })
	return p, nil
}

// owned lists the partitions of this server, in order.
func (s *Server) owned() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.parts))
}

// errLeft says that a partition was left with work undone.
var errLeft = errors.New("not everything was committed, it will be delivered again")

// leave takes nothing more of the partitions, commits what is here of them and
// acknowledges it. When ctx ends first, the rest is dropped and delivered again to
// the next owner.
func (s *Server) leave(ctx context.Context, partitions ...int) error {
	var parts []*part
	s.mu.Lock()
	for _, n := range partitions {
		if p := s.parts[n]; p != nil {
			parts = append(parts, p)
		}
	}
	s.mu.Unlock()
	for _, p := range parts {
		p.pullStop()
		_ = p.sub.Unsubscribe() // fails only if the connection is gone
	}
	for _, p := range parts {
		p.pulls.Wait()
	}
	s.mu.Lock()
	for _, p := range parts {
		p.closing = true
	}
	for _, d := range s.disks {
		if slices.Contains(parts, d.part) {
			close(d.drain)
		}
	}
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, p := range parts {
			p.loops.Wait()
		}
	}()
	var err error
	select {
	case <-ended:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", errLeft, context.Cause(ctx))
	}
	for _, p := range parts {
		p.cancel()
	}
	<-ended
	s.dropped(parts)
	return err
}

// dropped forgets what was known of partitions and their disks.
func (s *Server) dropped(parts []*part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := map[vault.DiskID]bool{}
	for id, d := range s.disks {
		gone[id] = slices.Contains(parts, d.part)
	}
	maps.DeleteFunc(s.disks, func(id vault.DiskID, _ *disk) bool { return gone[id] })
	for _, p := range parts {
		delete(s.parts, p.n)
		s.behind[p.n].Store(0)
		maps.DeleteFunc(s.shown, func(id vault.DiskID, _ DiskStats) bool { return streams.Partition(id.Machine, id.Disk) == p.n })
	}
}

// ahead is how much is fetched ahead for a partition: the more of them have a backlog,
// the less for each.
func (s *Server) ahead() int {
	n := 0
	for p := range s.behind {
		if s.behind[p].Load() > 0 {
			n++
		}
	}
	return s.cfg.pullBytes(n)
}
