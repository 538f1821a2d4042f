package optimize

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/entropy"
	"github.com/leeward-dr/leeward/streams/wire"
)

// maxZeros is how many extents a frame of zeros holds.
const maxZeros = wire.MaxExtents

// Optimizer makes batches. It keeps its compressors and may be used by many
// goroutines at once.
type Optimizer struct {
	enc     *zstd.Encoder
	scratch sync.Pool // *[]byte
}

// New makes an Optimizer whose compressors serve that many goroutines at once;
// below 1: one for each CPU.
func New(workers int) (*Optimizer, error) {
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	// The vault's seal makes zstd's own checksum needless.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(workers), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(wire.MaxRaw), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	o := &Optimizer{enc: enc}
	o.scratch.New = func() any { b := make([]byte, 0, 256<<10); return &b }
	return o, nil
}

// Check reports what is wrong with a block that decoded well: sums that do not fit
// its extents, or data that unpacks to another size than it says. What passes can
// be committed. It does not unpack the data: whether it is what the sums say is
// found out by whoever reads it from the vault.
func Check(b *wire.Block) error {
	blocks := b.DataBlocks()
	if len(b.Sums) != 16*blocks || int(b.Raw) != blocks*wire.BlockSize {
		return fmt.Errorf("block has %d bytes of sums and %d bytes of data for %d blocks", len(b.Sums), b.Raw, blocks)
	}
	if b.Codec != wire.CodecZstd {
		return nil
	}
	var h zstd.Header
	if err := h.Decode(b.Data); err != nil || h.Skippable {
		return fmt.Errorf("data is no zstd frame (%v)", err)
	}
	if h.HasFCS && h.FrameContentSize != uint64(b.Raw) {
		return fmt.Errorf("zstd frame unpacks to %d bytes, the block says %d", h.FrameContentSize, b.Raw)
	}
	return nil
}

// Batch makes the batch of a run: links that follow each other in one epoch. The
// batch refers to the links' data and changes none of it. Memory beyond theirs is
// what compressing raw frames saves them from needing.
func (o *Optimizer) Batch(links []Link) (*vault.Batch, error) {
	if len(links) == 0 {
		return nil, fmt.Errorf("a batch of no links")
	}
	b, err := place(links)
	if err != nil {
		return nil, err
	}
	var all []span
	for i, l := range links {
		if l.Change.Block != nil {
			all = spans(all, i, l.Change.Block)
		}
	}
	var zeros []vault.Extent
	live := make([][]span, len(links))
	for _, s := range cover(all) {
		if s.zero {
			zeros = append(zeros, vault.Extent{Start: s.start, Count: uint32(s.end - s.start), Zero: true})
			continue
		}
		live[s.link] = append(live[s.link], s)
	}
	for i, s := range live {
		if len(s) == 0 {
			continue
		}
		f, err := o.frame(links[i].Change, s)
		if err != nil {
			return nil, err
		}
		b.Frames = append(b.Frames, f)
	}
	for len(zeros) > 0 {
		n := min(len(zeros), maxZeros)
		b.Frames = append(b.Frames, vault.Frame{Extents: zeros[:n:n]})
		zeros = zeros[n:]
	}
	return b, nil
}

// place fills in what a batch says about its place in the chain.
func place(links []Link) (*vault.Batch, error) {
	first, last := links[0].Change, links[len(links)-1]
	b := &vault.Batch{
		Epoch: first.Epoch, First: first.Number, Last: last.Change.Number,
		Prev: first.Prev, Hash: last.Hash,
	}
	for i, l := range links {
		c := l.Change
		if c.Epoch != first.Epoch || c.Number != first.Number+uint64(i) {
			return nil, fmt.Errorf("link %d of epoch %d stands where %d of %d belongs", c.Number, c.Epoch, first.Number+uint64(i), first.Epoch)
		}
		if c.Cut != nil && i < len(links)-1 {
			return nil, fmt.Errorf("link %d is a cut, %d follow in the same batch", c.Number, len(links)-1-i)
		}
	}
	if o := first.Open; o != nil {
		b.MinBase = vault.Position{Epoch: o.MinEpoch, Number: o.MinNumber}
		b.Open = &vault.Open{
			Size: o.Size, Capture: o.Capture, Guarantee: o.Guarantee, Host: o.Host, Instance: o.Instance,
			Path: o.Path, Identity: o.Identity, Reason: o.Reason, Time: time.Unix(0, first.Time).UTC(),
		}
	}
	if c := last.Change.Cut; c != nil {
		b.Cut = &vault.Cut{Point: c.Point, Group: c.Group, Time: time.Unix(0, c.Time).UTC(), Consistency: string(c.Consistency), Size: c.Size}
	}
	return b, nil
}

// frame makes the frame of a link of which the spans are live.
func (o *Optimizer) frame(c *wire.Change, live []span) (vault.Frame, error) {
	b := c.Block
	if n := b.DataBlocks(); len(b.Sums) != 16*n || int(b.Raw) != n*wire.BlockSize {
		return vault.Frame{}, fmt.Errorf("link %d of epoch %d has %d bytes of sums for %d bytes of data", c.Number, c.Epoch, len(b.Sums), b.Raw)
	}
	f := vault.Frame{Codec: vault.Codec(b.Codec), Raw: b.Raw, Data: b.Data, Extents: make([]vault.Extent, len(live))}
	blocks := 0
	for i, s := range live {
		f.Extents[i] = vault.Extent{Start: s.start, Count: uint32(s.end - s.start), Off: s.off}
		blocks += int(s.end - s.start)
	}
	f.Sums = make([]vault.Sum, 0, blocks)
	for _, s := range live {
		for at := uint64(s.off); at < uint64(s.off)+s.end-s.start; at++ {
			f.Sums = append(f.Sums, vault.Sum(b.Sums[16*at:16*at+16]))
		}
	}
	if b.Codec == wire.CodecRaw {
		o.pack(&f, blocks)
	}
	return f, nil
}

// pack drops the dead blocks of a raw frame and compresses it if that pays.
func (o *Optimizer) pack(f *vault.Frame, blocks int) {
	if raw := blocks * vault.BlockSize; raw < len(f.Data) {
		data := make([]byte, 0, raw)
		for i := range f.Extents {
			e := &f.Extents[i]
			from := int(e.Off) * vault.BlockSize
			e.Off = uint32(len(data) / vault.BlockSize)
			data = append(data, f.Data[from:from+int(e.Count)*vault.BlockSize]...)
		}
		f.Data, f.Raw = data, uint32(raw)
	}
	if entropy.Dense(f.Data) {
		return // the agent will have found the same, that is why it is raw
	}
	buf := o.scratch.Get().(*[]byte)
	packed := o.enc.EncodeAll(f.Data, (*buf)[:0])
	if len(packed) <= len(f.Data)-len(f.Data)/20 {
		f.Codec, f.Data = vault.CodecZstd, append(make([]byte, 0, len(packed)), packed...)
	}
	*buf = packed[:0]
	o.scratch.Put(buf)
}
