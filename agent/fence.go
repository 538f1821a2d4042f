package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// errShut ends what the agent is doing when control fences its machine.
var errShut = errors.New("control has fenced this machine")

// fence is what control says of whether this machine may write its disks' chains. The
// zero fence lets it.
type fence struct {
	mu     sync.Mutex
	me     string // not empty: in a copy of the machine, and only a fence that names it lets it
	reason string // empty: it may
	number uint64
	heard  chan struct{}           // something was said; made by work
	cancel context.CancelCauseFunc // of the work on its way
}

// copied says that the agent is in a copy of the machine, unless name is empty. It may write
// nothing until it hears that it may.
func (f *fence) copied(name string) {
	if f.me = name; name != "" {
		f.reason = "nothing was heard of whether this copy of the machine may write (" + name + ")"
	}
}

// work returns a context for work that a fence ends.
func (f *fence) work(ctx context.Context) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancelCause(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heard == nil {
		f.heard = make(chan struct{}, 1)
	}
	f.cancel = cancel
	if f.reason != "" {
		cancel(errShut)
	}
	return work, func() { cancel(nil) }
}

// hear takes what control says. It is called by the subscription.
func (f *fence) hear(s *markers.Settings) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reason, f.number = s.Fenced, s.Fence
	switch {
	case f.me == "":
	case s.FenceHolder == f.me:
		f.reason = ""
	case f.reason == "":
		f.reason = "this is a copy of the machine, made by a failover that is over (" + f.me + ")"
	}
	if f.reason != "" && f.cancel != nil {
		f.cancel(errShut)
	}
	select {
	case f.heard <- struct{}{}:
	default: // nobody has looked since; or nobody works yet
	}
}

func (f *fence) why() string { why, _ := f.now(); return why }

func (f *fence) now() (why string, number uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reason, f.number
}

// quiet publishes nothing until the fence is gone or ctx ends.
func (a *Agent) quiet(ctx context.Context) {
	why, _ := a.fence.now()
	defer a.occupy("it is fenced: " + why)()
	a.recall(errShut)
	for _, r := range a.replicas {
		if r.pub != nil {
			r.pub.Close()
			r.pub = nil
		}
		r.why = "a fence was taken away"
		if r.full == "" && !r.src.Cheap() {
			// A pass that was broken off has learnt what it did not report.
			r.full, r.looked = "a pass was broken off by a fence", looked{}
		}
	}
	a.log.Warn("fenced by control: nothing is published", "why", why)
	if a.cfg.Instance != "" {
		a.event("copy-quiet", wire.Warning, "", "the agent in a copy of the machine ("+a.cfg.Instance+") runs and publishes nothing: "+why,
			"leeward failover show "+a.cfg.Machine+"; if the machine is at home again, remove the copy")
	}
	a.writeStatus()
	var counted uint64 // the fence of which all disks were read
	for why, number := a.fence.now(); why != "" && ctx.Err() == nil; why, number = a.fence.now() {
		// Of what the source has not sent a copy of the machine knows nothing.
		if a.cfg.Instance == "" && (counted != number || a.cheap()) {
			counted = number
			a.sayQuiet(ctx, number)
		}
		select {
		case <-a.fence.heard:
		case <-ctx.Done():
		}
	}
	a.writeStatus()
	a.group.until = time.Time{} // whatever group it stood still for
	if ctx.Err() == nil {
		a.log.Info("the fence is gone: replication goes on")
		a.event("unfenced", wire.Info, "", "the fence is gone: replication goes on", "")
	}
}

// sayQuiet tells control that nothing is published any more, and what is missing.
func (a *Agent) sayQuiet(ctx context.Context, number uint64) {
	q := &markers.Quiet{Machine: a.cfg.Machine, Fence: number}
	var mu sync.Mutex
	err := each(ctx, a.replicas, func(ctx context.Context, r *replica) error {
		n, err := r.unsent(ctx)
		mu.Lock()
		defer mu.Unlock()
		q.Bytes += n
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if lacks := a.lacking(); err == nil && lacks != "" {
		err = errors.New(lacks)
	}
	if err != nil {
		q.Error = clip(err.Error())
	}
	b, err := q.Encode()
	if err == nil {
		err = a.bus.Conn.Publish(streams.PolicyAsk(a.cfg.Machine), b)
	}
	if err != nil {
		a.log.Warn("cannot tell control that nothing is published", "error", err)
	}
}

// unsent returns how many bytes have changed and are not known to be in the vault.
func (r *replica) unsent(ctx context.Context) (uint64, error) {
	if _, err := r.take(ctx); err != nil {
		return 0, err
	}
	var all capture.Set
	all.Merge(&r.dirty)
	all.Merge(&r.handed)
	all.Merge(r.journal.peek())
	return all.Len() * wire.BlockSize, nil
}
