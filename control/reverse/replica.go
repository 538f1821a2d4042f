package reverse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

const blockSize = wire.BlockSize

// replica keeps one disk's copy in the vault up to date. Its methods are called by one
// goroutine at a time, except hear.
type replica struct {
	e     *Exporter
	disk  Disk
	name  string
	pub   *blocks.Publisher // nil: there is no epoch
	dirty capture.Set       // changed and not sent
	known wire.Receipt      // the newest when the epoch was opened
	epoch uint64            // that was opened last
	why   string            // for a new epoch

	sent, compared atomic.Uint64

	mu      sync.Mutex
	receipt *wire.Receipt // newest
	news    chan struct{} // closed and replaced when a receipt comes
}

func newReplica(e *Exporter, d Disk) *replica {
	return &replica{e: e, disk: d, name: d.Name, why: "re-protect", news: make(chan struct{})}
}

func (r *replica) id() vault.DiskID {
	return vault.DiskID{Machine: r.e.cfg.Machine, Disk: r.name}
}

// hear takes a receipt from the bus. It is called by the subscription.
func (r *replica) hear(m *nats.Msg) {
	rc, err := wire.DecodeReceipt(m.Data)
	if err == nil {
		r.learn(rc)
	}
}

func (r *replica) learn(rc *wire.Receipt) {
	if rc.Machine != r.e.cfg.Machine || rc.Disk != r.name {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.receipt; o != nil && (rc.Epoch < o.Epoch || rc.Epoch == o.Epoch && rc.Number < o.Number && !rc.Resend) {
		return // late
	}
	r.receipt = rc
	close(r.news)
	r.news = make(chan struct{})
}

func (r *replica) last() (*wire.Receipt, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.receipt, r.news
}

// refresh asks the stream for the newest receipt, in case one was missed.
func (r *replica) refresh(ctx context.Context) error {
	s, err := r.e.bus.JS.Stream(ctx, streams.Receipts)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.Receipts, err)
	}
	m, err := s.GetLastMsgForSubject(ctx, streams.ReceiptsSubject(r.e.cfg.Machine, r.name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up receipt of disk %s: %w", r.name, err)
	}
	rc, err := wire.DecodeReceipt(m.Data)
	if err != nil {
		return fmt.Errorf("receipt of disk %s: %w", r.name, err)
	}
	r.learn(rc)
	return nil
}

// standing says why the epoch cannot go on; nil while it can.
func (r *replica) standing() error {
	rc, _ := r.last()
	switch {
	case r.pub == nil:
		return errors.New("there is no epoch")
	case r.pub.Err() != nil:
		return r.pub.Err()
	case rc == nil:
	case rc.Epoch > r.pub.Epoch():
		return fmt.Errorf("disk %s: %w (the vault is at epoch %d, this machine at %d)", r.name, ErrFenced, rc.Epoch, r.pub.Epoch())
	case r.asksAgain(rc):
		return fmt.Errorf("disk %s: the vault misses links: %s", r.name, rc.Reason)
	}
	return nil
}

// asksAgain reports whether rc says, of the epoch under way, that links are missing.
func (r *replica) asksAgain(rc *wire.Receipt) bool {
	return rc.Resend && (rc.Epoch != r.known.Epoch || rc.Number != r.known.Number || rc.Time != r.known.Time)
}

// ready makes sure that an epoch stands and that what the vault lacked was sent.
func (r *replica) ready(ctx context.Context) error {
	err := r.standing()
	if err == nil || errors.Is(err, ErrFenced) {
		return err
	}
	if r.pub != nil {
		r.why = "interrupted: " + err.Error()
	}
	base, err := r.open(ctx)
	if err == nil {
		err = r.compare(ctx, base)
	}
	if err != nil {
		r.close()
		return err
	}
	r.why = "interrupted"
	return nil
}

func (r *replica) close() {
	if r.pub != nil {
		r.pub.Close()
		r.pub = nil
	}
}

// open begins a new epoch and returns where in the vault it starts.
func (r *replica) open(ctx context.Context) (vault.Position, error) {
	r.close()
	if err := r.refresh(ctx); err != nil {
		return vault.Position{}, err
	}
	r.known = wire.Receipt{}
	if rc, _ := r.last(); rc != nil {
		r.known = *rc
	}
	// Receipts may be lost with the bus; what is in the vault is not.
	all, err := r.e.vault.Epochs(ctx, r.id())
	if err != nil {
		return vault.Position{}, err
	}
	newest := r.disk.Base.Epoch
	if len(all) > 0 {
		newest = max(newest, all[len(all)-1])
	}
	r.epoch = max(newest, r.known.Epoch, r.epoch) + 1
	pub, err := blocks.Open(ctx, r.e.bus.JS, r.e.cfg.Machine, r.name, r.epoch, &wire.Open{
		Size: uint64(r.disk.Overlay.Size()), Capture: "overlay", Guarantee: "every change is known, because the disk is served by Leeward",
		Host: r.e.cfg.Facts.Host, Instance: r.e.instance, Path: "recovery point " + r.disk.Base.String() + " with what the machine changed since",
		Reason: clip(r.why), MinEpoch: r.known.Epoch, MinNumber: r.known.Number,
	}, blocks.Options{Log: r.e.log, Limit: &r.e.limit, Pool: r.e.cfg.Pool})
	if err != nil {
		return vault.Position{}, err
	}
	r.pub = pub
	rc, err := r.await(ctx, func(rc *wire.Receipt) bool { return rc.Epoch == r.epoch })
	if err != nil {
		return vault.Position{}, err
	}
	r.e.log.Info("epoch opened", "disk", r.name, "epoch", r.epoch, "base_epoch", rc.BaseEpoch, "base_number", rc.BaseNumber, "reason", r.why)
	return vault.Position{Epoch: rc.BaseEpoch, Number: rc.BaseNumber}, nil
}

func clip(s string) string { return s[:min(len(s), 200)] }

// lookAgain is how long to wait for a receipt before asking the stream for it.
const lookAgain = 2 * time.Second

// await waits for a receipt of this epoch.
func (r *replica) await(ctx context.Context, enough func(*wire.Receipt) bool) (*wire.Receipt, error) {
	for {
		rc, news := r.last()
		if err := r.standing(); err != nil {
			return nil, err
		}
		if rc != nil && enough(rc) {
			return rc, nil
		}
		t := time.NewTimer(lookAgain)
		select {
		case <-news:
		case <-t.C:
			if err := r.refresh(ctx); err != nil {
				r.e.log.Debug("refresh receipt", "disk", r.name, "error", err)
			}
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("wait for the vault: no receipt of disk %s: %w: is a process server running?", r.name, context.Cause(ctx))
		}
		t.Stop()
	}
}

// take adds what changed lately to what is to be sent.
func (r *replica) take() {
	r.disk.Overlay.Take(func(off, length int64) {
		r.dirty.Add(uint64(off)/blockSize, uint64(length+blockSize-1)/blockSize)
	})
}

// compare sends every block that is not as the vault has it at base.
func (r *replica) compare(ctx context.Context, base vault.Position) error {
	vaults, err := r.e.vault.SumsAt(ctx, r.id(), base)
	if err != nil {
		return err
	}
	point, err := r.e.vault.SumsAt(ctx, r.id(), r.disk.Base)
	if err != nil {
		return err
	}
	r.dirty = capture.Set{}
	r.take() // what it tells of was changed, and is looked at now
	r.disk.Overlay.Changed(func(off, length int64, _ bool) bool {
		r.dirty.Add(uint64(off)/blockSize, uint64(length+blockSize-1)/blockSize)
		return true
	})
	vaults.Differ(point, func(start, count uint64) bool {
		r.dirty.Add(start, count)
		return true
	})
	set := r.dirty
	r.dirty = capture.Set{}
	b := r.pub.Builder()
	err = r.read(ctx, &set, func(start uint64, data []byte) error {
		n := len(data) / blockSize
		want, have := vaults.Read(start, n), sumsOf(data)
		for i := 0; i < n; {
			from := i
			for i < n && have[i] != wire.Sum(want[i]) {
				i++
			}
			if from == i {
				i++
				continue
			}
			if err := r.add(ctx, b, start+uint64(from), data[from*blockSize:i*blockSize], have[from:i]); err != nil {
				return err
			}
		}
		r.compared.Add(uint64(len(data)))
		return nil
	})
	if err == nil {
		err = b.Flush(ctx)
	}
	return err
}

func sumsOf(data []byte) []wire.Sum {
	s := make([]wire.Sum, len(data)/blockSize)
	wire.SumsOf(data, s)
	return s
}

func (r *replica) add(ctx context.Context, b *blocks.Builder, start uint64, data []byte, sums []wire.Sum) error {
	r.sent.Add(uint64(len(data)))
	return b.Add(ctx, start, data, sums)
}

// pieceBlocks is how much is read at once: 1 MiB.
const pieceBlocks = 256

// read reads blocks and calls f for pieces of them in order. data is f's until it returns.
func (r *replica) read(ctx context.Context, set *capture.Set, f func(start uint64, data []byte) error) error {
	buf := make([]byte, pieceBlocks*blockSize)
	size := r.disk.Overlay.Size()
	for start, count := range set.Ranges() {
		for count > 0 {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			n := min(count, pieceBlocks)
			data := buf[:n*blockSize]
			have := min(int64(len(data)), size-int64(start)*blockSize)
			clear(data[have:])
			if _, err := r.disk.Overlay.ReadAt(data[:have], int64(start)*blockSize); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read disk %s: %w", r.name, err)
			}
			if err := f(start, data); err != nil {
				return err
			}
			start, count = start+n, count-n
		}
	}
	return nil
}

// round sends what changed lately, and returns how many bytes that was.
func (r *replica) round(ctx context.Context) (int64, error) {
	if err := r.standing(); err != nil {
		return 0, err
	}
	r.take()
	n := int64(r.dirty.Len()) * blockSize
	set := r.dirty
	r.dirty = capture.Set{}
	b := r.pub.Builder()
	err := r.read(ctx, &set, func(start uint64, data []byte) error { return r.add(ctx, b, start, data, nil) })
	if err == nil {
		err = b.Flush(ctx)
	}
	if err != nil {
		r.dirty.Merge(&set)
	}
	return n, err
}
