package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/streams/wire"
)

// judge decides whether the disk must be compared with the vault, which stands at the
// base of a new epoch. Before that, this process had opened epoch ours (0: none), and
// the vault had confirmed what is up to held.
//
// It need not if it is certain which blocks the vault may lack: then these are dirty.
func (r *replica) judge(ctx context.Context, base *wire.Receipt, ours uint64, held capture.Mark) {
	fresh := r.fresh
	r.fresh = false
	at := capture.Mark{Epoch: base.BaseEpoch, Number: base.BaseNumber}
	switch {
	case at.Epoch == 0:
		r.full = "first copy"
	case r.full != "":
	case fresh:
		if err := r.resume(ctx, at); err != nil {
			r.full = "restart: " + err.Error()
		}
	default:
		if err := capture.Fits(held, r.since, ours, at); err != nil {
			r.full = "not certain: " + err.Error()
		}
	}
	if r.full != "" && r.keeper != nil {
		r.keeper.Void()
	}
}

// confirmed notes what the vault holds. r.mu is held.
func (r *replica) confirmed(m capture.Mark) {
	if m.Epoch > r.vaultAt.Epoch || m.Epoch == r.vaultAt.Epoch && m.Number > r.vaultAt.Number {
		r.vaultAt = m
	}
}

// seal tells the keeper that everything is in the chain up to m. The receipt may have
// been faster.
func (r *replica) seal(m capture.Mark) {
	r.keeper.Seal(m)
	if rc, _ := r.last(); rc != nil && rc.Epoch == m.Epoch {
		r.keeper.Confirm(capture.Mark{Epoch: rc.Epoch, Number: rc.Number})
	}
}

// resume goes on where the agent before this one stopped, or says why that cannot be.
func (r *replica) resume(ctx context.Context, base capture.Mark) error {
	if r.keeper == nil {
		return fmt.Errorf("driver %s does not see what happens while no agent runs", r.src.Name())
	}
	if err := r.keeper.Resumed(); err != nil {
		return err
	}
	if err := r.keeper.Fits(base); err != nil {
		return err
	}
	kept, err := r.take(ctx)
	if err != nil {
		return err
	}
	r.doubt.Merge(kept)
	r.log.Info("tracking went on while no agent ran: nothing else to compare", "disk", r.name, "vault", base.String(), "blocks", kept.Len())
	r.events("resumed", wire.Info, r.name, fmt.Sprintf("disk %s: the kernel recorded all writes while no agent ran; only what was written (%d MiB at most) is compared and sent", r.name, kept.Len()*wire.BlockSize>>20), "")
	return nil
}

// reconcile compares what the vault may lack with what it holds, and sends what
// differs: links that it had confirmed, or that arrived though nobody said so, are not
// sent again.
func (r *replica) reconcile(ctx context.Context) error {
	if r.doubt.Len() == 0 {
		return nil
	}
	began, before, total := time.Now(), r.sentBytes(), r.doubt.Len()
	b := r.pub.Builder()
	var sent capture.Set
	var err error
	for w := range windows(&r.doubt) {
		if _, err = r.over(); err != nil {
			break
		}
		var theirs []wire.Sum
		if theirs, err = r.sums(ctx, w.start, int(w.end-w.start)); err != nil {
			break
		}
		r.tell("compare", int64(w.start)*wire.BlockSize, int64(r.dev.Size()), "")
		err = r.readSet(ctx, &w.set, func(start uint64, data []byte) error {
			for i, n := range differ(data, theirs[start-w.start:]) {
				if err := b.Add(ctx, start+uint64(i), data[i*wire.BlockSize:(i+n)*wire.BlockSize], nil); err != nil {
					return err
				}
				sent.Add(start+uint64(i), uint64(n))
			}
			return nil
		})
		if err != nil {
			break
		}
	}
	if err == nil {
		err = b.Flush(ctx)
	}
	r.handOver(&sent) // also what was sent before an error: the epoch's end sends it again
	if err != nil {
		return err
	}
	r.dirty.Subtract(&r.doubt)
	r.doubt = capture.Set{}
	r.log.Info("ranges compared with the vault", "disk", r.name, "bytes", total*wire.BlockSize, "differed", sent.Len()*wire.BlockSize, "sent", r.sentBytes()-before, "seconds", time.Since(began).Seconds())
	return nil
}

// window is a part of a set that one request for sums covers.
type window struct {
	start, end uint64
	set        capture.Set
}

// windows cuts a set into parts.
func windows(set *capture.Set) func(yield func(*window) bool) {
	return func(yield func(*window) bool) {
		var w *window
		for start, count := range set.Ranges() {
			for count > 0 {
				if w != nil && start >= w.start+wire.MaxSums {
					if !yield(w) {
						return
					}
					w = nil
				}
				if w == nil {
					w = &window{start: start}
				}
				n := min(count, w.start+wire.MaxSums-start)
				w.set.Add(start, n)
				start, count = start+n, count-n
				w.end = start
			}
		}
		if w != nil {
			yield(w)
		}
	}
}

// differ yields the runs of blocks whose sums are not those given: index and length.
func differ(data []byte, sums []wire.Sum) func(yield func(int, int) bool) {
	return func(yield func(int, int) bool) {
		from, n := 0, len(data)/wire.BlockSize
		have := make([]wire.Sum, n)
		wire.SumsOf(data, have)
		for i := range n + 1 {
			if i < n && have[i] != sums[i] {
				continue
			}
			if i > from && !yield(from, i-from) {
				return
			}
			from = i + 1
		}
	}
}
