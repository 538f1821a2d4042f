package mastertarget

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/rescue"
	"github.com/leeward-dr/leeward/streams/wire"
)

// ErrAnew means that the rescue was started again, or is gone: open the disks again, and
// bring them once more. What was synced before is known.
var ErrAnew = errors.New("the rescue was started anew or is gone")

const (
	// askAgain is how long an order waits for its report before it is sent again.
	askAgain = 5 * time.Second
	// helloTime is how long a rescue may take to answer at all.
	helloTime = 20 * time.Second
	// patience is how long a rescue may be silent: its network may be.
	patience = 3 * time.Minute
	// farPiece is 4 MiB: one question for each.
	farPiece = rescue.MaxBlocks
)

// Rescue is a machine that runs `leeward-agent rescue`. Close it after the masters that
// use it.
type Rescue struct {
	Name string

	conn  *nats.Conn
	log   *slog.Logger
	owner rescue.ID
	sub   *nats.Subscription
	zip   *zstd.Encoder

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan *rescue.Report
	host    *rescue.Host
	session rescue.ID
}

// Reach says hello to a rescue. Whoever else writes its disks may not any more.
func Reach(ctx context.Context, conn *nats.Conn, name string, log *slog.Logger) (*Rescue, error) {
	if err := streams.ValidName("rescue", name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	zip, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(workers), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return nil, err
	}
	r := &Rescue{Name: name, conn: conn, log: log, owner: rescue.NewID(), zip: zip, next: rand.Uint64(), waiting: map[uint64]chan *rescue.Report{}}
	r.sub, err = conn.Subscribe(streams.RescueReport(name), r.heard)
	if err != nil {
		return nil, fmt.Errorf("hear rescue %s: %w", name, err)
	}
	hello, cancel := context.WithTimeoutCause(ctx, helloTime, fmt.Errorf("no rescue %s answers: is `leeward-agent rescue` running there, and was it enrolled by that name?", name))
	defer cancel()
	p, err := r.do(hello, &rescue.Order{Kind: rescue.Hello}, time.Second)
	if err == nil {
		r.host, err = rescue.ParseHost(p.Body)
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.session = p.Session
	log.Info("a rescue answers", "rescue", name, "host", rescue.Text([]byte(r.host.Name)), "disks", len(r.host.Disks))
	return r, nil
}

// Close lets the rescue go. What it was told to write it may still write.
func (r *Rescue) Close() error {
	err := r.sub.Unsubscribe()
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) {
		err = nil
	}
	return errors.Join(err, r.zip.Close())
}

// heard hands a report to who waits for it. Others, and those that come twice, are nobody's.
func (r *Rescue) heard(m *nats.Msg) {
	p, err := rescue.ParseReport(m.Data)
	if err != nil {
		r.log.Warn("a rescue says what cannot be understood", "rescue", r.Name, "err", err)
		return
	}
	r.mu.Lock()
	ch := r.waiting[p.ID]
	delete(r.waiting, p.ID)
	r.mu.Unlock()
	if ch != nil {
		ch <- p // has room for one
	}
}

// do gives an order until it is reported on.
func (r *Rescue) do(ctx context.Context, o *rescue.Order, again time.Duration) (*rescue.Report, error) {
	ch := make(chan *rescue.Report, 1)
	r.mu.Lock()
	r.next++
	o.ID, o.Session, o.Owner = r.next, r.session, r.owner
	r.waiting[o.ID] = ch
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, o.ID)
		r.mu.Unlock()
	}()
	m := o.Encode()
	t := time.NewTicker(again)
	defer t.Stop()
	for began := time.Now(); ; {
		// While the bus is away publishing fails or is buffered: the next try may do.
		if err := r.conn.Publish(streams.RescueOrder(r.Name), m); err != nil {
			r.log.Debug("an order does not reach the bus", "rescue", r.Name, "err", err)
		}
		select {
		case p := <-ch:
			return p, r.judge(o, p)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-t.C:
			if time.Since(began) > patience {
				return nil, fmt.Errorf("rescue %s was silent for %v: %w", r.Name, patience, ErrAnew)
			}
		}
	}
}

// judge makes an error of a report that is none of success.
func (r *Rescue) judge(o *rescue.Order, p *rescue.Report) error {
	switch {
	case p.Status == rescue.Anew || p.Session != o.Session && o.Kind != rescue.Hello:
		return fmt.Errorf("rescue %s: %w", r.Name, ErrAnew)
	case p.Status == rescue.Taken:
		return fmt.Errorf("%w: another master target has taken rescue %s", ErrRefused, r.Name)
	case p.Status != rescue.OK:
		return fmt.Errorf("rescue %s: %s", r.Name, rescue.Text(p.Body))
	}
	return nil
}

// open returns a disk of the rescue, which was chosen there.
func (r *Rescue) open(_ context.Context, name string, size uint64) (*far, error) {
	i := slices.IndexFunc(r.host.Disks, func(d rescue.Disk) bool { return d.Disk == name })
	if i < 0 {
		return nil, fmt.Errorf("%w: at rescue %s no disk was chosen for %s: start it with --disk %s=PATH", ErrRefused, r.Name, name, name)
	}
	d := &r.host.Disks[i]
	if d.Size < size || d.Size > size && !d.Block {
		return nil, fmt.Errorf("%w: %s at rescue %s has %d bytes, disk %s has %d: choose another there", ErrRefused, rescue.Text([]byte(d.Path)), r.Name, d.Size, name, size)
	}
	return &far{r: r, d: d, size: size}, nil
}

// far is a disk in a rescue.
type far struct {
	r    *Rescue
	d    *rescue.Disk
	size uint64 // of the protected disk
}

// String is for people.
func (f *far) String() string {
	return fmt.Sprintf("rescue:%s:%s", f.r.Name, rescue.Text([]byte(f.d.Path)))
}

// identity is the disk's. That of an image is only good in one machine.
func (f *far) identity() string {
	if strings.HasPrefix(f.d.Identity, "file-") {
		return f.r.Name + "/" + f.d.Identity
	}
	return f.d.Identity
}

func (*far) piece() uint64 { return farPiece }

func (*far) buffer() []byte { return nil }

func (f *far) order(ctx context.Context, kind rescue.Kind, body []byte) (*rescue.Report, error) {
	return f.r.do(ctx, &rescue.Order{Kind: kind, Disk: f.d.Disk, Body: body}, askAgain)
}

func (f *far) sums(ctx context.Context, r run, want []vault.Sum, group uint32, _ []byte) ([]vault.Sum, error) {
	own := make([]wire.Sum, r.count)
	for i := range want {
		own[i] = wire.Sum(want[i])
	}
	q := &rescue.Question{Size: f.size, Start: r.start, Count: uint32(r.count), Group: group}
	for at := 0; at < len(own); at += int(group) {
		q.Tags = append(q.Tags, rescue.TagOf(own[at:min(at+int(group), len(own))]))
	}
	p, err := f.order(ctx, rescue.Compare, q.Encode())
	if err != nil {
		return nil, err
	}
	if err := q.Merge(own, p.Body); err != nil {
		return nil, err
	}
	return vaultSums(own), nil
}

func (f *far) write(ctx context.Context, to []rescue.Extent, data []byte) error {
	body := rescue.EncodeExtents(rescue.Write, to)
	_, err := f.order(ctx, rescue.Write, f.r.zip.EncodeAll(data, body))
	return err
}

func (f *far) zero(ctx context.Context, to []rescue.Extent) error {
	for part := range slices.Chunk(to, rescue.MaxExtents) {
		if _, err := f.order(ctx, rescue.Zero, rescue.EncodeExtents(rescue.Zero, part)); err != nil {
			return err
		}
	}
	return nil
}

func (f *far) sync(ctx context.Context) error {
	_, err := f.order(ctx, rescue.Sync, nil)
	return err
}

// dropCaches does nothing: a rescue reads past its caches, always.
func (*far) dropCaches() {}

func (f *far) done(ctx context.Context, point string) error {
	_, err := f.order(ctx, rescue.Done, []byte(point))
	return err
}

// progress tells also those who look at the rescue's screen.
func (f *far) progress(tell func(string, int64, int64)) func(string, int64, int64) {
	return func(what string, done, total int64) {
		if tell != nil {
			tell(what, done, total)
		}
		s := rescue.Step{Done: uint64(done), Total: uint64(total), What: what}
		o := rescue.Order{Kind: rescue.Progress, Session: f.r.session, Owner: f.r.owner, Disk: f.d.Disk, Body: s.Encode()}
		_ = f.r.conn.Publish(streams.RescueOrder(f.r.Name), o.Encode()) // what is not heard is said again
	}
}

func (*far) close() error { return nil }
