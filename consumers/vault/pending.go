package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Pending is a batch on its way to the store. Several of one writer may be, so that the
// next is sealed and written while the store still makes the one before durable. Their
// segments get their names one after the other: at no time, whoever dies, is a segment
// there and one before it is not.
type Pending struct {
	w     *DiskWriter
	b     *Batch
	prev  *Pending // nil once that is settled
	began time.Time
	done  chan struct{} // closed: head and err are there
	head  Head
	err   error
}

// errBefore means that a batch was given up because one before it failed.
var errBefore = errors.New("a batch before it failed")

// Begin seals a batch behind those that were begun before and returns while it is being
// stored; b must not change before Wait returns. Every Pending must be waited for; until
// then Head does not tell of it. Errors are those of Commit, from Begin or from Wait; after
// one, those behind it fail too, and the next Begin looks at the vault again. Where it
// cannot go ahead of the store, as with an open, Begin does what Commit does, after
// waiting for what is pending.
func (w *DiskWriter) Begin(ctx context.Context, b *Batch) (*Pending, error) {
	if err := w.take(ctx); err != nil {
		return nil, err
	}
	defer w.give()
	p := &Pending{w: w, b: b, prev: w.last, began: time.Now().Round(0), done: make(chan struct{})}
	if b.Open != nil || p.began.Sub(w.checked) > trusted || w.last.broken() {
		p.head, p.err = w.alone(ctx, b)
		close(p.done)
		return p, p.err
	}
	if err := b.check(); err != nil {
		return nil, w.failed(b, err)
	}
	g, err := w.seal(ctx, b)
	if err == nil {
		err = w.step(g.segment)
	}
	if err != nil {
		return nil, w.failed(b, err)
	}
	p.head, w.last = w.state.head, p
	go p.run(ctx, g)
	return p, nil
}

// Wait returns when the batch is durable, and where the disk stands with it, or why it
// is not. Batches are settled in the order in which they were begun. It does not give up
// before the store does: that has the context of Begin.
func (p *Pending) Wait() (Head, error) {
	<-p.done
	return p.head, p.err
}

// broken reports whether p is settled and failed: the state is ahead of the vault.
func (p *Pending) broken() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return p.err != nil
	default:
		return false
	}
}

// run stores the segment and names it behind those before.
func (p *Pending) run(ctx context.Context, g *sealed) {
	defer func() {
		p.w.v.recycle(g.buf)
		p.b, p.prev = nil, nil // the writer may hold p for long
		close(p.done)
	}()
	staged, err := store.Stage(ctx, p.w.v.st, g.key, g.buf)
	if err == nil {
		defer staged.Abort()
	}
	if p.prev != nil {
		if _, before := p.prev.Wait(); before != nil {
			err = fmt.Errorf("%w: %w", errBefore, before)
		}
	}
	if err == nil {
		err = staged.Commit(ctx)
	}
	if errors.Is(err, ErrExists) {
		err = ErrConflict
	}
	if err == nil && time.Now().Round(0).Sub(p.began) > trusted {
		// It may have got the name of a segment that was folded long ago. The next look at
		// the vault decides.
		err = errors.New("it took too long to be sure that it is the newest")
	}
	if err != nil {
		p.head, p.err = p.w.Head(), p.w.failed(p.b, err)
		return
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.head = p.head
}

// settled waits for what is pending and, if that failed, forgets the state, which is
// ahead of the vault. The caller holds the turn.
func (w *DiskWriter) settled(ctx context.Context) error {
	if w.last == nil {
		return nil
	}
	_, err := w.last.Wait()
	if w.last = nil; err == nil {
		return nil
	}
	w.mu.Lock()
	w.state, w.checked = newState(), time.Time{}
	w.mu.Unlock()
	if err := w.reload(ctx); err != nil {
		return fmt.Errorf("reload disk %s: %w", w.id, err)
	}
	return nil
}
