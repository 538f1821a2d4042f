package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Buffers kept for the next commit: new ones would cost more than the encryption.
const (
	maxBuffers = 4
	maxBuffer  = 48 << 20 // bytes of each
)

// DiskWriter appends to the history of one disk. Several writers of one disk may
// exist, in several processes: each link gets in once. Head and Sums may be called
// at any time; Begin, Commit and Reload wait for each other.
type DiskWriter struct {
	v    *Vault
	id   DiskID
	turn chan struct{} // holds a token while Begin, Commit or Reload runs

	// checked is when it was last known that state.head is the newest the vault has, by
	// the wall clock, which goes on while a machine is suspended. Who holds the turn
	// may use it.
	checked time.Time
	last    *Pending // the batch begun last; whoever holds the turn may use it

	mu    sync.RWMutex
	state *state // mu guards; changed only by who holds the turn. It may be ahead of head
	head  Head   // mu guards; what is durable
}

// trusted is how long a writer that heard nothing may believe that it is the only
// one. Names of segments are free again when Maintain has folded them, which it does
// not before grace: a writer that slept longer would not be stopped by them.
const trusted = grace / 4

// OpenDisk loads where a disk stands, from its segments alone: with work and memory
// that grow with what is on the disk (16 bytes for each block that is not zero). A
// disk the vault has never seen has the zero Head.
func (v *Vault) OpenDisk(ctx context.Context, id DiskID) (*DiskWriter, error) {
	w := &DiskWriter{v: v, id: id, turn: make(chan struct{}, 1), state: newState()}
	if err := id.check(); err != nil {
		return nil, err
	}
	if err := w.reload(ctx); err != nil {
		return nil, fmt.Errorf("open disk %s: %w", id, err)
	}
	return w, nil
}

// Head returns where the disk stands as far as this writer knows. Who gets it may
// not change what it points to.
func (w *DiskWriter) Head() Head {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.head
}

// Sums returns the sums of count blocks from start on, of the disk at Head; while
// batches are pending, of the disk with them.
func (w *DiskWriter) Sums(start uint64, count int) []Sum {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.state.table.read(start, count)
}

// Reload brings Head to what the vault holds.
func (w *DiskWriter) Reload(ctx context.Context) error {
	if err := w.take(ctx); err != nil {
		return err
	}
	defer w.give()
	if err := w.settled(ctx); err != nil {
		return err
	}
	if err := w.reload(ctx); err != nil {
		return fmt.Errorf("reload disk %s: %w", w.id, err)
	}
	return nil
}

func (w *DiskWriter) take(ctx context.Context) error {
	select {
	case w.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *DiskWriter) give() { <-w.turn }

// Commit seals a batch and creates its segment; when it returns nil the batch is
// durable. It does not keep or change b. It returns
//
//   - ErrConflict if somebody else wrote these links: Reload, look at Head, go on.
//   - ErrFenced if the vault has a newer epoch.
//   - ErrBehind if the batch opens an epoch and the vault does not hold MinBase.
//   - ErrChain if the batch does not continue Head.
//   - ErrInvalid if the batch breaks a rule.
//
// After any other error the segment may exist nevertheless: committing again, or
// Reload, finds out. An Open is based on what the vault holds at that time, which
// may be ahead of Head as it was before; Head then tells its Base.
func (w *DiskWriter) Commit(ctx context.Context, b *Batch) (Head, error) {
	if err := w.take(ctx); err != nil {
		return w.Head(), err
	}
	defer w.give()
	return w.alone(ctx, b)
}

// alone commits a batch while nothing else is pending.
func (w *DiskWriter) alone(ctx context.Context, b *Batch) (Head, error) {
	if err := w.settled(ctx); err != nil {
		return w.Head(), err
	}
	if err := w.commit(ctx, b); err != nil {
		return w.Head(), w.failed(b, err)
	}
	return w.Head(), nil
}

func (w *DiskWriter) failed(b *Batch, err error) error {
	return fmt.Errorf("commit links %d to %d of epoch %d of %s: %w", b.First, b.Last, b.Epoch, w.id, err)
}

func (w *DiskWriter) commit(ctx context.Context, b *Batch) error {
	if err := b.check(); err != nil {
		return err
	}
	began := time.Now().Round(0)
	if b.Open != nil || began.Sub(w.checked) > trusted {
		// The base must be the newest position there is, or what somebody else was told
		// is safe would be left out. What an older epoch's writer adds between this look
		// and our Put belongs to an abandoned branch: its agent has opened this epoch by
		// then, and no longer listens to receipts of the one before.
		if err := w.reload(ctx); err != nil {
			return err
		}
	}
	g, err := w.seal(ctx, b)
	if err != nil {
		return err
	}
	err = w.v.st.Put(ctx, g.key, g.buf)
	w.v.recycle(g.buf)
	if errors.Is(err, ErrExists) {
		return ErrConflict
	}
	if err != nil {
		return err
	}
	if time.Now().Round(0).Sub(began) > trusted {
		// We were held up on the way. What the vault holds now decides.
		if err := w.reload(ctx); err != nil {
			return err
		}
		if !w.state.contains(Position{b.Epoch, b.Last}) || w.state.head.Position == (Position{b.Epoch, b.Last}) && w.state.head.Hash != b.Hash {
			return ErrConflict
		}
		return nil
	}
	w.checked = began
	if err := w.step(g.segment); err != nil {
		return err
	}
	w.stand()
	return nil
}

// sealed is a segment that the store does not have yet.
type sealed struct {
	key     string
	buf     []byte
	segment *segment
}

// seal makes the segment of a batch that continues the state.
func (w *DiskWriter) seal(ctx context.Context, b *Batch) (*sealed, error) {
	s := w.state // only who holds the turn changes it
	if err := s.admit(b); err != nil {
		return nil, err
	}
	key, err := w.v.makeDiskKey(ctx, w.id)
	if err != nil {
		return nil, err
	}
	p, err := planBatch(b, s.table, s.head.Size, s.head.Digest)
	if err != nil {
		return nil, err
	}
	t := s.trailer(b, p)
	var buf []byte
	select {
	case buf = <-w.v.buffers:
	default:
	}
	d, r := &disk{v: w.v, id: w.id, key: key}, segmentRef{epoch: t.Epoch, first: t.First}
	if buf, err = d.write(buf[:0], r, p, t); err != nil {
		return nil, err
	}
	return &sealed{key: d.keyOf(r), buf: buf, segment: &segment{Trailer: t, frames: p.frames, sums: p.sums}}, nil
}

// recycle keeps a segment's buffer for the next.
func (v *Vault) recycle(buf []byte) {
	if cap(buf) <= maxBuffer {
		select {
		case v.buffers <- buf:
		default:
		}
	}
}

// step makes s part of the state.
func (w *DiskWriter) step(s *segment) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state.step(s)
}

// stand says that all of the state is durable.
func (w *DiskWriter) stand() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.head = w.state.head
}

func (w *DiskWriter) reload(ctx context.Context) error {
	// What we are about to adopt, and to call safe, may come from a writer that died
	// before it made it durable.
	if s, ok := w.v.st.(store.Syncer); ok {
		if err := s.Sync(ctx, segmentsPrefix(w.id)); err != nil {
			return err
		}
	}
	d, err := w.v.disk(ctx, w.id)
	if errors.Is(err, ErrNotFound) {
		if err := w.expectNothing(ctx, err); err == nil || !errors.Is(err, ErrDamaged) {
			return err
		}
		// Another writer may have begun the disk between the two looks. It put the key
		// before the segment that was seen, so a second look for the key decides.
		if d, err = w.v.disk(ctx, w.id); errors.Is(err, ErrNotFound) {
			return w.expectNothing(ctx, err)
		}
	}
	if err != nil {
		return err
	}
	began := time.Now().Round(0)
	err = steady(func() error {
		h, err := d.history(ctx)
		if err != nil || len(h) == 0 {
			return err
		}
		head, err := d.head(ctx, h)
		if err != nil {
			return err
		}
		line, err := d.lineage(ctx, h, head)
		if err != nil {
			return err
		}
		return w.adopt(ctx, d, line)
	})
	if err == nil {
		w.checked = began
		w.stand()
	}
	return err
}

// expectNothing makes sure that a disk without a key has no segments either: a lost
// key must not look like a new disk.
func (w *DiskWriter) expectNothing(ctx context.Context, missing error) error {
	return w.v.st.List(ctx, segmentsPrefix(w.id), func(i store.Info) error {
		return damaged(diskKeyKey(w.id), contradiction("there is %s, but: %v", i.Key, missing))
	})
}

// adopt takes over a lineage: what is new since head if head is in it, else all.
func (w *DiskWriter) adopt(ctx context.Context, d *disk, line lineage) error {
	const want = partIndex | partSums
	if refs, ok := line.after(w.state.head.Position); ok && w.state.head.Epoch != 0 {
		return d.walk(ctx, w.state.last(d), refs, want, func(s *segment) error {
			return damaged(s.key, w.step(s))
		})
	}
	fresh, err := d.stateAt(ctx, line)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = fresh
	return nil
}
