package blocks_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// patience is for a busy machine.
const patience = 3 * time.Minute

func open() *wire.Open {
	return &wire.Open{Size: 1 << 30, Capture: "test", Instance: "test", Reason: "first"}
}

// collector follows CHANGES and keeps every link, repeats dropped, by number.
type collector struct {
	t     *testing.T
	links map[uint64]*wire.Change
	hash  map[uint64]wire.Hash
	order []uint64
}

// collect reads links until the cut of the given number has been seen and nothing
// is missing before it.
func (c *collector) collect(ctx context.Context, b *bus.Bus, machine, disk string, until uint64) {
	c.t.Helper()
	c.links, c.hash = map[uint64]*wire.Change{}, map[uint64]wire.Hash{}
	cons, err := b.JS.Consumer(ctx, streams.Changes, streams.PartitionConsumer(streams.Partition(machine, disk)).Durable)
	if err != nil {
		c.t.Fatal(err)
	}
	for uint64(len(c.links)) < until {
		ms, err := cons.Fetch(64, jetstream.FetchMaxWait(200*time.Millisecond), jetstream.FetchPriorityGroup(streams.AnyGroup))
		if err != nil {
			if ctx.Err() != nil {
				c.t.Fatalf("%d of %d links arrived: %v", len(c.links), until, err)
			}
			continue
		}
		for m := range ms.Messages() {
			ch, err := wire.DecodeChange(m.Data())
			if err != nil {
				c.t.Fatal(err)
			}
			c.links[ch.Number], c.hash[ch.Number] = ch, wire.LinkHash(ch, m.Data())
			c.order = append(c.order, ch.Number)
			if err := m.Ack(); err != nil && ctx.Err() == nil {
				c.t.Log("ack:", err)
			}
		}
		if ctx.Err() != nil {
			c.t.Fatalf("%d of %d links arrived: %v", len(c.links), until, ctx.Err())
		}
	}
}

// replay checks the chain and returns the disk it describes.
func (c *collector) replay(blocks int) []byte {
	c.t.Helper()
	dec, err := zstd.NewReader(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer dec.Close()
	img := make([]byte, blocks*wire.BlockSize)
	for n := uint64(1); n <= uint64(len(c.links)); n++ {
		l := c.links[n]
		if l == nil {
			c.t.Fatalf("link %d is missing", n)
		}
		if n > 1 && l.Prev != c.hash[n-1] {
			c.t.Fatalf("link %d does not follow link %d", n, n-1)
		}
		if l.Block == nil {
			continue
		}
		data := l.Block.Data
		if l.Block.Codec == wire.CodecZstd {
			if data, err = dec.DecodeAll(data, nil); err != nil {
				c.t.Fatal(err)
			}
		}
		at := 0
		for _, e := range l.Block.Extents {
			size := int(e.Count) * wire.BlockSize
			dst := img[int(e.Start)*wire.BlockSize:][:size]
			if e.Kind != wire.ExtentData {
				clear(dst)
				continue
			}
			copy(dst, data[at:])
			at += size
		}
		for i := range l.Block.DataBlocks() {
			if got := wire.SumOf(data[i*wire.BlockSize:][:wire.BlockSize]); got != wire.Sum(l.Block.Sums[16*i:]) {
				c.t.Fatalf("link %d block %d: sum %x, content has %x", n, i, l.Block.Sums[16*i:16*i+16], got)
			}
		}
	}
	return img
}

// fill writes random content: text, noise and zeros.
func fill(r *rand.Rand, b []byte) {
	switch r.IntN(3) {
	case 0:
		clear(b)
	case 1:
		for i := range b {
			b[i] = "the quick brown fox "[i%20]
		}
		b[0] = byte(r.Uint32())
	default:
		for i := range b {
			b[i] = byte(r.Uint32())
		}
	}
}

func TestChainCarriesTheDisk(t *testing.T) {
	for _, raw := range []bool{false, true} {
		b := streamstest.Start(t)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		r := rand.New(rand.NewPCG(1, 2))
		const total = 2000
		img := make([]byte, total*wire.BlockSize)
		journal := map[uint64][]wire.Extent{}
		p, err := blocks.Open(ctx, b.JS, "m", "d", 3, open(), blocks.Options{Raw: func() bool { return raw }, OnLink: func(n uint64, e []wire.Extent) { journal[n] = slices.Clone(e) }})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for round := range 5 {
			bl := p.Builder()
			for at := r.IntN(5); at < total; {
				n := min(1+r.IntN(90), total-at)
				piece := img[at*wire.BlockSize:][:n*wire.BlockSize]
				for i := 0; i < len(piece); i += wire.BlockSize {
					fill(r, piece[i:][:wire.BlockSize])
				}
				var sums []wire.Sum
				if round%2 == 1 {
					for i := 0; i < len(piece); i += wire.BlockSize {
						sums = append(sums, wire.SumOf(piece[i:][:wire.BlockSize]))
					}
				}
				if err := bl.Add(ctx, uint64(at), piece, sums); err != nil {
					t.Fatal(err)
				}
				at += n + r.IntN(3)
			}
			if err := bl.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		n, err := p.Cut(ctx, &wire.Cut{Point: "p1", Group: "g", Consistency: wire.Crash, Size: total * wire.BlockSize})
		if err != nil {
			t.Fatal(err)
		}
		c := &collector{t: t}
		c.collect(ctx, b, "m", "d", n)
		if got := c.replay(total); !bytes.Equal(got, img) {
			t.Fatal("the links do not add up to the disk")
		}
		if c.links[n].Cut == nil || c.links[1].Open == nil {
			t.Fatal("no open first or no cut last")
		}
		for number, l := range c.links {
			if l.Block != nil && !slices.Equal(journal[number], l.Block.Extents) {
				t.Fatalf("the journal was told %v of link %d, it carries %v", journal[number], number, l.Block.Extents)
			}
		}
		if !slices.IsSorted(c.order) {
			t.Error("links overtook each other on a quiet bus")
		}
	}
}

func TestFullStreamSlowsDown(t *testing.T) {
	s := streamstest.StartConfig(t, t.TempDir(), streams.Config{Replicas: 1, ChangesBytes: 64 << 20})
	b := s.Bus()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := blocks.Open(ctx, b.JS, "m", "d", 1, open(), blocks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const total = 24 << 10 // 96 MiB of noise through 64 MiB of stream
	img := make([]byte, total*wire.BlockSize)
	rand.NewChaCha8([32]byte{1}).Read(img)
	done := make(chan uint64, 1)
	go func() {
		bl := p.Builder()
		if err := bl.Add(ctx, 0, img, nil); err != nil {
			t.Error(err)
		}
		if err := bl.Flush(ctx); err != nil {
			t.Error(err)
		}
		n, err := p.Flush(ctx)
		if err != nil {
			t.Error(err)
		}
		done <- n
	}()
	// Nobody reads: it fills up, and then stays full. An answer that is lost on the way there
	// is a refusal, too, and is over again.
	for s := p.Stats(); s.Refused == 0 || s.LastError == ""; s = p.Stats() {
		if ctx.Err() != nil {
			t.Fatalf("the stream is full and says nothing, or it is not shown: %+v", s)
		}
		time.Sleep(10 * time.Millisecond)
	}
	c := &collector{t: t}
	want := uint64(total/blocks.FrameBlocks + 1)
	c.collect(ctx, b, "m", "d", want)
	if n := <-done; n != want {
		t.Fatalf("last link %d, want %d", n, want)
	}
	if !bytes.Equal(c.replay(total), img) {
		t.Fatal("the links do not add up to the disk")
	}
	if e := p.Stats().LastError; e != "" {
		t.Errorf("it works again but still says %q", e)
	}
}

func TestServerRestartLosesNothing(t *testing.T) {
	s := streamstest.StartWith(t, t.TempDir())
	b := s.Bus()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := blocks.Open(ctx, b.JS, "m", "d", 1, open(), blocks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const total = 4 << 10
	img := make([]byte, total*wire.BlockSize)
	rand.NewChaCha8([32]byte{2}).Read(img)
	var n uint64
	for i := range 4 {
		if i == 2 {
			go s.Restart()
		}
		at := i * total / 4
		bl := p.Builder()
		if err := bl.Add(ctx, uint64(at), img[at*wire.BlockSize:][:len(img)/4], nil); err != nil {
			t.Fatal(err)
		}
		if err := bl.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if n, err = p.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c := &collector{t: t}
	c.collect(ctx, b, "m", "d", n)
	if !bytes.Equal(c.replay(total), img) {
		t.Fatal("the links do not add up to the disk")
	}
}

func TestStaleOpenIsTaken(t *testing.T) {
	// Of many agents that open an epoch at the same time, each link 1 in the stream
	// was published knowing the one before: none slipped in between unseen.
	b := streamstest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	errs := make(chan error, 8)
	for i := range cap(errs) {
		go func() {
			p, err := blocks.Open(ctx, b.JS, "m", "d", uint64(i+1), open(), blocks.Options{})
			if err == nil {
				p.Close()
			}
			errs <- err
		}()
	}
	taken := 0
	for range cap(errs) {
		if err := <-errs; err != nil {
			taken++
		}
	}
	t.Logf("%d of %d opens were refused", taken, cap(errs))
}

func TestCancelledAddClosesTheChain(t *testing.T) {
	b := streamstest.Start(t)
	p, err := blocks.Open(t.Context(), b.JS, "m", "d", 1, open(), blocks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	bl := p.Builder()
	noise := make([]byte, blocks.FrameBlocks*wire.BlockSize)
	rand.NewChaCha8([32]byte{3}).Read(noise)
	for range 100 { // a select may pick either branch
		if err = bl.Add(ctx, 0, noise, nil); err == nil {
			err = bl.Flush(ctx)
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		t.Fatal("a cancelled context never stopped it")
	}
	if _, err := p.Flush(t.Context()); err == nil {
		t.Fatal("links go on behind a hole in the chain")
	}
}

// A stream that has room for few messages of a disk refuses some, and takes those behind
// them when there is room again. They must never take all of it: whoever reads waits for
// the one that was refused.
func TestRefusedIsNotShutOut(t *testing.T) {
	s := streamstest.StartConfig(t, t.TempDir(), streams.Config{Replicas: 1, ChangesBytes: 64 << 20}) // 64 messages of a disk
	b := s.Bus()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := blocks.Open(ctx, b.JS, "m", "d", 1, open(), blocks.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const total = 1000
	done := make(chan error, 1)
	go func() { done <- small(ctx, p, total) }()
	cons, err := b.JS.Consumer(ctx, streams.Changes, streams.PartitionConsumer(streams.Partition("m", "d")).Durable)
	if err != nil {
		t.Fatal(err)
	}
	// Like the vault: a link is of use, and acknowledged, when all before it are there.
	waiting := map[uint64]jetstream.Msg{}
	for next := uint64(1); next <= total+1; {
		batch, err := cons.Fetch(64, jetstream.FetchMaxWait(100*time.Millisecond), jetstream.FetchPriorityGroup(streams.AnyGroup))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			c, err := wire.DecodeChange(m.Data())
			if err != nil {
				t.Fatal(err)
			}
			waiting[c.Number] = m
			for waiting[next] != nil {
				if err := waiting[next].Ack(); err != nil {
					t.Fatal(err)
				}
				delete(waiting, next)
				next++
			}
		}
		if ctx.Err() != nil {
			t.Fatalf("link %d does not come, %d behind it are there; %+v", next, len(waiting), p.Stats())
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p.Stats().Refused == 0 {
		t.Error("nothing was refused: nothing was tried")
	}
}

// small publishes links of one block each.
func small(ctx context.Context, p *blocks.Publisher, n int) error {
	noise := make([]byte, wire.BlockSize)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	bl := p.Builder()
	for i := range n {
		if err := bl.Add(ctx, uint64(i), noise, nil); err != nil {
			return err
		}
		if err := bl.Flush(ctx); err != nil {
			return err
		}
	}
	_, err := p.Flush(ctx)
	return err
}
