package trace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
)

// Source follows one disk. It implements capture.Source.
type Source struct {
	dev *disk.Disk
	opt Options
	lay layout

	kernelName string // of the disk in the kernel's log and in what device managers are told

	slept func() (time.Duration, error) // how long the machine was suspended so far

	inst  *instance
	rings []*ring
	sw    switches
	joins bool // the kernel may join discards of this disk, and all that are handed to it are followed
	stop  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	page    []byte
	sink    *sink
	own     map[uint32]bool // device numbers that were looked up: is it the disk or a partition of it
	blocks  uint64          // of the disk, as far as it is followed
	set     *capture.Set
	broken  error   // why changes may have been missed; nil if none were
	part    sums    // of the page that is being looked at
	seen    sums    // since the ledgers began
	rec     *record // nil if nothing is kept
	resumed error   // why nothing was taken over
	discard bool
	ledger  ledger        // of sectors written
	freed   ledger        // of sectors discarded
	flight  flight        // discards under way
	heard   heard         // of the disk's size
	awake   time.Duration // what slept said when recording began
	stats   Stats
}

// sums are what the events of a page add up to.
type sums struct{ written, discarded, queued uint64 }

var (
	_ capture.Source = (*Source)(nil)
	_ capture.Keeper = (*Source)(nil)
)

// Probe says whether a disk can be followed: nil, or an error that wraps
// capture.ErrUnsupported and names the reason. It mounts tracefs if need be.
func Probe(dev *disk.Disk) error {
	_, err := New(dev, Options{})
	return err
}

// New prepares to follow a disk; see Probe for its errors. Nothing is recorded
// before Start.
func New(dev *disk.Disk, o Options) (*Source, error) {
	if !dev.IsBlock() {
		return nil, unsupported("%s is a file, not a block device", dev.Path())
	}
	o = o.withDefaults(dev.Name())
	sys := sysDir(dev)
	if entries, err := os.ReadDir(filepath.Join(sys, "mq")); err != nil || len(entries) == 0 {
		return nil, unsupported("%s passes requests on to other devices; protect the disks below it", dev.Path())
	}
	if z := sysLine(dev, "queue/zoned"); z != "" && z != "none" {
		return nil, unsupported("%s is a zoned device (%s)", dev.Path(), z)
	}
	if err := ensureTracefs(o.TracingRoot); err != nil {
		return nil, unsupported("%w", err)
	}
	lay, err := readLayout(o.TracingRoot)
	if err != nil {
		return nil, unsupported("%w", err)
	}
	s := &Source{dev: dev, opt: o, lay: lay, blocks: dev.Blocks(), set: new(capture.Set), flight: newFlight(), own: make(map[uint32]bool),
		slept: slept, kernelName: strings.ReplaceAll(dev.Name(), "!", "/")}
	s.page = make([]byte, max(lay.pageSize, os.Getpagesize()))
	s.sink = &sink{done: s.markEvent}
	if joined(dev) && !rerouted(dev) {
		if s.lay.bio, err = readBio(o.TracingRoot); err != nil {
			return nil, unsupported("discards of several places are joined on %s, and cannot be followed: %w", dev.Path(), err)
		}
		s.joins, s.sink.queued = true, s.queueEvent
	}
	if s.lay.text, err = readText(o.TracingRoot); err == nil {
		s.sink.said = s.logEvent
	}
	return s, nil
}

func sysDir(dev *disk.Disk) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", dev.Major(), dev.Minor())
}

func sysLine(dev *disk.Disk, name string) string {
	b, err := os.ReadFile(filepath.Join(sysDir(dev), name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Name implements capture.Source.
func (s *Source) Name() string { return "trace" }

// Cheap implements capture.Source.
func (s *Source) Cheap() bool { return true }

// Guarantee implements capture.Source.
func (s *Source) Guarantee() string {
	text := "every write the block layer completes on " + s.dev.Path() + " is recorded by the kernel, losses are detected"
	if !s.counted() {
		text += " except by the kernel's counters, which are off (queue/iostats is 0)"
	}
	if joined(s.dev) && !s.joins {
		text += "; of discards that the kernel joined only the first place is seen: free space may hold old bytes"
	}
	if f := s.dev.Backing(); f != "" {
		text += "; not seen: writes to " + f + " past the loop device"
	} else {
		text += "; not seen: commands sent to the drive past the block layer"
	}
	return text
}

// counted says whether the kernel counts this disk's sectors.
func (s *Source) counted() bool { return sysLine(s.dev, "queue/iostats") != "0" }

// Start implements capture.Source.
func (s *Source) Start(ctx context.Context) error {
	if s.inst != nil {
		return errors.New("trace source is already started")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	removeStale(s.opt.TracingRoot)
	if s.opt.Keep != "" {
		err := s.startKept()
		if err == nil {
			s.run()
		}
		return err
	}
	s.resumed = errors.New("nothing is kept without a directory for it")
	inst, err := newInstance(s.opt.TracingRoot, s.opt.Name)
	if err != nil {
		return unsupported("%w", err)
	}
	s.inst = inst
	if err := s.begin(nil); err != nil {
		err = errors.Join(err, s.release(true))
		return unsupported("follow %s: %w", s.dev.Path(), err)
	}
	s.run()
	return nil
}

func (s *Source) run() {
	s.stop = make(chan struct{})
	s.wg.Go(s.drainLoop)
}

// begin sets the rings up, calls ready, and switches them on.
func (s *Source) begin(ready func() error) error {
	if err := s.inst.configure(s.watches(), s.opt.BufferKB); err != nil {
		return err
	}
	if err := s.openFiles(); err != nil {
		return err
	}
	if ready != nil {
		if err := ready(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.switchOn()
}

// listen begins to hear of changes of the disk's size.
func (s *Source) listen() (err error) {
	s.heard.close()
	path, err := filepath.EvalSymlinks(sysDir(s.dev))
	if err != nil {
		return fmt.Errorf("look up %s: %w", s.dev.Path(), err)
	}
	s.heard, err = newHeard(path)
	return err
}

// openFiles opens what is read all the time.
func (s *Source) openFiles() (err error) {
	if s.rings, err = s.inst.openRings(); err != nil {
		return err
	}
	s.sw, err = s.inst.openSwitches(s.watches())
	return err
}

// settle is how long a request may take between raising its event and being
// counted by the kernel: instructions, but of a CPU that may be taken away.
const settle = 10 * time.Millisecond

// switchOn begins to record and notes between which counts of the kernel that was.
func (s *Source) switchOn() error {
	before, err := s.count()
	if err != nil {
		return err
	}
	if err := errors.Join(s.listen(), s.wake()); err != nil {
		return err
	}
	if err := s.inst.write("tracing_on", "1"); err != nil {
		return err
	}
	time.Sleep(settle)
	after, err := s.count()
	if err != nil {
		return err
	}
	s.seen, s.flight = sums{}, newFlight()
	s.ledger, s.freed = newLedger(before.written, after.written), newLedger(before.discarded, after.discarded)
	s.calm()
	s.keepLedger()
	return nil
}

// watches are the events that are recorded.
func (s *Source) watches() []watched {
	all := []watched{{eventPath, filterOf(s.dev.Major(), s.dev.Minor())}}
	if s.joins {
		all = append(all, watched{queuePath, queueFilter})
	}
	if s.lay.text.id != 0 {
		all = append(all, watched{logPath, logFilter(s.kernelName)})
	}
	return all
}

// Close implements capture.Source. With a kept record the kernel goes on recording,
// unless Discard was called.
func (s *Source) Close() error {
	if s.inst == nil {
		return nil
	}
	close(s.stop)
	s.wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.release(s.rec == nil || s.discard)
}

// release closes everything; it gives it back to the kernel, or leaves it for the
// next process. The lock of a kept record is held until its instance is gone.
func (s *Source) release(remove bool) (err error) {
	s.closeFiles()
	if remove {
		err = s.inst.remove()
	} else {
		s.inst.unpin()
	}
	s.inst = nil
	if s.rec != nil {
		s.page = make([]byte, len(s.page))
		if remove {
			err = errors.Join(err, s.rec.remove())
		} else {
			s.rec.close()
		}
		s.rec = nil
	}
	return err
}

func (s *Source) closeFiles() {
	closeRings(s.rings)
	s.rings = nil
	s.heard.close()
	s.sw.close()
	s.sw = nil
}

// drainLoop keeps the rings from filling up.
func (s *Source) drainLoop() {
	t := time.NewTicker(drainEvery)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
			s.mu.Lock()
			s.drain()
			s.mu.Unlock()
		}
	}
}

// Stats tells what the source did so far.
func (s *Source) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Kept = s.rec != nil
	return st
}
