package profile

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/leeward-dr/leeward/agent/capture"
)

// Device is what is read; *disk.Disk is one.
type Device interface {
	Path() string
	Size() uint64
	Blocks() uint64
	ReadBlocks(ctx context.Context, start uint64, buf []byte) error
}

// Sample is what changed in one interval.
type Sample struct {
	Seconds float64 `json:"seconds"` // length of the interval
	Changed int64   `json:"changed"` // bytes, each block once
}

// Disk is what was recorded of a disk.
type Disk struct {
	Path    string   `json:"path"`
	Driver  string   `json:"driver"`
	Size    uint64   `json:"size"`
	Used    int64    `json:"used"`  // bytes that are not zeros, estimated
	Packed  float64  `json:"ratio"` // compressed size of changed blocks by their size
	Base    float64  `json:"base_ratio"`
	Samples []Sample `json:"samples"`
}

// Options of Record.
type Options struct {
	Duration time.Duration
	Every    time.Duration
	Seed     uint64
	// Tell, if set, is called after each interval.
	Tell func(*Disk)
}

const (
	block      = capture.BlockSize
	frameBytes = 256 << 10 // what the agent compresses at once
	probes     = 512       // places of the whole disk that are looked at
	perSample  = 4         // frames of changed blocks that are read in each interval
)

// Record follows src, which is started and closed by the caller, and reads samples of
// dev. When ctx ends it returns what it has.
func Record(ctx context.Context, dev Device, src capture.Source, o Options) (*Disk, error) {
	d := &Disk{Path: dev.Path(), Driver: src.Name(), Size: dev.Size()}
	p, err := newPacker(dev)
	if err != nil {
		return nil, err
	}
	if err := p.base(ctx, d, o.Seed); err != nil {
		return nil, err
	}
	if _, err := src.Take(ctx); err != nil { // what changed before does not count
		return nil, fmt.Errorf("profile %s: %w", dev.Path(), err)
	}
	began := time.Now()
	last := began
	for {
		left := time.Until(began.Add(o.Duration))
		if left <= 0 || !wait(ctx, min(o.Every, left)) {
			return d, nil
		}
		set, err := src.Take(ctx)
		if err != nil && ctx.Err() != nil {
			return d, nil
		}
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", dev.Path(), err)
		}
		now := time.Now()
		d.Samples = append(d.Samples, Sample{now.Sub(last).Seconds(), int64(set.Len()) * block})
		last = now
		if err := p.changed(ctx, set); err != nil {
			return nil, err
		}
		d.Packed = p.ratio()
		if o.Tell != nil {
			o.Tell(d)
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// packer compresses samples like the agent does.
type packer struct {
	dev         Device
	enc         *zstd.Encoder
	buf, out    []byte
	raw, packed int64
}

func newPacker(dev Device) (*packer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(frameBytes))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	return &packer{dev: dev, enc: enc, buf: make([]byte, 0, frameBytes)}, nil
}

// base looks at places all over the disk: how much of it is used, and how well that
// compresses.
func (p *packer) base(ctx context.Context, d *Disk, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	piece := make([]byte, 8*block)
	used, seen := 0, 0
	blocks := p.dev.Blocks()
	for i := range uint64(probes) {
		stride := max(blocks/probes, 1)
		at := min(i*stride+rnd.Uint64N(stride), blocks-1)
		b := piece[:min(uint64(len(piece)), (blocks-at)*block)]
		if err := p.dev.ReadBlocks(ctx, at, b); err != nil {
			return err
		}
		for ; len(b) > 0; b = b[block:] {
			seen++
			if !zero(b[:block]) {
				used++
				p.add(b[:block])
			}
		}
	}
	p.flush()
	d.Used, d.Base = int64(float64(d.Size)*float64(used)/float64(max(seen, 1))), p.ratio()
	d.Packed = d.Base
	p.raw, p.packed = 0, 0
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// changed compresses some of what changed.
func (p *packer) changed(ctx context.Context, set *capture.Set) error {
	left := perSample * frameBytes / block
	one := make([]byte, block)
	for start, count := range set.Ranges() {
		for i := uint64(0); i < count && left > 0; i++ {
			if err := p.dev.ReadBlocks(ctx, start+i, one); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
			left--
			if zero(one) {
				p.raw += block // sent as a note, not as data
				continue
			}
			p.add(one)
		}
		if left == 0 {
			break
		}
	}
	p.flush()
	return nil
}

func (p *packer) add(b []byte) {
	if p.buf = append(p.buf, b...); len(p.buf) == frameBytes {
		p.flush()
	}
}

func (p *packer) flush() {
	if len(p.buf) == 0 {
		return
	}
	p.out = p.enc.EncodeAll(p.buf, p.out[:0])
	p.raw += int64(len(p.buf))
	p.packed += int64(min(len(p.out), len(p.buf)))
	p.buf = p.buf[:0]
}

// ratio is 1 if nothing was seen.
func (p *packer) ratio() float64 {
	if p.raw == 0 {
		return 1
	}
	return float64(p.packed) / float64(p.raw)
}
