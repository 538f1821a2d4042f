package vault

import (
	"sync"
)

// readAhead finds sequential reads among others: a few streams at once, as a booting
// machine has them.
type readAhead struct {
	most   int64 // bytes a stream is read ahead at most; 0 for never
	budget int64 // unpacked bytes one stretch may bring into the cache
	slots  chan struct{}

	mu      sync.Mutex
	streams [8]stream // mu guards; most recent first
}

// stream is a sequence of reads that may go on.
type stream struct {
	next   int64 // where the next read would start
	window int64 // bytes to have ahead of it
	done   int64 // everything before was asked for
}

func (s *stream) goesOn(off int64) bool {
	return s.next > 0 && off >= s.next-slack && off <= s.next+slack
}

const (
	firstWindow = 256 << 10
	// slack is how far a read may miss the stream's end, in bytes: requests overtake
	// each other on their way.
	slack = 128 << 10
)

func (a *readAhead) init(most, budget int64) {
	if most == 0 {
		most = defaultReadAhead
	}
	a.most, a.budget = max(0, min(most, budget/4)), budget/4
	a.slots = make(chan struct{}, fetchers)
}

// next notes a read and returns the bytes to fetch now, from start to stop, if the
// caller can.
func (a *readAhead) next(off, end int64, can bool) (start, stop int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := 0
	for i < len(a.streams)-1 && !a.streams[i].goesOn(off) {
		i++
	}
	s := a.streams[i]
	known := s.goesOn(off)
	if known {
		s.next = max(s.next, end)
		s.window = min(max(2*s.window, firstWindow), a.most)
	} else {
		s = stream{next: end, done: end} // it replaces the one not used for longest
	}
	if start, stop = max(s.done, end), s.next+s.window; known && can && stop-start >= s.window/2 {
		s.done = stop
	} else {
		start, stop = 0, 0
	}
	copy(a.streams[1:i+1], a.streams[:i])
	a.streams[0] = s
	return start, stop
}

// readAhead fetches what a stream will want next, if the read of n bytes at off goes
// on with one. It never waits: when enough is under way already it does nothing.
func (r *Reader) readAhead(off int64, n int) {
	if r.ahead.most == 0 {
		return
	}
	free := true
	select {
	case r.ahead.slots <- struct{}{}:
	default:
		free = false
	}
	start, stop := r.ahead.next(off, off+int64(n), free)
	if start >= stop {
		if free {
			<-r.ahead.slots
		}
		return
	}
	w := r.now.Load()
	if w.inMemory() {
		r.fetchAhead(w, start, stop)
		return
	}
	// Looking up where the data is may have to wait for the store.
	// ReadAt, our caller, has entered: Close cannot have passed Wait.
	r.wg.Go(func() { r.fetchAhead(w, start, stop) })
}

// fetchAhead claims what is between start and stop, and lets it be fetched.
func (r *Reader) fetchAhead(w *view, start, stop int64) {
	m, err := w.window(r.ctx, uint64(start)/BlockSize, blocksOf(uint64(min(stop, r.size))))
	if err != nil {
		<-r.ahead.slots
		return // who reads there will see it
	}
	var mine []*frameEntry
	var todo []uint32
	room := r.ahead.budget
	for i := m.from(uint64(start) / BlockSize); i < len(m.pieces) && int64(m.pieces[i].start())*BlockSize < stop && room > 0; i++ {
		f := m.pieces[i].frame
		if e, fetch := w.cache.claim(m.frames[f].id()); fetch {
			mine = append(mine, e)
			todo = append(todo, f)
			room -= int64(m.frames[f].raw())
		}
	}
	r.wg.Go(func() {
		defer func() { <-r.ahead.slots }()
		w.fetch(m, todo, mine)
	})
}
