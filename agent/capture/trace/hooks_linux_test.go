package trace

import "time"

// FirstPlaces makes a source see of joined discards what it would without following those
// that are handed over: for proving that this is needed.
func (s *Source) FirstPlaces() { s.joins, s.sink.queued = false, nil }

// Pending is how many blocks of discards may be under way.
func (s *Source) Pending() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flight.pending.Len()
}

// AsIfJoined makes a source follow the discards that are handed over though the kernel
// joins none of this disk.
func (s *Source) AsIfJoined() (err error) {
	s.lay.bio, err = readBio(s.opt.TracingRoot)
	s.joins, s.sink.queued = true, s.queueEvent
	return err
}

// Asleep makes a source believe that the machine has been suspended for so long.
func (s *Source) Asleep(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slept = func() (time.Duration, error) {
		is, err := slept()
		return is + d, err
	}
}
