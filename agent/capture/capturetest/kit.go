package capturetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/leeward-dr/leeward/agent/capture"
)

// Env is a disk of at least 64 blocks, with a source that is not started yet. The
// kit closes the source.
type Env struct {
	Source capture.Source
	Blocks uint64
	// Write writes whole blocks and returns when they are on the disk.
	Write func(start uint64, blocks []byte) error
	// Read reads whole blocks.
	Read func(ctx context.Context, start uint64, blocks []byte) error
	// Copied, if set, is called with what was copied after a Take.
	Copied func(start uint64, blocks []byte) error
	// Next, for a capture.Keeper, makes the source of the process that comes after
	// this one. The kit closes it.
	Next func() capture.Source
	// Lies are what the source must not fall for.
	Lies []Lie
}

// A Lie makes something of the world untrue.
type Lie struct {
	Name string
	Tell func() error // may write
	Want error        // that Take or the Audit after it must wrap
	Word string       // that the message must have: which lie it was
}

// Run checks a driver against the contract of capture.Source. fresh makes a new
// disk and source for each check.
func Run(t *testing.T, fresh func(t *testing.T) *Env) {
	for _, c := range []struct {
		name  string
		check func(*checker)
	}{
		{"marks what is written", checkMarks},
		{"forgets what was taken", checkForgets},
		{"follows a busy disk", checkBusy},
		{"a cancelled take loses nothing", checkCancel},
		{"life cycle", checkLife},
		{"goes on without its process", checkKeeps},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := fresh(t)
			t.Cleanup(func() {
				if err := e.Source.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.check(&checker{T: t, Env: e, ctx: context.Background()})
		})
	}
	t.Run("is not lied to", func(t *testing.T) { checkLies(t, fresh) })
}

// checkLies tells each lie to a source of its own.
func checkLies(t *testing.T, fresh func(t *testing.T) *Env) {
	for i, more := 0, true; more; i++ {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			e := fresh(t)
			t.Cleanup(func() {
				if err := e.Source.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			if more = i+1 < len(e.Lies); i >= len(e.Lies) {
				return
			}
			c, lie := &checker{T: t, Env: e, ctx: context.Background()}, e.Lies[i]
			c.start()
			c.write(3, 1)
			c.take()
			c.must(c.Source.Audit(c.ctx))
			c.must(lie.Tell())
			_, err := c.Source.Take(c.ctx)
			if err == nil {
				err = c.Source.Audit(c.ctx)
			}
			if !errors.Is(err, lie.Want) || !strings.Contains(err.Error(), lie.Word) {
				t.Fatalf("%s: got %v, want %v with the word %q", lie.Name, err, lie.Want, lie.Word)
			}
			if k, ok := e.Source.(capture.Keeper); ok && k.Fits(capture.Mark{Epoch: 1, Number: 1}) == nil {
				t.Errorf("%s: what is kept is still taken for certain", lie.Name)
			}
			if errors.Is(lie.Want, capture.ErrLost) { // said once, and gone on from there
				c.take()
				c.write(9, 1)
				if set := c.take(); !set.Has(9) {
					t.Errorf("%s: does not go on", lie.Name)
				}
				c.must(c.Source.Audit(c.ctx))
			}
		})
	}
}

// checkKeeps follows a disk with one source after the other.
func checkKeeps(c *checker) {
	k, ok := c.Source.(capture.Keeper)
	if !ok || c.Next == nil {
		c.Skip("this driver keeps nothing for the next process")
	}
	c.start()
	if k.Resumed() == nil {
		c.Error("the first source says that it took over")
	}
	mark := capture.Mark{Epoch: 4, Number: 9}
	k.Opening(mark.Epoch)
	c.write(1, 1)
	c.take()
	k.Seal(mark)
	c.write(2, 1) // not in the chain up to the mark
	k.Confirm(mark)
	c.write(5, 1)
	c.take()
	c.write(6, 1)
	k.Seal(capture.Mark{Epoch: 4, Number: 20}) // and never confirmed
	c.must(k.Close())
	c.write(7, 1)
	next := func() capture.Keeper {
		n, ok := c.Next().(capture.Keeper)
		if !ok {
			c.Fatal("the next source keeps nothing")
		}
		c.Cleanup(func() { _ = n.Close() })
		c.must(n.Start(c.ctx))
		return n
	}
	k = next()
	c.must(k.Resumed())
	c.must(k.Fits(mark))
	if k.Fits(capture.Mark{Epoch: 4, Number: 8}) == nil || k.Fits(capture.Mark{Epoch: 5, Number: 1}) == nil {
		c.Error("fits a vault that stands elsewhere")
	}
	set, err := k.Take(c.ctx)
	c.must(err)
	for _, b := range []uint64{2, 5, 6, 7} {
		if !set.Has(b) {
			c.Errorf("block %d was not confirmed and is forgotten", b)
		}
	}
	if set.Has(1) {
		c.Error("block 1 was confirmed and is kept")
	}
	c.must(k.Audit(c.ctx))
	k.Void()
	c.must(k.Close())
	k = next()
	if k.Resumed() == nil {
		c.Error("what is void was taken over")
	}
	k.Opening(5)
	k.Seal(capture.Mark{Epoch: 5, Number: 2})
	k.Confirm(capture.Mark{Epoch: 5, Number: 2})
	k.Discard()
	c.must(k.Close())
	if next().Resumed() == nil {
		c.Error("what was discarded was taken over")
	}
}

type checker struct {
	*testing.T
	*Env
	ctx   context.Context
	stamp uint64
}

func (c *checker) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// start starts the source and takes what it may report of the time before.
func (c *checker) start() {
	c.Helper()
	c.must(c.Source.Start(c.ctx))
	c.take()
}

func (c *checker) take() *capture.Set {
	c.Helper()
	s, err := c.Source.Take(c.ctx)
	c.must(err)
	return s
}

// write fills blocks with contents that were never there before.
func (c *checker) write(start uint64, count int) {
	c.Helper()
	c.must(c.Write(start, c.contents(count)))
}

func (c *checker) contents(count int) []byte {
	b := make([]byte, count*capture.BlockSize)
	for i := 0; i < len(b); i += 8 {
		c.stamp++
		binary.LittleEndian.PutUint64(b[i:], c.stamp*0x9E3779B97F4A7C15)
	}
	return b
}

func checkMarks(c *checker) {
	c.start()
	last := c.Blocks - 1
	c.write(0, 1)
	c.write(7, 5)
	c.write(last, 1)
	set := c.take()
	for _, b := range []uint64{0, 7, 8, 9, 10, 11, last} {
		if !set.Has(b) {
			c.Errorf("block %d was written and is not in the set", b)
		}
	}
	for _, b := range []uint64{1, 6, 12, last - 1, last + 1} {
		if set.Has(b) {
			c.Errorf("block %d was not written and is in the set", b)
		}
	}
	c.must(c.Source.Audit(c.ctx))
}

func checkForgets(c *checker) {
	c.start()
	for range 3 {
		c.write(20, 2)
		if set := c.take(); set.Len() != 2 || !set.Has(20) || !set.Has(21) {
			c.Fatalf("the set has %d blocks, want 20 and 21", set.Len())
		}
		if set := c.take(); set.Len() != 0 {
			c.Fatalf("%d blocks though nothing was written", set.Len())
		}
	}
	c.must(c.Source.Audit(c.ctx))
}

// checkBusy copies what each Take reports while a writer goes on, and compares the
// copy at the end.
func checkBusy(c *checker) {
	c.must(c.Source.Start(c.ctx))
	replica := make([]byte, c.Blocks*capture.BlockSize)
	c.must(c.Read(c.ctx, 0, replica))
	if c.Copied != nil {
		c.must(c.Copied(0, replica))
	}
	done := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		var err error
		for i := 0; i < 1500 && err == nil; i++ {
			n := 1 + rnd.IntN(6)
			err = c.Write(rnd.Uint64N(c.Blocks-uint64(n)), c.contents(n))
		}
		done <- err
	})
	defer wg.Wait()
	for busy := true; busy; {
		select {
		case err := <-done:
			c.must(err)
			busy = false // and one more round for what came last
		default:
		}
		for start, count := range c.take().Ranges() {
			b := replica[start*capture.BlockSize:][:count*capture.BlockSize]
			c.must(c.Read(c.ctx, start, b))
			if c.Copied != nil {
				c.must(c.Copied(start, b))
			}
		}
	}
	now := make([]byte, len(replica))
	c.must(c.Read(c.ctx, 0, now))
	for b := range c.Blocks {
		at := b * capture.BlockSize
		if !bytes.Equal(now[at:at+capture.BlockSize], replica[at:at+capture.BlockSize]) {
			c.Fatalf("block %d of the copy differs", b)
		}
	}
	c.must(c.Source.Audit(c.ctx))
}

func checkCancel(c *checker) {
	c.start()
	c.write(30, 1)
	cancelled, cancel := context.WithCancel(c.ctx)
	cancel()
	if _, err := c.Source.Take(cancelled); err == nil {
		c.Fatal("a cancelled Take succeeded")
	}
	c.write(40, 1)
	if set := c.take(); !set.Has(30) || !set.Has(40) {
		c.Fatal("a cancelled Take lost what was written before it")
	}
}

func checkLife(c *checker) {
	if _, err := c.Source.Take(c.ctx); err == nil {
		c.Error("Take succeeded before Start")
	}
	if c.Source.Name() == "" || c.Source.Guarantee() == "" {
		c.Error("the driver has no name or promises nothing")
	}
	c.start()
	c.must(c.Source.Close())
	if _, err := c.Source.Take(c.ctx); err == nil {
		c.Error("Take succeeded after Close")
	}
	c.must(c.Source.Close())
}
