package capturetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
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
