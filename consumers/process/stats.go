package process

import (
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/timing"
)

// counters count since Start.
type counters struct {
	links, bytesIn, bytesStored, commits atomic.Uint64
	redelivered, againN                  atomic.Uint64
	refused, malformedN, unanswered      atomic.Uint64
	fencedN                              atomic.Uint64
	inMemory                             atomic.Int64
	behind                               [streams.Partitions]atomic.Uint64
	fetching                             [streams.Partitions]atomic.Int64 // bytes ahead
	commitTimes                          timing.Histogram
	lagTimes                             timing.Histogram
}

// Stats is what a server has done since Start and where it stands.
type Stats struct {
	Links       uint64 `json:"links"`        // committed
	BytesIn     uint64 `json:"bytes_in"`     // of messages taken
	BytesStored uint64 `json:"bytes_stored"` // of frames given to the vault, before its seal
	Commits     uint64 `json:"commits"`
	Delivered   uint64 `json:"delivered_again"` // messages JetStream delivered more than once
	Repeats     uint64 `json:"repeats"`         // links that were here or in the vault already
	Refused     uint64 `json:"refused"`         // links dropped: fenced, forked or behind a gap
	Fenced      uint64 `json:"fenced"`          // links that a fence kept out; refused too
	Malformed   uint64 `json:"malformed"`
	Held        int    `json:"held"`         // links behind a gap now
	MemoryBytes int64  `json:"memory_bytes"` // of links that wait now
	Behind      uint64 `json:"behind"`       // messages JetStream has not delivered yet
	Store       string `json:"store"`        // why the store fails, empty if it works
	// CommitTimes are of commits to the vault, LagTimes from JetStream's taking a link
	// until the vault had it.
	CommitTimes timing.Counts `json:"commit_times"`
	LagTimes    timing.Counts `json:"lag_times"`
	// Disks are those seen since Start, by "machine/disk".
	Disks map[string]DiskStats `json:"disks"`
}

// DiskStats is where a disk stands.
type DiskStats struct {
	Epoch        uint64        `json:"epoch"` // of the vault's head
	Number       uint64        `json:"number"`
	Size         uint64        `json:"size"` // bytes of the disk
	Links        uint64        `json:"links"`
	Pending      int           `json:"pending"` // links that wait for the vault
	PendingBytes int64         `json:"pending_bytes"`
	Held         int           `json:"held"` // links behind a gap
	Lag          time.Duration `json:"lag"`  // how long the oldest waiting link is in JetStream
	Error        string        `json:"error,omitempty"`
	oldest       time.Time
}

// Stats may be called at any time, from any goroutine.
func (s *Server) Stats() Stats {
	st := Stats{
		Links: s.links.Load(), BytesIn: s.bytesIn.Load(), BytesStored: s.bytesStored.Load(), Commits: s.commits.Load(),
		Delivered: s.againN.Load(), Repeats: s.redelivered.Load(), Refused: s.refused.Load(), Malformed: s.malformedN.Load(),
		Fenced: s.fencedN.Load(), MemoryBytes: s.inMemory.Load(), CommitTimes: s.commitTimes.Counts(), LagTimes: s.lagTimes.Counts(), Disks: map[string]DiskStats{},
	}
	if err := s.voice.storeError(); err != nil {
		st.Store = err.Error()
	}
	for p := range s.behind {
		st.Behind += s.behind[p].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, d := range s.shown {
		if !d.oldest.IsZero() {
			d.Lag = time.Since(d.oldest)
		}
		st.Held += d.Held
		st.Disks[id.String()] = d
	}
	return st
}

// publish shows where the disk stands.
func (d *disk) publish() {
	s := DiskStats{Epoch: d.head.Epoch, Number: d.head.Number, Size: d.head.Size, Held: len(d.held), PendingBytes: d.heldBytes}
	count := func(links []*link) {
		s.Pending += len(links)
		if len(links) > 0 && (s.oldest.IsZero() || links[0].stored.Before(s.oldest)) {
			s.oldest = links[0].stored
		}
	}
	for _, r := range d.runs {
		count(r.links)
		s.PendingBytes += r.count.Bytes
	}
	count(d.waiting)
	count(d.held)
	if d.failing != nil {
		s.Error = d.failing.Error()
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	s.Links = d.committedLinks
	d.s.shown[d.id] = s
}

// count adds a committed run.
func (d *disk) count(r *run, b *vault.Batch) {
	d.committedLinks += uint64(len(r.links))
	d.s.links.Add(uint64(len(r.links)))
	d.s.commits.Add(1)
	for _, l := range r.links {
		d.s.lagTimes.Observe(time.Since(l.stored))
	}
	for _, f := range b.Frames {
		d.s.bytesStored.Add(uint64(len(f.Data)))
	}
}

// register makes the server visible to `nats micro`.
func (s *Server) register() error {
	svc, err := micro.AddService(s.conn, micro.Config{
		Name: "leeward-process", Version: "0.1.0", Description: "commits changes of disks to the vault",
		Metadata:     map[string]string{"vault": s.vault.ID()},
		StatsHandler: func(*micro.Endpoint) any { return s.Stats() },
	})
	if err != nil {
		return err
	}
	s.service = svc
	return svc.AddGroup("leeward.process").AddEndpoint("stats", micro.HandlerFunc(func(r micro.Request) {
		if err := r.RespondJSON(s.Stats()); err != nil {
			s.log.Debug("a request for numbers was not answered", "err", err)
		}
	}))
}
