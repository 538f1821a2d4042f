package blocks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/entropy"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Options of a Publisher. The zero value is usable.
type Options struct {
	// WindowBytes bounds the encoded bytes that JetStream has not acknowledged yet.
	// Default 8 MiB: more only adds latency.
	WindowBytes int
	// Limit bounds the bytes a second, together with all who share it. Nil: no bound.
	Limit *Limiter
	// Raw, if it is given, is asked for each message whether compression is left to
	// the process server.
	Raw func() bool
	// Pool is whose process servers handle the changes. Default: the pool that is always
	// there. Change it with a new epoch only.
	Pool streams.Pool
	// Workers compress at the same time. Default: one for each CPU.
	Workers int
	// OnLink is told every link before it is published, in order, with the extents
	// it carries. It must be quick. Remember them until a receipt covers number.
	OnLink func(number uint64, extents []wire.Extent)
	// Log takes what is worth a line. Default: nothing.
	Log *slog.Logger
}

// Stats counts what a Publisher did.
type Stats struct {
	Links     uint64 // published and acknowledged by JetStream
	RawBytes  uint64 // of data blocks, before compression
	Bytes     uint64 // encoded
	Refused   uint64 // times JetStream said it was full or did not answer
	LastError string // why, "" once it works again
}

// ErrTaken means that somebody else published to the disk's subject while the
// epoch was being opened.
var ErrTaken = errors.New("another agent writes this disk's changes")

// Publisher makes one epoch of one disk's chain. Builder and Cut may be used by
// one goroutine at a time; Stats by any.
type Publisher struct {
	js            jetstream.JetStream
	machine, disk string
	epoch         uint64
	subject       string
	o             Options

	work  chan *item // to the compressors
	order chan *item // to the sequencer, as they came
	free  sync.Pool
	wg    sync.WaitGroup

	ctx    context.Context // of the whole epoch
	cancel context.CancelCauseFunc

	// owned by the sequencer
	number uint64
	prev   wire.Hash
	flight flight

	links, raw, bytes, refused atomic.Uint64
	lastError                  atomic.Value // string

	told   time.Time // when the log was told of a refusal
	untold int       // refusals it was not told of
}

// item passes through the compressors and the sequencer.
type item struct {
	frame *frame
	block *wire.Block
	buf   []byte // that the block's data lies in, behind room
	cut   *wire.Cut
	ready chan struct{} // closed when block is made
	done  chan result   // for cuts and barriers: filled when JetStream holds everything
}

type result struct {
	number uint64
	err    error
}

// Open starts epoch of a disk: it publishes o as link 1, refusing (ErrTaken) if
// anybody else published in between, and returns when JetStream holds it.
func Open(ctx context.Context, js jetstream.JetStream, machine, disk string, epoch uint64, o *wire.Open, opt Options) (*Publisher, error) {
	if opt.WindowBytes <= 0 {
		opt.WindowBytes = 8 << 20
	}
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{
		js: js, machine: machine, disk: disk, epoch: epoch, o: opt,
		subject: opt.Pool.ChangesSubject(machine, disk),
		work:    make(chan *item), order: make(chan *item, 2*opt.Workers),
	}
	p.lastError.Store("")
	p.flight.limit = opt.WindowBytes
	p.free.New = func() any { b := make([]byte, bufferSize); return &b }
	if err := p.open(ctx, o); err != nil {
		return nil, err
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	for range opt.Workers {
		p.wg.Go(p.compress)
	}
	p.wg.Go(p.sequence)
	return p, nil
}

func (p *Publisher) open(ctx context.Context, o *wire.Open) error {
	last, err := p.lastSequence(ctx)
	if err != nil {
		return err
	}
	m, err := p.message(&wire.Change{Kind: wire.KindOpen, Open: o}, nil)
	if err != nil {
		return err
	}
	for wait := firstWait; ; wait = longer(wait) {
		_, err = p.js.PublishMsg(ctx, m.msg, jetstream.WithExpectLastSequencePerSubject(last))
		var api *jetstream.APIError
		switch {
		case err == nil:
			p.number, p.prev = 1, m.hash
			p.links.Add(1)
			return nil
		case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
			return fmt.Errorf("open epoch %d of %s/%s: %w", p.epoch, p.machine, p.disk, ErrTaken)
		case !streams.Retryable(err):
			return fmt.Errorf("open epoch %d of %s/%s: %w", p.epoch, p.machine, p.disk, err)
		}
		p.refuse(err)
		if !sleep(ctx, wait) {
			return fmt.Errorf("open epoch %d of %s/%s: %w (last answer: %v)", p.epoch, p.machine, p.disk, context.Cause(ctx), err)
		}
	}
}

func (p *Publisher) lastSequence(ctx context.Context) (uint64, error) {
	if p.o.Pool != "" {
		// Agents may not ask for more of the stream than this; its bound for a disk is at
		// least twice as much.
		p.flight.most = poolFlight
		return streams.LastSequence(ctx, p.js.Conn(), p.o.Pool.Stream(), p.subject)
	}
	s, err := p.js.Stream(ctx, streams.Changes)
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", streams.Changes, err)
	}
	p.flight.most = maxFlight
	if n := s.CachedInfo().Config.MaxMsgsPerSubject; n > 0 {
		p.flight.most = max(1, min(maxFlight, int(n/2)))
	}
	m, err := s.GetLastMsgForSubject(ctx, p.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look up last change of %s/%s: %w", p.machine, p.disk, err)
	}
	return m.Sequence, nil
}

// put hands a frame over; it blocks while the window is full.
func (p *Publisher) put(ctx context.Context, f *frame) error {
	it := &item{frame: f, ready: make(chan struct{})}
	if err := p.send(ctx, p.order, it); err != nil {
		return err
	}
	return p.send(ctx, p.work, it)
}

func (p *Publisher) send(ctx context.Context, c chan *item, it *item) error {
	select {
	case c <- it:
		return nil
	case <-ctx.Done():
		// The chain has a hole now: nobody may publish behind it.
		p.cancel(context.Cause(ctx))
		return context.Cause(ctx)
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// Cut ends a consistent state: it publishes c behind everything added (flush the
// Builder first) and returns the number of its link when JetStream holds it.
func (p *Publisher) Cut(ctx context.Context, c *wire.Cut) (uint64, error) {
	return p.settle(ctx, &item{cut: c})
}

// Flush waits until JetStream holds everything added so far and returns the number
// of the last link.
func (p *Publisher) Flush(ctx context.Context) (uint64, error) { return p.settle(ctx, &item{}) }

func (p *Publisher) settle(ctx context.Context, it *item) (uint64, error) {
	it.ready, it.done = make(chan struct{}), make(chan result, 1)
	close(it.ready)
	if err := p.send(ctx, p.order, it); err != nil {
		return 0, err
	}
	select {
	case r := <-it.done:
		return r.number, r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-p.ctx.Done():
		return 0, context.Cause(p.ctx)
	}
}

// Epoch is the epoch this Publisher makes.
func (p *Publisher) Epoch() uint64 { return p.epoch }

// Err says why the epoch is over; nil while it goes on.
func (p *Publisher) Err() error { return context.Cause(p.ctx) }

// Stats counts what happened so far.
func (p *Publisher) Stats() Stats {
	return Stats{Links: p.links.Load(), RawBytes: p.raw.Load(), Bytes: p.bytes.Load(), Refused: p.refused.Load(), LastError: p.lastError.Load().(string)}
}

// Close stops without waiting for what is under way; call Flush first to wait.
func (p *Publisher) Close() {
	p.cancel(errClosed)
	p.wg.Wait()
}

var errClosed = errors.New("publisher is closed")

// buffer returns a buffer of which room is taken.
func (p *Publisher) buffer() []byte { return (*p.free.Get().(*[]byte))[:room] }

func (p *Publisher) recycle(b []byte) {
	if cap(b) == bufferSize {
		p.free.Put(&b)
	}
}

// compress makes blocks of frames until the epoch ends.
func (p *Publisher) compress() {
	// The window is a frame, so that an encoder needs little memory; the vault's
	// seal makes zstd's own checksum needless.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(FrameBlocks*wire.BlockSize), zstd.WithEncoderCRC(false))
	if err != nil {
		p.cancel(fmt.Errorf("make zstd encoder: %w", err))
		return
	}
	for {
		select {
		case it := <-p.work:
			it.block, it.buf = p.pack(enc, it.frame)
			close(it.ready)
		case <-p.ctx.Done():
			return
		}
	}
}

// pack makes the block of a frame, and says which buffer its data lies in.
func (p *Publisher) pack(enc *zstd.Encoder, f *frame) (*wire.Block, []byte) {
	data := f.data()
	b := &wire.Block{Codec: wire.CodecRaw, Raw: uint32(len(data)), Extents: f.extents, Data: data}
	b.Sums = make([]byte, 0, 16*f.blocks)
	sums := f.sums
	if len(sums) == 0 {
		sums = make([]wire.Sum, len(data)/wire.BlockSize)
		wire.SumsOf(data, sums)
	}
	for i := range sums {
		b.Sums = append(b.Sums, sums[i][:]...)
	}
	if len(data) == 0 || p.o.Raw != nil && p.o.Raw() || entropy.Dense(data) {
		return b, f.buf
	}
	packed := enc.EncodeAll(data, p.buffer())
	if len(packed)-room > len(data)-len(data)/20 { // not worth unpacking it again
		p.recycle(packed)
		return b, f.buf
	}
	p.recycle(f.buf)
	b.Codec, b.Data = wire.CodecZstd, packed[room:]
	return b, packed
}

// poolFlight is how many messages may be on their way to a pool's stream, which holds at
// least twice as many of a disk.
const poolFlight = 32

// maxFlight is more messages than any window of bytes holds.
const maxFlight = 1 << 20

const (
	firstWait, longestWait     = 20 * time.Millisecond, 2 * time.Second
	firstAnswer, longestAnswer = 1500 * time.Millisecond, 10 * time.Second
)

func longer(d time.Duration) time.Duration { return min(2*d, longestWait) }

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
