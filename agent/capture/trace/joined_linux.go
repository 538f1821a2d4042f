package trace

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
)

// queueFilter selects discards, of any disk: partitions come and go, and a filter that is
// changed when one comes is too late for the discard with which it is formatted.
const queueFilter = `rwbs ~ "D*"`

// joined says whether the kernel may join discards of several places of this disk.
func joined(dev *disk.Disk) bool {
	n, err := strconv.Atoi(sysLine(dev, "queue/max_discard_segments"))
	return err == nil && n > 1
}

// rerouted says whether something above the disk passes on the very bio that it was
// given: that is not seen to be handed over a second time. Of all there is, a linear md
// and bcache do; others make bios of their own.
func rerouted(dev *disk.Disk) bool {
	for _, dir := range []string{sysDir(dev), filepath.Join(sysDir(dev), "*")} {
		holders, _ := filepath.Glob(filepath.Join(dir, "holders/*"))
		for _, h := range holders {
			level, _ := os.ReadFile(filepath.Join(h, "md/level"))
			if _, err := os.Stat(filepath.Join(h, "bcache")); err == nil || string(level) == "linear\n" {
				return true
			}
		}
	}
	return false
}

func readBio(root string) (bioLayout, error) {
	format, err := os.ReadFile(filepath.Join(root, queuePath, "format"))
	if err != nil {
		return bioLayout{}, fmt.Errorf("this kernel has no event block_bio_queue: %w", err)
	}
	return parseBio(format)
}

// mine says whether a device number is the disk's or of a partition of it. A partition
// that is gone is what it was when it was last looked up.
func (s *Source) mine(dev uint32) bool {
	major, minor := dev>>20, dev&(1<<20-1)
	if major == s.dev.Major() && minor == s.dev.Minor() {
		return true
	}
	// Numbers are used again, so each is looked up anew: discards are rare.
	const block = "/sys/dev/block"
	here, err := os.Readlink(filepath.Join(block, fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return s.own[dev]
	}
	disk, err := os.Readlink(sysDir(s.dev))
	if err != nil {
		return s.own[dev]
	}
	s.own[dev] = filepath.Dir(here) == disk
	return s.own[dev]
}

// queueEvent notes a discard that was handed to the disk.
func (s *Source) queueEvent(dev uint32, e event) {
	if e.kind != kindDiscard || !s.mine(dev) {
		return
	}
	s.part.queued += uint64(e.count)
	start, count, ok := e.blocks(s.blocks)
	if !ok {
		return
	}
	s.flight.pending.Add(start, count)
	if s.rec != nil {
		s.rec.add(start, count)
	}
}

// land takes what is pending for done when nothing is under way any more. All rings were
// just read: they are read again, because a discard may have been handed over on a CPU
// whose ring was read before, and completed on one whose ring was read after. Whatever was
// completed by the first reading was handed over before the second.
func (s *Source) land() {
	done := s.seen.discarded
	if done == s.seen.queued+s.flight.before && s.flight.pending.Len() == 0 {
		return
	}
	if !s.drainRings() {
		return
	}
	ok, err := s.flight.settled(s.seen.queued, done)
	if err == nil && !ok {
		err = s.flight.stuck(time.Now(), done)
	}
	if err != nil {
		s.breaks(err)
	}
	if ok {
		s.set.Merge(s.flight.pending)
		s.flight.pending = new(capture.Set)
	}
}

// Looks at a disk whose discards are joined when recording begins: nothing may come to
// its end that was handed over before, for there is no telling where it was.
const (
	calmLooks = 5
	calmMost  = 200
)

// calm waits for the end of discards that were handed over before recording began. One
// that takes longer is reported as a loss when it ends.
func (s *Source) calm() {
	if !s.joins {
		return
	}
	for quiet, all := 0, 0; quiet < calmLooks && all < calmMost; all++ {
		time.Sleep(settle)
		s.drainRings()
		done := s.seen.discarded
		s.drainRings()
		quiet++
		if s.flight.absorb(s.seen.queued, done) {
			quiet = 0
		}
	}
}
