package process

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// fences is what control says of who may write a machine's disks. A fence goes only when
// control takes it away: that a bucket is lost or cannot be read takes none away.
type fences struct {
	mu  sync.RWMutex
	all map[string]*streams.Fence // by machine
}

func (f *fences) of(machine string) *streams.Fence {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.all[machine]
}

func (f *fences) set(machine string, to *streams.Fence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if to == nil {
		delete(f.all, machine)
		return
	}
	f.all[machine] = to
}

// rewatch is how long one watch of the bucket lasts: one whose bucket was lost and made
// anew would hear nothing any more.
const rewatch = time.Minute

// followFences reads the fences and follows them until ctx ends. It returns when all
// that there are now are known.
func (s *Server) followFences(ctx context.Context) error {
	w, err := s.watchFences(ctx)
	if err != nil {
		return fmt.Errorf("read bucket %s: %w", streams.Fences, err)
	}
	s.tasks.Go(func() {
		for ctx.Err() == nil {
			if w != nil {
				s.hearFences(ctx, w)
			} else if !sleep(ctx, s.tempo.retryMax) {
				return
			}
			if w, err = s.watchFences(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("the fences cannot be read; those that are known hold", "err", err)
			}
		}
		if w != nil {
			_ = w.Stop()
		}
	})
	return nil
}

// watchFences begins a watch and takes in what is there now.
func (s *Server) watchFences(ctx context.Context) (jetstream.KeyWatcher, error) {
	actx, cancel := context.WithTimeout(ctx, answerWait)
	defer cancel()
	kv, err := s.js.KeyValue(actx, streams.Fences)
	if err != nil {
		return nil, err
	}
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, err
	}
	for {
		select {
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("the watch ended")
			case e == nil:
				return w, nil
			}
			s.hearFence(e)
		case <-actx.Done():
			_ = w.Stop()
			return nil, actx.Err()
		}
	}
}

// hearFences takes in what changes, for a while.
func (s *Server) hearFences(ctx context.Context, w jetstream.KeyWatcher) {
	defer func() { _ = w.Stop() }() // the end of ctx may have stopped it already
	t := time.NewTimer(rewatch)
	defer t.Stop()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return
			}
			if e != nil {
				s.hearFence(e)
			}
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// hearFence takes in one value. One that cannot be read keeps everybody out.
func (s *Server) hearFence(e jetstream.KeyValueEntry) {
	machine := e.Key()
	if e.Operation() != jetstream.KeyValuePut {
		s.fences.set(machine, nil)
		return
	}
	f, err := streams.DecodeFence(machine, e.Value())
	if err != nil {
		s.log.Error("a fence is unreadable: nobody may write the machine's disks", "machine", machine, "err", err)
		f = &streams.Fence{Machine: machine, Why: "its fence is unreadable: " + err.Error()}
	}
	s.fences.set(machine, f)
}

// shut says whether a fence keeps a link out that would go on from head, and why.
func shut(f *streams.Fence, head vault.Head, c *wire.Change) (bool, string) {
	if f == nil {
		return false, ""
	}
	holder := ""
	switch {
	case c.Open != nil:
		holder = c.Open.Instance
	case c.Epoch == head.Epoch:
		if c.Number <= head.Number {
			return false, "" // the vault has it: a repeat, or a fork
		}
		if head.Open != nil {
			holder = head.Open.Instance
		}
	case c.Epoch < head.Epoch:
		return false, "" // of an epoch that is over: the chain says so
	default:
		return f.Holder == "", f.Why // its open may be on its way, and is judged then
	}
	return f.Holder == "" || holder != f.Holder, f.Why
}

// barred refuses a link that a fence keeps out. It reports whether one does.
func (d *disk) barred(l *link) bool {
	f, c := d.s.fences.of(d.id.Machine), l.Change
	if f == nil {
		d.told.barred = barred{}
		return false
	}
	out, why := shut(f, d.tail, c)
	b := &d.told.barred
	if b.generation != f.Generation || b.epochs == nil {
		*b = barred{f.Generation, map[uint64]bool{}}
	}
	known := b.epochs[c.Epoch]
	// What goes on from an open that was refused is refused too: nobody need wait for it.
	if !out && !(known && c.Epoch > d.tail.Epoch && c.Open == nil) {
		return false
	}
	d.s.fencedN.Add(1)
	if known {
		d.drop(l)
		return true
	}
	if len(b.epochs) >= maxBarred {
		clear(b.epochs)
	}
	b.epochs[c.Epoch] = true
	who := ""
	if c.Open != nil {
		who = fmt.Sprintf(" of agent %s on host %s", c.Open.Instance, c.Open.Host)
	}
	d.event("fenced", wire.Warning, clipped(fmt.Sprintf("changes of epoch %d%s were refused: %s", c.Epoch, who, why)),
		"leave that machine off, or bring it back: leeward failover cancel or failback "+d.id.Machine)
	d.refuse(notice{reason: clipped("fenced: " + why), links: []*link{l}})
	return true
}

// barred is the epochs that a fence kept out, each told of once.
type barred struct {
	generation uint64
	epochs     map[uint64]bool
}

// maxBarred bounds how many of them are remembered.
const maxBarred = 64

// clipped shortens text to what a message may carry.
func clipped(s string) string {
	if len(s) <= wire.MaxText {
		return s
	}
	return strings.ToValidUTF8(s[:wire.MaxText], "")
}
