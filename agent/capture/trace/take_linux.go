package trace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
)

var errNotStarted = errors.New("trace source is not started")

// markEvent puts an event's blocks into the set.
func (s *Source) markEvent(e event) {
	s.stats.Events++
	if e.kind == kindDiscard {
		s.part.discarded += uint64(e.count)
	} else {
		s.part.written += uint64(e.count)
	}
	start, count, ok := e.blocks(s.blocks)
	if !ok {
		return // the disk has grown: whoever follows it in its new size reads all that was added
	}
	s.set.Add(start, count)
	if s.rec != nil {
		s.rec.add(start, count)
	}
}

// breaks notes the first reason to doubt what was seen.
func (s *Source) breaks(err error) {
	if s.broken == nil {
		s.broken = err
	}
}

// drain reads every ring until it is empty.
func (s *Source) drain() {
	began := time.Now()
	if err := s.heard.read(s.kernelName); err != nil {
		s.breaks(err)
	}
	empty := s.drainRings()
	if s.joins && empty {
		s.land()
	}
	s.stats.Busy += time.Since(began)
}

// drainRings says whether every ring was seen empty.
func (s *Source) drainRings() (empty bool) {
	empty = true
	for _, r := range s.rings {
		empty = s.drainRing(r) && empty
	}
	return empty
}

func (s *Source) drainRing(r *ring) (empty bool) {
	// Reading is far faster than writing, but must end even if it were not.
	for limit := 4 * s.opt.BufferKB << 10 / len(s.page); limit > 0; limit-- {
		if s.rec != nil {
			s.rec.reading(r.index, s.lay.dataOff)
		}
		n, err := r.read(s.page)
		if err != nil {
			s.breaks(err)
			return false
		}
		if n == 0 {
			if s.rec != nil {
				s.rec.idle()
			}
			return true
		}
		s.stats.Pages++
		if err := s.look(r, s.page[:n]); err != nil {
			s.breaks(err)
			return false
		}
	}
	return false
}

// look marks what is on a page and adds it up.
func (s *Source) look(r *ring, page []byte) error {
	s.part = sums{}
	missed, records, err := s.lay.page(page, s.sink)
	if err != nil {
		return err
	}
	if missed {
		s.breaks(errors.New("the event ring overflowed"))
	}
	r.got += records
	s.seen.written += s.part.written
	s.seen.discarded += s.part.discarded
	s.seen.queued += s.part.queued
	s.stats.Sectors += s.part.written
	s.stats.Discarded += s.part.discarded
	if s.rec != nil {
		s.rec.commit(r.index, records, s.part)
	}
	return nil
}

// drainAll drains until the kernel says that nothing waits. An event that
// interrupted another one on its CPU cannot be read before the outer one is
// finished; the count of entries shows it.
func (s *Source) drainAll() {
	var text [512]byte
	for range 5 {
		s.drain()
		waiting := false
		for _, r := range s.rings {
			c, err := r.counters(text[:])
			if err != nil {
				s.breaks(err)
				return
			}
			if c.lost != r.base.lost {
				s.breaks(fmt.Errorf("the event ring had no room for %d events", c.lost-r.base.lost))
			}
			if c.read != r.got {
				s.breaks(fmt.Errorf("of the event ring %d events were read, the driver has got %d: somebody else reads it", c.read, r.got))
			}
			waiting = waiting || c.entries > 0
		}
		if !waiting {
			break
		}
	}
	s.sizes()
	s.doze()
	if !s.sw.recording() {
		s.breaks(errors.New("somebody switched recording off"))
	}
}

// Take implements capture.Source.
func (s *Source) Take(ctx context.Context) (*capture.Set, error) {
	if s.inst == nil {
		return nil, errNotStarted
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.present(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainAll()
	if s.broken != nil {
		return nil, s.lose()
	}
	taken := s.set
	s.set = new(capture.Set)
	taken.Merge(s.flight.pending)
	return taken, nil
}

// present says whether the disk is still there: its number may have gone to another.
func (s *Source) present() error {
	err := s.dev.Present()
	if err != nil {
		s.Void()
	}
	return err
}

// lose reports a loss once and goes on from here.
func (s *Source) lose() error {
	err := fmt.Errorf("%s: %w: %w", s.dev.Path(), capture.ErrLost, s.broken)
	s.stats.Losses++
	if s.rec != nil {
		s.rec.void()
	}
	// What is written from here on must be seen: stop, empty the rings, and begin
	// again with an empty ledger.
	again := errors.Join(
		s.inst.write("tracing_on", "0"),
		s.inst.enable(s.watches()),
	)
	s.drain()
	var text [512]byte
	for _, r := range s.rings {
		if c, cerr := r.counters(text[:]); cerr == nil {
			r.base, r.got = c, c.read
			if s.rec != nil {
				s.rec.cpus[2*r.index], s.rec.cpus[2*r.index+1] = c.read, c.lost
			}
		}
	}
	s.set, s.broken, s.flight = new(capture.Set), nil, newFlight()
	if again = errors.Join(again, s.switchOn()); again != nil {
		s.breaks(again)
	}
	return err
}

// auditTries times auditPause is how long a disk may take to come to rest.
const (
	auditTries = 40
	auditPause = 5 * time.Millisecond
)

// Audit implements capture.Source.
func (s *Source) Audit(ctx context.Context) error {
	if s.inst == nil {
		return errNotStarted
	}
	if err := s.present(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var last *discrepancy
	for try := range auditTries {
		if try > 0 {
			if err := pause(ctx, auditPause); err != nil {
				return err
			}
		}
		var err error
		if last, err = s.read(); err != nil {
			return err
		}
		if s.broken != nil {
			return s.lose()
		}
		if last == nil || !s.counted() {
			return nil
		}
	}
	s.breaks(last)
	return s.lose()
}

// discrepancy is what the ledger cannot explain.
type discrepancy struct {
	what string
	r    reading
	l    ledger
}

// Error names the two counts.
func (d *discrepancy) Error() string {
	return fmt.Sprintf("the kernel counted %d sectors %s, the driver saw %d and expected %d to %d before it began", d.r.after, d.what, d.r.seen, d.l.lo, d.l.hi)
}

// read compares once; nil: everything is explained.
func (s *Source) read() (*discrepancy, error) {
	before, err := s.count()
	if err != nil {
		return nil, err
	}
	s.drainAll()
	after, err := s.count()
	if err != nil {
		return nil, err
	}
	inflight := before.inflight+after.inflight > 0
	w := reading{before.written, after.written, s.seen.written, inflight}
	d := reading{before.discarded, after.discarded, s.seen.discarded, inflight}
	var bad *discrepancy
	if !s.freed.judge(d) {
		bad = &discrepancy{"discarded", d, s.freed}
	}
	if !s.ledger.judge(w) {
		bad = &discrepancy{"written", w, s.ledger}
	}
	s.keepLedger()
	return bad, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// count reads the kernel's counters of the disk.
func (s *Source) count() (diskstat, error) {
	b, err := os.ReadFile(filepath.Join(sysDir(s.dev), "stat"))
	if err != nil {
		return diskstat{}, fmt.Errorf("read the counters of %s: %w", s.dev.Path(), err)
	}
	return parseStat(string(b))
}
