package trace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
)

// startKept takes over what an earlier process left, or begins a new kept record.
func (s *Source) startKept() error {
	now, err := s.headNow()
	if err != nil {
		return unsupported("%w", err)
	}
	rec, err := lockRecord(recordPath(s.opt.Keep, s.dev.Major(), s.dev.Minor()))
	if err != nil {
		return err
	}
	s.rec = rec
	if s.resumed = s.takeOver(now); s.resumed == nil {
		return nil
	}
	rec.detach()
	major, minor := strconv.FormatUint(uint64(s.dev.Major()), 10), strconv.FormatUint(uint64(s.dev.Minor()), 10)
	removeKept(s.opt.TracingRoot, func(ma, mi, _ string) bool { return ma == major && mi == minor })
	if s.inst, err = newKept(s.opt.TracingRoot, s.opt.Name, s.dev.Major(), s.dev.Minor(), s.dev.Sequence()); err != nil {
		err = errors.Join(err, rec.remove())
		s.rec = nil
		return unsupported("%w", err)
	}
	if err := s.begin(func() error { return s.createRecord(now) }); err != nil {
		err = errors.Join(err, s.release(true))
		return unsupported("follow %s: %w", s.dev.Path(), err)
	}
	return nil
}

// headNow is the head of a record that would be made now.
func (s *Source) headNow() (head, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return head{}, fmt.Errorf("tell this boot from others: %w", err)
	}
	cpus, err := filepath.Glob(filepath.Join(s.opt.TracingRoot, "per_cpu/cpu[0-9]*"))
	if err != nil || len(cpus) == 0 {
		return head{}, fmt.Errorf("no rings in %s", s.opt.TracingRoot)
	}
	return head{
		Boot: strings.TrimSpace(string(boot)), Device: fmt.Sprintf("%d:%d", s.dev.Major(), s.dev.Minor()),
		Sequence: s.dev.Sequence(), Identity: s.dev.Identity(), Size: s.dev.Size(),
		Filter: filters(s.watches()), PageSize: len(s.page), CPUs: len(cpus), Granule: granule(s.dev.Blocks()),
	}, nil
}

// createRecord makes a new record for the instance that is about to be switched on.
func (s *Source) createRecord(now head) error {
	ino, err := s.inst.inode()
	if err != nil {
		return err
	}
	if now.CPUs != len(s.rings) {
		return fmt.Errorf("%d rings, want %d", len(s.rings), now.CPUs)
	}
	now.Instance, now.Inode = filepath.Base(s.inst.dir), ino
	if err := s.rec.create(now, s.dev.Blocks()); err != nil {
		return err
	}
	s.page = s.rec.box
	return nil
}

// takeOver goes on where an earlier process stopped, or says why it cannot. Every
// event since then is accounted for: the kernel says how many of each ring were
// read, and the record how many of them are in its maps.
func (s *Source) takeOver(now head) (err error) {
	if err := s.rec.load(); err != nil {
		return err
	}
	if err := s.rec.head.differs(now); err != nil {
		return err
	}
	if _, ok := s.rec.mark(); !ok {
		return errors.New("the process before had not compared all of the disk yet")
	}
	if s.inst, err = openKept(s.opt.TracingRoot, s.rec.head.Instance, s.rec.head.Inode); err != nil {
		return err
	}
	page := s.page
	defer func() {
		if err != nil {
			s.closeFiles()
			s.inst.unpin()
			s.inst, s.page, s.blocks, s.broken, s.set, s.seen, s.flight = nil, page, s.dev.Blocks(), nil, new(capture.Set), sums{}, newFlight()
		}
	}()
	if err := s.inst.as(s.watches()); err != nil {
		return err
	}
	if err := s.openFiles(); err != nil {
		return err
	}
	if !s.sw.recording() {
		return errors.New("somebody switched recording off meanwhile")
	}
	if len(s.rings) != now.CPUs {
		return errors.New("the number of CPUs is another one")
	}
	s.page = s.rec.box
	s.blocks = blocksOf(s.rec.head.Size)
	if err := s.account(); err != nil {
		return err
	}
	if s.rec.head.Size < now.Size {
		if err := s.grow(now); err != nil {
			return err
		}
	}
	if err := s.listen(); err != nil {
		return err
	}
	s.drain() // what the log said until here nobody else was told
	s.heard.said = 0
	return nil
}

// grow goes on with a disk that is larger than when its record was made. What was added
// counts as changed, and so does the block in which the old end was.
func (s *Source) grow(now head) error {
	added := s.rec.head.Size / capture.BlockSize
	now.Instance, now.Inode = s.rec.head.Instance, s.rec.head.Inode
	s.page = nil // it is in the record's memory
	if err := s.rec.grow(now, s.set, added); err != nil {
		return err
	}
	s.page, s.blocks = s.rec.box, s.dev.Blocks()
	s.set.Add(added, s.blocks-added)
	return nil
}

// account brings the record up to what was read of the rings, and checks it.
func (s *Source) account() error {
	rec := s.rec
	for _, r := range s.rings {
		r.got, r.base.lost = rec.cpus[2*r.index], rec.cpus[2*r.index+1]
	}
	s.seen = rec.seen()
	phase := rec.live[wordPhase]
	cpu := int(phase >> 2)
	if phase != 0 && cpu >= len(s.rings) {
		return errors.New("the kept record names a ring that is not there")
	}
	switch phase & 3 {
	case phaseRedo:
		rec.redo(cpu)
		s.rings[cpu].got, s.seen = rec.cpus[2*cpu], rec.seen()
	case phaseReading:
		if err := s.look(s.rings[cpu], rec.box); err != nil {
			return err
		}
	}
	rec.idle()
	var text [512]byte
	for _, r := range s.rings {
		c, err := r.counters(text[:])
		if err != nil {
			return err
		}
		if c.lost != r.base.lost {
			return fmt.Errorf("the event ring had no room for %d events while no agent ran", c.lost-r.base.lost)
		}
		if c.read != r.got {
			return fmt.Errorf("%d events of a ring were read, %d are accounted for", c.read, r.got)
		}
	}
	s.awake = time.Duration(rec.live[wordSlept])
	s.doze()
	if s.broken != nil {
		return s.broken
	}
	s.flight = newFlight()
	s.flight.before = rec.live[wordBefore]
	s.ledger = ledger{rec.live[wordLedgerLo], rec.live[wordLedgerHi]}
	s.freed = ledger{rec.live[wordDiscardLo], rec.live[wordDiscardHi]}
	rec.unseal() // the second map into the first
	s.set = rec.kept(s.blocks)
	if s.joins {
		s.flight.pending = rec.kept(s.blocks) // what of it is under way is not known
	}
	return nil
}

// keepLedger stores what is known of the kernel's counters.
func (s *Source) keepLedger() {
	if s.rec == nil || s.rec.mem == nil {
		return
	}
	s.rec.live[wordSeen], s.rec.live[wordDiscarded], s.rec.live[wordQueued] = s.seen.written, s.seen.discarded, s.seen.queued
	s.rec.live[wordBefore], s.rec.live[wordSlept] = s.flight.before, uint64(s.awake)
	s.rec.live[wordDiscardLo], s.rec.live[wordDiscardHi] = s.freed.lo, s.freed.hi
	s.rec.live[wordLedgerLo], s.rec.live[wordLedgerHi] = s.ledger.lo, s.ledger.hi
}

// kept calls f with the record, if there is one, while nothing is drained.
func (s *Source) kept(f func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rec != nil && s.rec.mem != nil {
		f(s.rec)
	}
}

// Resumed implements capture.Keeper.
func (s *Source) Resumed() error { return s.resumed }

// Fits implements capture.Keeper.
func (s *Source) Fits(base capture.Mark) (err error) {
	err = errors.New("nothing is kept")
	s.kept(func(r *record) {
		m, ok := r.mark()
		if err = errors.New("nothing certain is kept"); ok {
			err = capture.Fits(m, r.live[wordSince], r.live[wordLast], base)
		}
	})
	return err
}

// Opening implements capture.Keeper.
func (s *Source) Opening(epoch uint64) { s.kept(func(r *record) { r.opening(epoch) }) }

// Seal implements capture.Keeper.
func (s *Source) Seal(m capture.Mark) {
	s.kept(func(r *record) {
		open := s.set
		if s.flight.pending.Len() > 0 {
			open = new(capture.Set)
			open.Merge(s.set)
			open.Merge(s.flight.pending)
		}
		r.seal(m, open)
	})
}

// Confirm implements capture.Keeper.
func (s *Source) Confirm(m capture.Mark) { s.kept(func(r *record) { r.confirm(m) }) }

// Void implements capture.Keeper.
func (s *Source) Void() { s.kept((*record).void) }

// Discard implements capture.Keeper.
func (s *Source) Discard() { s.kept(func(*record) { s.discard = true }) }

// Forget removes the kept records in a directory that no process works on, with
// their instances; with every it also removes the instances of records that are
// elsewhere or gone. It returns what it removed.
func Forget(dir, root string, every bool) (removed []string, err error) {
	if root == "" {
		root = DefaultRoot
	}
	files, err := filepath.Glob(filepath.Join(dir, "trace-*.kept"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		rec, lerr := lockRecord(f)
		if lerr != nil {
			err = errors.Join(err, lerr)
			continue
		}
		if rec.load() == nil {
			if in, oerr := openKept(root, rec.head.Instance, rec.head.Inode); oerr == nil {
				err = errors.Join(err, in.remove())
			}
		}
		err = errors.Join(err, rec.remove())
		removed = append(removed, f)
	}
	if every {
		removed = append(removed, removeKept(root, func(string, string, string) bool { return true })...)
	}
	return removed, err
}
