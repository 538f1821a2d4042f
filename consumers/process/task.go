package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/leeward-dr/leeward/consumers/optimize"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

// task runs work, which may take its time, beside the loop; what it returns is
// called by the loop. No other task is begun meanwhile. work must end soon after ctx.
func (d *disk) task(work func() func()) {
	d.busy = true
	d.tasks++
	d.s.tasks.Go(func() {
		end := work()
		d.done <- func() {
			d.busy = false
			end()
		}
	})
}

// open finds out where the vault stands. RECEIPTS is read first: a receipt that
// promises more than the head read after it means that the vault has lost data.
func (d *disk) open(ctx context.Context) {
	d.check = false
	d.task(func() func() {
		last, err := d.s.voice.lastReceipt(ctx, d.id)
		var w *vault.DiskWriter
		if err == nil {
			release := d.s.slot(ctx)
			w, err = d.s.vault.OpenDisk(ctx, d.id)
			release()
		}
		if err == nil {
			err = d.reconcile(ctx, last, w.Head())
		}
		return func() {
			if err != nil {
				d.check = true
				d.failed("open the disk in the vault", err)
				return
			}
			d.worked()
			d.w = w
			d.rejudge(w.Head())
		}
	})
}

// compare publishes the head's receipt if RECEIPTS does not have it.
func (d *disk) compare(ctx context.Context) {
	d.check = false
	head := d.head
	d.task(func() func() {
		last, err := d.s.voice.lastReceipt(ctx, d.id)
		if err == nil {
			err = d.reconcile(ctx, last, head)
		}
		return func() {
			if err != nil {
				d.check = true // only when the server is going down
			}
		}
	})
}

// reconcile brings RECEIPTS to what the vault holds (law 5: it may have been lost).
func (d *disk) reconcile(ctx context.Context, last *wire.Receipt, head vault.Head) error {
	if last == nil {
		if head.Position == (vault.Position{}) {
			return nil
		}
		return d.s.voice.receipt(ctx, receipt(d.id, head, false, ""))
	}
	at := vault.Position{Epoch: last.Epoch, Number: last.Number}
	switch {
	case less(at, head.Position):
		return d.s.voice.receipt(ctx, receipt(d.id, head, false, ""))
	case less(head.Position, at):
		why := fmt.Sprintf("the vault stands at link %d of epoch %d, but link %d of epoch %d was confirmed before: the vault has lost data",
			head.Number, head.Epoch, at.Number, at.Epoch)
		d.event("vault-behind", wire.Critical, why, "check the vault: leeward vault check; the agent sends the disk again")
		return d.s.voice.receipt(ctx, receipt(d.id, head, true, why))
	}
	return nil
}

// read asks the vault for the head again, because somebody else may have written,
// and judges everything that is here anew.
func (d *disk) read(ctx context.Context) {
	w, before := d.w, d.head
	d.task(func() func() {
		release := d.s.slot(ctx)
		err := w.Reload(ctx)
		release()
		var head vault.Head
		if err == nil {
			if head = w.Head(); head.Position != before.Position {
				err = d.s.voice.receipt(ctx, receipt(d.id, head, false, ""))
			}
		}
		return func() {
			if err != nil {
				d.failed("read the disk's head again", err)
				return
			}
			d.worked()
			d.reload, d.stale = false, false
			d.rejudge(head)
		}
	})
}

// rejudge takes head as the vault's and judges every link that is here.
func (d *disk) rejudge(head vault.Head) {
	was, stood := d.gap, d.tail.Position
	d.head, d.tail = head, head
	var all []*link
	for _, r := range d.runs {
		all = append(all, r.links...)
	}
	all = append(append(all, d.held...), d.waiting...)
	d.weigh(-d.heldBytes)
	d.runs, d.held, d.waiting = nil, nil, nil
	for _, l := range all {
		d.place(l)
	}
	d.gap = gap{}
	if d.tail.Position == stood {
		d.gap = was // nothing came of it: the search goes on where it was
	}
	for _, a := range d.questions {
		a.want = d.tail.Position
	}
	d.settle()
}

// commitsAhead is how many runs of a disk are committed at a time: one waits until it is
// durable, the next is written, a third is sealed. Each takes as much memory as its links
// again, and no more of them wait, see Config.perDisk.
const commitsAhead = 3

// failure is why a run was not committed.
type failure struct {
	before vault.Head
	err    error
}

// commit gives the next run to the vault, says so, and only then acknowledges it. Until
// the vault has taken it on no other task is begun; what follows, for each run after
// that of the one before, may go on beside others.
func (d *disk) commit(ctx context.Context) {
	r, w, before, said := d.runs[d.pending], d.w, d.said, make(chan struct{})
	d.said, r.closed, d.busy = said, true, true
	d.pending++
	d.tasks += 2
	plan := r.plan()
	d.s.tasks.Go(func() {
		release := d.s.slot(ctx)
		began := time.Now()
		batch, p, err := d.enter(ctx, w, plan)
		d.done <- func() { d.busy = false }
		var head vault.Head
		if err == nil {
			if head, err = p.Wait(); err == nil {
				d.s.commitTimes.Observe(time.Since(began))
			}
		}
		release()
		if before != nil {
			<-before
		}
		d.done <- d.conclude(ctx, r, batch, head, err)
		close(said)
	})
}

// enter makes a batch of links and begins to give it to the vault.
func (d *disk) enter(ctx context.Context, w *vault.DiskWriter, plan []optimize.Link) (*vault.Batch, *vault.Pending, error) {
	batch, err := d.s.optimizer.Batch(plan)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", vault.ErrInvalid, err)
	}
	p, err := w.Begin(ctx, batch)
	return batch, p, err
}

// conclude says what became of a run and returns what the loop has to know of it.
func (d *disk) conclude(ctx context.Context, r *run, batch *vault.Batch, head vault.Head, err error) func() {
	if err == nil {
		if d.s.committed != nil {
			d.s.committed(d.id)
		}
		if err := d.s.voice.receipt(ctx, receipt(d.id, head, false, "")); err != nil {
			// Only when the server is going down: nothing is acknowledged.
			return func() { d.settleCommit(r, batch, head, err) }
		}
	}
	return func() { d.settleCommit(r, batch, head, err) }
}

// settleCommit takes note of what became of the first of the runs that are begun.
func (d *disk) settleCommit(r *run, batch *vault.Batch, head vault.Head, err error) {
	d.pending--
	if d.broken != nil {
		return // this one failed too, or the vault took it because it has the one before: that will be seen
	}
	if err != nil {
		d.broken = &failure{d.head, err}
		return
	}
	d.worked()
	d.stale = false
	d.head, d.runs = head, d.runs[1:]
	if d.tail.Epoch == head.Epoch {
		d.tail.Base = head.Base // the vault looked again before it opened the epoch
	}
	d.count(r, batch)
	for _, l := range r.links {
		d.finish(l)
	}
}

// commitFailed does what the failure of the first run asks for. Nothing is pending.
func (d *disk) commitFailed() {
	err, before := d.broken.err, d.broken.before
	d.broken = nil
	d.stale = true
	switch {
	case errors.Is(err, vault.ErrConflict), errors.Is(err, vault.ErrFenced):
		d.log.Warn("the vault has these links already or somebody else's, reading the disk's head again", "err", err)
		d.reload = true
		if d.told.conflict == before.Position { // twice at the same place: not too fast
			d.failed("commit", err)
		}
		d.told.conflict = before.Position
	case errors.Is(err, vault.ErrBehind):
		d.behindRun(err)
		d.reload = true
	case errors.Is(err, vault.ErrInvalid), errors.Is(err, vault.ErrChain):
		d.refuseRun(err)
		d.reload = true
	default:
		d.failed("commit", err)
	}
}

// behindRun refuses an open whose agent knows more than the vault.
func (d *disk) behindRun(err error) {
	r := d.runs[0]
	d.lost = r.links[0].Change.Epoch
	why := err.Error()
	d.event("vault-behind", wire.Critical, why, "check the vault: leeward vault check; the agent sends the disk again")
	d.refuse(notice{resend: true, reason: why, links: r.links})
	d.runs = d.runs[1:]
	d.rejudge(d.head)
}

// refuseRun drops a run no batch can be made of. Links are checked before they are
// taken, so this is a fault in this program; the agent sends them again.
func (d *disk) refuseRun(err error) {
	r := d.runs[0]
	d.lost = r.links[0].Change.Epoch
	d.event("malformed", wire.Critical, fmt.Sprintf("links %d to %d of epoch %d cannot be committed: %v",
		r.links[0].Change.Number, r.links[len(r.links)-1].Change.Number, d.lost, err), "report this; the agent sends them again")
	d.refuse(notice{resend: true, reason: err.Error(), links: r.links})
	d.runs = d.runs[1:]
	d.rejudge(d.head)
}

// say publishes the first notice and acknowledges its links.
func (d *disk) say(ctx context.Context) {
	n, head := d.outbox[0], d.head
	d.task(func() func() {
		err := d.s.voice.receipt(ctx, receipt(d.id, head, n.resend, n.reason))
		return func() {
			if err != nil {
				return
			}
			d.outbox = d.outbox[1:]
			for _, l := range n.links {
				d.drop(l)
			}
		}
	})
}

// search looks for a missing link: first in the stream, then in the vault. If the
// partition is not this server's any more, the owner may have it: what is behind it is
// let go, to be delivered there.
func (d *disk) search(ctx context.Context, now time.Time) {
	alone := d.part.undisturbed(d.s.tempo.request)
	switch {
	case !d.gap.again && now.Before(alone):
		d.gap.deadline = alone // sooner, it could be delivered to the one before us again
	case d.gap.again && !d.gap.read:
		d.gap.read, d.reload = true, true
		d.read(ctx)
	default:
		d.ours(ctx)
	}
}

// ours goes on with a search that is in need of an answer to whose the partition is: it is
// delivered again, or in the end taken for lost, only by its owner.
func (d *disk) ours(ctx context.Context) {
	read := d.gap.read
	d.task(func() func() {
		mine, err := true, error(nil)
		if d.s.share != nil {
			mine, err = d.s.share.mine(ctx, d.part.n)
		}
		return func() {
			switch {
			case d.gap.deadline.IsZero() || d.gap.read != read: // it came
			case err != nil:
				d.gap.deadline = time.Now().Add(d.s.tempo.hold)
			case !mine:
				d.letGo()
			case read:
				d.giveUp()
			default:
				if at := d.s.again(ctx, d.part.n, d.gap.since); !at.IsZero() {
					d.gap.deadline = at
					return
				}
				d.gap.again, d.gap.deadline = true, time.Now().Add(d.s.tempo.hold)
			}
		}
	})
}

// failed puts the next task off; the links stay where they are.
func (d *disk) failed(doing string, err error) {
	d.wait = min(max(2*d.wait, d.s.tempo.retry), d.s.tempo.retryMax)
	d.retry = time.Now().Add(d.wait/2 + rand.N(d.wait/2+1))
	d.failing = fmt.Errorf("%s: %w", doing, err)
	d.log.Warn("the vault does not take changes, trying again", "doing", doing, "err", err, "in", d.wait)
	var damage *vault.DamageError
	if !errors.As(err, &damage) {
		d.s.voice.trouble(d.id, d.failing)
	} else if !d.told.damage {
		d.told.damage = true
		d.event("vault-damaged", wire.Critical, fmt.Sprintf("this disk's changes cannot be committed: %v", d.failing), damage.Try)
	}
}

func (d *disk) worked() {
	if d.failing != nil {
		d.log.Info("the vault takes changes again")
	}
	d.failing, d.wait, d.retry, d.told.damage = nil, 0, time.Time{}, false
	d.s.voice.recovered(d.id)
}

// receipt says what the vault holds of a disk.
func receipt(id vault.DiskID, h vault.Head, resend bool, reason string) *wire.Receipt {
	if len(reason) > wire.MaxText {
		reason = reason[:wire.MaxText]
	}
	return &wire.Receipt{
		Machine: id.Machine, Disk: id.Disk, Epoch: h.Epoch, Number: h.Number, Hash: h.Hash,
		BaseEpoch: h.Base.Epoch, BaseNumber: h.Base.Number, Size: h.Size, Digest: h.Digest,
		Resend: resend, Reason: reason, Time: time.Now().UnixNano(),
	}
}
