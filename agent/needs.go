package agent

import (
	"cmp"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/timing"
	"github.com/leeward-dr/leeward/streams/wire"
)

// How often an agent says where it stands: more often while its rate is bounded, for
// then control divides what others leave.
const (
	sayEvery  = 15 * time.Second
	saySooner = 5 * time.Second
	sayFirst  = time.Second
)

// board is what the agent says of itself. Its parts are written by those who do the
// work and read by the one who tells.
type board struct {
	began           time.Time
	points, aborted atomic.Uint64
	lost            atomic.Uint64
	acks            timing.Histogram
	news            chan struct{} // the rate has changed: say so soon

	mu    sync.Mutex
	disks []*shown
}

// shown is what is told of one disk.
type shown struct {
	disk, driver string
	journal      *journal
	dirty, left  atomic.Uint64 // bytes

	mu            sync.Mutex
	pub           *blocks.Publisher // nil before the first epoch
	sent, refused uint64            // by those before pub
}

func (b *board) add(s *shown) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disks = append(b.disks, s)
}

// remove takes a disk off; what it has sent stays counted.
func (b *board) remove(s *shown) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.disks = slices.DeleteFunc(b.disks, func(x *shown) bool { return x == s })
}

// follow notes that p makes the disk's epoch from now on.
func (s *shown) follow(p *blocks.Publisher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub != nil {
		st := s.pub.Stats()
		s.sent, s.refused = s.sent+st.Bytes, s.refused+st.Refused
	}
	s.pub = p
}

func (s *shown) stats() (sent, refused uint64, trouble string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pub == nil {
		return s.sent, s.refused, ""
	}
	st := s.pub.Stats()
	return s.sent + st.Bytes, s.refused + st.Refused, st.LastError
}

// liveHeap is what was in use when garbage was last collected, or all there is before that.
// What lies between two collections says more of when they were than of what is held.
func liveHeap() uint64 {
	m := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(m)
	return cmp.Or(m[0].Value.Uint64(), m[1].Value.Uint64())
}

// needs is what the agent says now.
func (a *Agent) needs() *markers.Needs {
	b := &a.board
	n := &markers.Needs{
		Machine: a.cfg.Machine, Version: a.cfg.Version, Host: a.facts.Host, Kernel: a.facts.Kernel, Since: b.began.UnixNano(),
		Rate: a.limit.Rate(), Waited: a.limit.Waited(), Points: b.points.Load(), Aborted: b.aborted.Load(), Lost: b.lost.Load(),
		Heap: liveHeap(), Goroutines: runtime.NumGoroutine(), Acks: b.acks.Counts(),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.disks {
		sent, refused, trouble := s.stats()
		n.SentBytes, n.Refused, n.Trouble = n.SentBytes+sent, n.Refused+refused, cmp.Or(n.Trouble, clip(trouble))
		n.Disks = append(n.Disks, markers.DiskNeeds{
			Disk: s.disk, Driver: s.driver, Dirty: s.dirty.Load(), Unconfirmed: s.journal.bytes(), Left: s.left.Load(),
		})
	}
	return n
}

// say tells control where the agent stands until stop is closed. Nothing depends on
// its being heard.
func (a *Agent) say(stop <-chan struct{}) {
	t := time.NewTimer(sayFirst)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-a.board.news:
			t.Reset(sayFirst)
			continue
		case <-t.C:
		}
		if a.bus.Conn.IsConnected() { // else what is said would pile up until it is
			b, err := a.needs().Encode()
			if err == nil {
				err = a.bus.Conn.Publish(streams.PolicyAsk(a.cfg.Machine), b)
			}
			if err != nil {
				a.log.Debug("control was not told where this agent stands", "error", err)
			}
		}
		every := sayEvery
		if a.limit.Rate() > 0 {
			every = saySooner
		}
		t.Reset(every)
	}
}

// bytes is what the journal holds, at most: blocks that were sent twice count twice.
func (j *journal) bytes() (n uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, g := range j.generations {
		n += g.blocks.Len() * wire.BlockSize
	}
	return n
}

// show notes how much is dirty.
func (r *replica) show() { r.shown.dirty.Store(r.dirty.Len() * wire.BlockSize) }
