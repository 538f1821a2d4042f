package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
)

// scripted is a source that says what it is told. Before each Take it calls before with
// the number of the Take, which may write to disks and say so.
type scripted struct {
	capture.Source
	before func(take int)

	mu    sync.Mutex
	takes int
	set   capture.Set
}

func (s *scripted) wrote(block uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set.Add(block, 1)
}

func (s *scripted) Take(context.Context) (*capture.Set, error) {
	s.before(s.ended() + 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takes++
	taken := s.set
	s.set = capture.Set{}
	return &taken, nil
}

// ended is how many Takes have come to their end.
func (s *scripted) ended() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takes
}

// counted are two disks of one machine; a count is written to the first one and, when that
// is done, to the second.
type counted struct {
	t    *testing.T
	a    *Agent
	src  [2]*scripted
	path [2]string
}

func newCounted(t *testing.T) *counted {
	c := &counted{t: t, a: &Agent{}}
	for i := range 2 {
		c.path[i] = image(t, 8)
		dev, err := disk.Open(c.path[i])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close() })
		c.src[i] = &scripted{before: func(int) {}}
		c.a.replicas = append(c.a.replicas, &replica{
			name: []string{"log", "data"}[i], cfg: Default(), dev: dev, src: c.src[i],
			reader: disk.NewReader(dev, disk.ReadOptions{}), shown: new(shown), board: new(board),
		})
	}
	return c
}

// write writes a count to one of the disks.
func (c *counted) write(i int, n uint64) {
	f, err := os.OpenFile(c.path[i], os.O_WRONLY, 0)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer f.Close()
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, n), 0); err != nil {
		c.t.Error(err)
	}
	c.src[i].wrote(0)
}

// hold catches both and returns their counts.
func (c *counted) hold(frozen ...bool) (n [2]uint64, err error) {
	r := &cutResult{held: make([]*held, 2), frozenDisk: frozen}
	if err := c.a.holdAll(c.t.Context(), []int{0, 1}, r); err != nil {
		return n, err
	}
	for i, h := range r.held {
		if len(h.pieces) != 1 || h.pieces[0].start != 0 {
			c.t.Fatalf("of disk %d %+v is held", i, h.pieces)
		}
		n[i] = binary.LittleEndian.Uint64(h.pieces[0].data)
	}
	return n, nil
}

// Disks that are not frozen are caught at one instant, all of them: what is written to the
// log after that was caught, and then to the data before that is, may not tear them apart.
func TestOneInstantOfAllDisks(t *testing.T) {
	c := newCounted(t)
	c.write(0, 1)
	c.write(1, 1)
	c.src[1].before = func(take int) {
		if take == 2 { // the log has come to rest, and now there is more
			until(t, "the log has been looked at twice", func() bool { return c.src[0].ended() >= 2 })
			c.write(0, 2)
			c.write(1, 2)
		}
	}
	n, err := c.hold(false, false)
	if err != nil {
		t.Fatal(err)
	}
	if n[0] < n[1] {
		t.Errorf("the data holds %d, the log only %d, which was written first", n[1], n[0])
	}
	if n != [2]uint64{2, 2} {
		t.Errorf("counts %v, want what stood at the end", n)
	}
}

// A disk that is not frozen may be caught at any instant of a freeze, and one that is
// frozen is not read again because another is busy.
func TestFrozenDisksAreNotHeldAgain(t *testing.T) {
	c := newCounted(t)
	c.write(0, 1)
	c.write(1, 1)
	c.src[1].before = func(take int) {
		if take == 2 || take == 3 {
			c.write(1, uint64(take))
		}
	}
	n, err := c.hold(true, false)
	if err != nil || n != [2]uint64{1, 3} {
		t.Fatalf("counts %v, %v", n, err)
	}
	if c.src[0].takes != 2 || c.src[1].takes != 4 {
		t.Errorf("%d and %d looks, want 2 and 4", c.src[0].takes, c.src[1].takes)
	}
	// One that never rests spoils the cut.
	c.src[1].before = func(take int) { c.write(1, uint64(take)) }
	if _, err := c.hold(true, false); !errors.Is(err, errBusy) {
		t.Errorf("a disk that is written to all the time: %v", err)
	}
}

// What is written after a disk was caught is seen by who asks, and copied next time.
func TestStill(t *testing.T) {
	c := newCounted(t)
	c.write(0, 1)
	c.write(1, 1)
	if _, err := c.hold(true, true); err != nil {
		t.Fatal(err)
	}
	if err := c.a.still(t.Context()); err != nil {
		t.Errorf("nothing was written: %v", err)
	}
	c.write(1, 2)
	if err := c.a.still(t.Context()); !errors.Is(err, errBusy) {
		t.Errorf("written to since it was caught: %v", err)
	}
	if n, err := c.hold(true, true); err != nil || n != [2]uint64{1, 2} {
		t.Errorf("counts %v, %v", n, err)
	}
}
