package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/home"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/rescue"
	"github.com/leeward-dr/leeward/streams/wire"
)

const (
	// pendingOrders bounds what waits to be done. A master target has a handful on the way.
	pendingOrders = 256
	pendingBytes  = 64 << 20
)

// Config of a Server.
type Config struct {
	Name    string // enrolled as
	Host    string
	Version string
	// Disks to be overwritten, by the name of the protected disk. They are held.
	Disks map[string]*home.Disk
	// Step, if set, is told how far the master target is with a disk, Done that a disk is as
	// at a point. One call at a time.
	Step func(disk string, s rescue.Step)
	Done func(disk, point string)
	Log  *slog.Logger // nil: silent
}

// Stats are counted since the start, in bytes.
type Stats struct{ Compared, Written, Zeroed, Received, Sent int64 }

// Server does what a master target says. Make it with New and run it once.
type Server struct {
	cfg     Config
	session rescue.ID
	hello   []byte
	zip     *zstd.Decoder
	conn    *nats.Conn

	mu    sync.Mutex
	owner rescue.ID
	busy  map[uint64]bool // orders that are being done
	stats Stats
	tell  sync.Mutex // one call at a time
	works sync.WaitGroup
}

// New prepares a server. The disks stay the caller's to close.
func New(cfg Config) (*Server, error) {
	if err := streams.ValidName("rescue", cfg.Name); err != nil {
		return nil, err
	}
	if len(cfg.Disks) == 0 {
		return nil, errors.New("a rescue without disks: name some with --disk")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	h := &rescue.Host{Name: cfg.Host, Version: cfg.Version}
	for name, d := range cfg.Disks {
		h.Disks = append(h.Disks, rescue.Disk{Disk: name, Path: d.Path(), Size: d.Size(), Block: d.IsBlock(), Identity: d.Identity()})
	}
	hello, err := rescue.EncodeHost(h)
	if err != nil {
		return nil, err
	}
	if _, err := rescue.ParseHost(hello); err != nil {
		return nil, err
	}
	zip, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(rescue.MaxData), zstd.WithDecoderConcurrency(0))
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, session: rescue.NewID(), hello: hello, zip: zip, busy: map[uint64]bool{}}, nil
}

// Stats returns what was done up to now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Server) count(add Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.stats
	t.Compared, t.Written, t.Zeroed = t.Compared+add.Compared, t.Written+add.Written, t.Zeroed+add.Zeroed
	t.Received, t.Sent = t.Received+add.Received, t.Sent+add.Sent
}

// Run does what it is told until ctx ends, and what it has begun then.
func (s *Server) Run(ctx context.Context, conn *nats.Conn) error {
	defer s.zip.Close()
	s.conn = conn
	ch := make(chan *nats.Msg, pendingOrders)
	sub, err := conn.ChanSubscribe(streams.RescueOrder(s.cfg.Name), ch)
	if err != nil {
		return fmt.Errorf("hear orders: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // the connection ends next
	if err := sub.SetPendingLimits(pendingOrders, pendingBytes); err != nil && !errors.Is(err, nats.ErrTypeSubscription) {
		return fmt.Errorf("hear orders: %w", err)
	}
	free := make(chan struct{}, max(2, min(8, runtime.GOMAXPROCS(0)*2)))
	defer s.works.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-ch:
			if !ok {
				return errors.New("the connection to the bus was closed")
			}
			s.take(ctx, m.Data, free)
		}
	}
}

// take begins an order, and does those that must not overtake or be overtaken.
func (s *Server) take(ctx context.Context, data []byte, free chan struct{}) {
	s.count(Stats{Received: int64(len(data))})
	o, err := rescue.ParseOrder(data)
	if err != nil {
		s.cfg.Log.Warn("an order cannot be understood", "err", err)
		return
	}
	switch o.Kind {
	case rescue.Hello:
		s.works.Wait() // of the one before
		s.mu.Lock()
		fresh := s.owner != o.Owner
		s.owner = o.Owner
		s.mu.Unlock()
		if fresh {
			s.cfg.Log.Info("a master target has taken over")
		}
		s.report(o, rescue.OK, s.hello)
		return
	case rescue.Sync, rescue.Done:
		s.works.Wait()
	}
	if status := s.may(o); status != rescue.OK {
		s.report(o, status, nil)
		return
	}
	if !s.begin(o) {
		return // it is being done, and reported on then
	}
	free <- struct{}{}
	s.works.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.busy, o.ID)
			s.mu.Unlock()
			<-free
		}()
		body, err := s.do(ctx, o)
		switch {
		case err != nil:
			s.cfg.Log.Warn("an order failed", "kind", int(o.Kind), "disk", o.Disk, "err", err)
			s.report(o, rescue.Failed, []byte(err.Error()))
		case o.Kind != rescue.Progress:
			s.report(o, rescue.OK, body)
		}
	})
}

// may says whether the order is for this process, by the one who may give any.
func (s *Server) may(o *rescue.Order) rescue.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case o.Session != s.session:
		return rescue.Anew
	case o.Owner != s.owner:
		return rescue.Taken
	}
	return rescue.OK
}

// begin reports whether nobody does the order yet.
func (s *Server) begin(o *rescue.Order) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.Kind == rescue.Progress {
		return true
	}
	was := s.busy[o.ID]
	s.busy[o.ID] = true
	return !was
}

func (s *Server) report(o *rescue.Order, status rescue.Status, body []byte) {
	p := rescue.Report{Kind: o.Kind, Status: status, ID: o.ID, Session: s.session, Body: body}
	m := p.Encode()
	if err := s.conn.Publish(streams.RescueReport(s.cfg.Name), m); err != nil {
		s.cfg.Log.Debug("a report was not sent: the order will come again", "err", err)
		return
	}
	s.count(Stats{Sent: int64(len(m))})
}

func (s *Server) do(ctx context.Context, o *rescue.Order) ([]byte, error) {
	d := s.cfg.Disks[o.Disk]
	if d == nil {
		return nil, fmt.Errorf("no disk of this rescue was chosen for %s", o.Disk)
	}
	switch o.Kind {
	case rescue.Compare:
		return s.compare(ctx, d, o.Body)
	case rescue.Write:
		return nil, s.write(d, o.Body)
	case rescue.Zero:
		return nil, s.zero(d, o.Body)
	case rescue.Sync:
		return nil, d.Sync()
	case rescue.Progress:
		step, err := rescue.ParseStep(o.Body)
		if err == nil && s.cfg.Step != nil {
			s.tell.Lock()
			defer s.tell.Unlock()
			s.cfg.Step(o.Disk, *step)
		}
		return nil, err
	case rescue.Done:
		if s.cfg.Done != nil {
			s.tell.Lock()
			defer s.tell.Unlock()
			s.cfg.Done(o.Disk, rescue.Text(o.Body))
		}
		return nil, nil
	}
	return nil, fmt.Errorf("kind %d is not for a disk", o.Kind)
}

// buffers are as large as a comparison can be.
var buffers = sync.Pool{New: func() any { b := disk.AlignedBuffer(rescue.MaxBlocks * wire.BlockSize); return &b }}

func (s *Server) compare(ctx context.Context, d *home.Disk, body []byte) ([]byte, error) {
	q, err := rescue.ParseQuestion(body)
	if err != nil {
		return nil, err
	}
	if q.Size > d.Size() {
		return nil, fmt.Errorf("%s has %d bytes, not %d", d.Path(), d.Size(), q.Size)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	sums := make([]wire.Sum, q.Count)
	if err := d.Sums(ctx, q.Start, q.Size, sums, *buf); err != nil {
		return nil, err
	}
	s.count(Stats{Compared: int64(q.Count) * wire.BlockSize})
	return q.Answer(sums), nil
}

// fits reports why extents are not of the disk. Their sums do not overflow.
func fits(d *home.Disk, all []rescue.Extent) error {
	for _, e := range all {
		if e.Offset+e.Length > d.Size() {
			return fmt.Errorf("bytes %d+%d are beyond the end of %s at %d", e.Offset, e.Length, d.Path(), d.Size())
		}
	}
	return nil
}

func (s *Server) write(d *home.Disk, body []byte) error {
	all, packed, err := rescue.ParseExtents(rescue.Write, body)
	if err != nil {
		return err
	}
	if err := fits(d, all); err != nil {
		return err
	}
	want := 0
	for _, e := range all {
		want += int(e.Length)
	}
	data, err := s.zip.DecodeAll(packed, make([]byte, 0, want))
	if err != nil || len(data) != want {
		return fmt.Errorf("unpack %d bytes: got %d: %w", want, len(data), errors.Join(err, io.ErrUnexpectedEOF))
	}
	for _, e := range all {
		if err := d.WriteAt(data[:e.Length], int64(e.Offset)); err != nil {
			return fmt.Errorf("write %s: %w", d.Path(), err)
		}
		data = data[e.Length:]
	}
	s.count(Stats{Written: int64(want)})
	return nil
}

func (s *Server) zero(d *home.Disk, body []byte) error {
	all, rest, err := rescue.ParseExtents(rescue.Zero, body)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes behind the extents of an order", len(rest))
	}
	if err == nil {
		err = fits(d, all)
	}
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := d.Zero(int64(e.Offset), int64(e.Length)); err != nil {
			return fmt.Errorf("zero %s: %w", d.Path(), err)
		}
		s.count(Stats{Zeroed: int64(e.Length)})
	}
	return nil
}
