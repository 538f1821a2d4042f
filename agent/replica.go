package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Errors that end what the agent does with a disk, for errors.Is.
var (
	// ErrFenced means that the vault takes this disk's changes from somebody else now.
	ErrFenced = errors.New("fenced: a newer epoch of this disk exists")
)

// errAgain means that the epoch is over and the next one must be opened.
var errAgain = errors.New("epoch is over")

// replica keeps one disk's copy in the vault up to date. Its methods are called by
// one goroutine at a time, except receipt and those marked otherwise.
type replica struct {
	cfg      Config
	disk     DiskConfig
	name     string
	closers  []func()
	dev      *disk.Disk
	reader   *disk.Reader // made before any freeze, so that reading allocates nothing
	src      capture.Source
	limit    *blocks.Limiter // of the whole machine
	raw      func() bool     // compression is the process server's
	shown    *shown          // what control is told of it
	board    *board          // and of the machine
	keeper   capture.Keeper  // src, if it goes on while no agent runs
	bus      *bus.Bus
	log      *slog.Logger
	instance string
	host     string
	events   func(kind string, s wire.Severity, disk, what, try string)

	pub      *blocks.Publisher
	journal  journal
	dirty    capture.Set  // changed and not sent
	full     string       // reason why the whole disk must be compared, "" if not
	compared bool         // a comparison has begun in this epoch
	looked   looked       // how far a comparison got
	why      string       // reason for the next epoch
	fresh    bool         // no epoch of this process stands yet
	replaced error        // another disk is in this one's place
	unable   string       // why the driver that the policy wants cannot follow it
	handed   capture.Set  // given to the publisher and not settled
	doubt    capture.Set  // part of dirty of which the vault may hold all or some
	since    uint64       // first epoch of the unbroken run of this process's own
	failure  error        // of the device, the newest of
	failures int          // in a row
	alone    func() bool  // no other disk is protected
	known    wire.Receipt // the newest when the epoch was opened
	sent     atomic.Uint64

	mu sync.Mutex
	// guarded by mu:
	epoch   uint64        // that this agent opened last, 0 before
	receipt *wire.Receipt // newest
	vaultAt capture.Mark  // what the vault has confirmed
	news    chan struct{} // closed and replaced when a receipt comes
}

// hear takes a receipt from the bus. It is called by the subscription.
func (r *replica) hear(m *nats.Msg) {
	rc, err := wire.DecodeReceipt(m.Data)
	if err != nil {
		r.log.Warn("receipt not understood", "disk", r.name, "error", err)
		return
	}
	r.learn(rc)
}

func (r *replica) learn(rc *wire.Receipt) {
	if rc.Machine != r.cfg.Machine || rc.Disk != r.name {
		// Whoever may write to a subject is checked by the server; what a message says
		// of itself must agree with where it was found.
		r.log.Warn("receipt of another disk on this disk's subject", "disk", r.name, "names", rc.Machine+"/"+rc.Disk)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if o := r.receipt; o != nil && (rc.Epoch < o.Epoch || rc.Epoch == o.Epoch && rc.Number < o.Number && !rc.Resend) {
		return // late
	}
	r.receipt = rc
	if rc.Epoch == r.epoch {
		r.journal.confirm(rc.Number)
		r.confirmed(capture.Mark{Epoch: rc.Epoch, Number: rc.Number})
		if r.keeper != nil {
			r.keeper.Confirm(capture.Mark{Epoch: rc.Epoch, Number: rc.Number})
		}
	}
	close(r.news)
	r.news = make(chan struct{})
}

// refresh asks the stream for the newest receipt, in case one was missed.
func (r *replica) refresh(ctx context.Context) error {
	s, err := r.bus.JS.Stream(ctx, streams.Receipts)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", streams.Receipts, err)
	}
	m, err := s.GetLastMsgForSubject(ctx, streams.ReceiptsSubject(r.cfg.Machine, r.name))
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

// last returns the newest receipt and a channel that closes when another comes.
func (r *replica) last() (*wire.Receipt, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.receipt, r.news
}

// state says whether the epoch can go on: nil, errAgain or ErrFenced.
func (r *replica) state() error {
	why, err := r.over()
	if r.why == "" || strings.HasPrefix(why, "resend") {
		r.why = cmp.Or(why, r.why)
	}
	return err
}

// over is state for the goroutines that read: it changes nothing.
func (r *replica) over() (why string, err error) {
	rc, _ := r.last()
	switch {
	case r.replaced != nil:
		return "", r.replaced
	case r.pub == nil:
		return "", errAgain
	case r.pub.Err() != nil:
		// Something was given up in the middle of the chain; what was handed over is
		// remembered, a new epoch sends it again.
		return "interrupted: " + r.pub.Err().Error(), errAgain
	case rc == nil:
		return "", nil
	case rc.Epoch > r.pub.Epoch():
		return "", fmt.Errorf("%w (the vault is at epoch %d, this agent at %d)", ErrFenced, rc.Epoch, r.pub.Epoch())
	case r.asksAgain(rc):
		return "resend: " + rc.Reason, errAgain
	}
	return "", nil
}

// asksAgain reports whether rc says, of the epoch under way, that links are missing.
// When even the Open was lost the receipt names the epoch before; what was known
// when this epoch began does not count.
func (r *replica) asksAgain(rc *wire.Receipt) bool {
	return rc.Resend && (rc.Epoch != r.known.Epoch || rc.Number != r.known.Number || rc.Time != r.known.Time)
}

// receiptWait is how long to wait for a receipt before asking the stream for it.
const receiptWait = 2 * time.Second

// open begins a new epoch and waits for the receipt that names its base.
func (r *replica) open(ctx context.Context) error {
	if r.pub != nil {
		r.pub.Close()
		r.pub = nil
	}
	if err := r.refresh(ctx); err != nil {
		return err
	}
	rc, _ := r.last()
	r.known = wire.Receipt{}
	if rc != nil {
		r.known = *rc
	}
	r.mu.Lock()
	ours, held := r.epoch, r.vaultAt
	next := max(r.known.Epoch, r.epoch) + 1
	r.epoch = next
	r.mu.Unlock()
	if r.keeper != nil {
		r.keeper.Opening(next)
	}

	if next != ours+1 {
		r.since = next // epochs between are somebody else's
	}
	back := r.journal.take()
	back.Merge(&r.handed)
	r.dirty.Merge(back)
	r.doubt.Merge(back)
	r.handed = capture.Set{}
	o := &wire.Open{
		Size: r.dev.Size(), Capture: r.src.Name(), Guarantee: r.src.Guarantee(),
		Host: r.host, Instance: r.instance, Path: r.dev.Path(), Identity: r.dev.Identity(),
		Reason: r.why, MinEpoch: r.known.Epoch, MinNumber: r.known.Number,
	}
	if r.cfg.Instance != "" {
		o.Identity = "" // of the copy's disk, which nothing is to go home to
	}
	pub, err := blocks.Open(ctx, r.bus.JS, r.cfg.Machine, r.name, next, o, blocks.Options{
		WindowBytes: r.cfg.WindowBytes, Raw: r.raw,
		OnLink: r.journal.add, Log: r.log, Limit: r.limit, Pool: r.cfg.Pool,
	})
	if err != nil {
		return err
	}
	r.pub = pub
	r.shown.follow(pub)
	base, err := r.awaitBase(ctx, next)
	if err != nil {
		return err
	}
	r.judge(ctx, base, ours, held)
	r.log.Info("epoch opened", "disk", r.name, "epoch", next, "base_epoch", base.BaseEpoch, "base_number", base.BaseNumber, "reason", r.why, "compare", r.full)
	r.why = ""
	return nil
}

// onClose registers f; close runs the functions in reverse order.
func (r *replica) onClose(f func()) { r.closers = append(r.closers, f) }

// close stops following the disk and gives it back.
func (r *replica) close() {
	if r.pub != nil {
		r.pub.Close()
		r.pub = nil
	}
	for i := len(r.closers) - 1; i >= 0; i-- {
		r.closers[i]()
	}
	r.closers = nil
}

// awaitBase waits for the first receipt of the epoch.
func (r *replica) awaitBase(ctx context.Context, epoch uint64) (*wire.Receipt, error) {
	for waited := 0; ; waited++ {
		rc, news := r.last()
		if rc != nil && r.asksAgain(rc) {
			r.why = "resend: " + rc.Reason
			return nil, fmt.Errorf("disk %s: the vault does not take epoch %d: %s: %w", r.name, epoch, rc.Reason, errAgain)
		}
		if rc != nil && rc.Epoch == epoch {
			return rc, nil
		}
		if rc != nil && rc.Epoch > epoch {
			// The vault knows a newer epoch than RECEIPTS did; we hold the lease, so go
			// past it.
			return nil, fmt.Errorf("disk %s: the vault is at epoch %d already: %w", r.name, rc.Epoch, errAgain)
		}
		t := time.NewTimer(receiptWait)
		select {
		case <-news:
		case <-t.C:
			if waited%5 == 1 {
				r.tell("waiting", 0, 0, "no process server has answered yet: is one running?")
			}
			if err := r.refresh(ctx); err != nil {
				r.log.Debug("refresh receipt", "disk", r.name, "error", err)
			}
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
		t.Stop()
	}
}

// sums asks the process server for what the vault holds.
func (r *replica) sums(ctx context.Context, start uint64, count int) ([]wire.Sum, error) {
	q, err := wire.Encode(&wire.SumsRequest{Epoch: r.pub.Epoch(), Start: start, Count: uint32(count)})
	if err != nil {
		return nil, err
	}
	subject := r.cfg.Pool.SumsSubject(r.cfg.Machine, r.name)
	var last error
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		if err := r.state(); err != nil {
			return nil, err
		}
		a, cancel := context.WithTimeout(ctx, 10*time.Second)
		m, err := r.bus.Conn.RequestWithContext(a, subject, q)
		cancel()
		if err == nil {
			var rep *wire.SumsReply
			if rep, err = wire.DecodeSumsReply(m.Data); err == nil {
				if rep.Error == "" && rep.Epoch == r.pub.Epoch() && rep.Start == start && len(rep.Sums) == 16*count {
					return splitSums(rep.Sums), nil
				}
				err = fmt.Errorf("process server: %s (sums from block %d of epoch %d)", rep.Error, rep.Start, rep.Epoch)
			}
		}
		last = err
		r.log.Debug("sums", "disk", r.name, "error", err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("sums of disk %s: %w (last answer: %v)", r.name, context.Cause(ctx), last)
		}
	}
}

func splitSums(b []byte) []wire.Sum {
	s := make([]wire.Sum, len(b)/16)
	for i := range s {
		s[i] = wire.Sum(b[16*i:])
	}
	return s
}

func (r *replica) tell(phase string, done, total int64, text string) {
	if phase == "compare" || phase == "first copy" {
		r.shown.left.Store(uint64(total - done))
	}
	if r.cfg.Progress != nil {
		r.cfg.Progress(Progress{Disk: r.name, Phase: phase, Done: done, Total: total, Sent: r.sentBytes(), Text: text})
	}
}

func (r *replica) sentBytes() uint64 {
	n := r.sent.Load()
	if r.pub != nil {
		n += r.pub.Stats().RawBytes
	}
	return n
}
