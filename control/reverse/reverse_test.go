package reverse_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/reverse"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/control/vaulttest"
	"github.com/leeward-dr/leeward/producers/blocks"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

const patience = 2 * time.Minute

var sda = vault.DiskID{Machine: "web1", Disk: "sda"}

// machine stands for one that runs at the recovery site: it writes to its disk unless it
// stands still.
type machine struct {
	t    *testing.T
	o    *overlay.Overlay
	mu   sync.Mutex
	seen map[int64][]byte // what its disk held when it stood still, by when
}

func (m *machine) write(r *rand.Rand, n int) {
	for range n {
		m.mu.Lock()
		off, length := r.Int64N(vaulttest.Size), 1+r.Int64N(6000)
		length = min(length, vaulttest.Size-off)
		var err error
		if r.IntN(4) == 0 {
			err = m.o.WriteZeroes(off, length)
		} else {
			_, err = m.o.WriteAt(bytes.Repeat([]byte{byte(1 + r.IntN(255))}, int(length)), off)
		}
		m.mu.Unlock()
		if err != nil {
			m.t.Error(err)
		}
	}
}

func (m *machine) pause(context.Context) (func() error, error) {
	m.mu.Lock()
	b, err := io.ReadAll(io.NewSectionReader(m.o, 0, m.o.Size()))
	if err != nil {
		m.t.Error(err)
	}
	m.seen[time.Now().UnixNano()] = b
	return sync.OnceValue(func() error { m.mu.Unlock(); return nil }), nil
}

// at returns what the disk held when a marker was cut: right before its time.
func (m *machine) at(k *wire.Marker) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var newest int64
	for at := range m.seen {
		if at <= k.Time {
			newest = max(newest, at)
		}
	}
	return m.seen[newest]
}

type site struct {
	*testing.T
	b *bus.Bus
	v *vaulttest.Vault
	m *machine
}

// newSite has a machine that was brought up from a point behind which its source had gone
// on for a while.
func newSite(t *testing.T) *site {
	s := &site{T: t, b: streamstest.Start(t), v: vaulttest.New(t)}
	base := s.v.Write(t, sda, "p1", "web1", true, map[int]byte{0: 1, 1: 2, 9: 3, 40: 4})
	s.v.Write(t, sda, "p2", "web1", false, map[int]byte{1: 7, 10: 8})
	s.v.Write(t, sda, "p3", "web1", true, map[int]byte{2: 9})
	p, err := process.New(s.b, s.v.Vault, process.Config{BatchBytes: 1 << 20, BatchAge: 50 * time.Millisecond, MemoryBytes: 64 << 20, Workers: 2}, process.Options{Partitions: []int{streams.Partition("web1", "sda")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	r, err := s.v.OpenAt(t.Context(), sda, base, vault.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	o, err := overlay.Open(r, filepath.Join(t.TempDir(), "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	s.m = &machine{t: t, o: o, seen: map[int64][]byte{}}
	return s
}

func (s *site) exporter(base vault.Position) *reverse.Exporter {
	s.Helper()
	e, err := reverse.New(reverse.Config{
		Machine: "web1", Facts: wire.Facts{Host: "web1", Firmware: "bios"}, Holder: "copy-1-web1",
		Disks: []reverse.Disk{{Name: "sda", Base: base, Overlay: s.m.o}}, Pause: s.m.pause,
		Interval: 20 * time.Millisecond, PauseLimit: patience, Log: slog.New(slog.NewTextHandler(s.Output(), nil)),
	}, s.b, s.v.Vault)
	if err != nil {
		s.Fatal(err)
	}
	return e
}

// run runs e until the result is called, which waits for its end.
func (s *site) run(e *reverse.Exporter) (stop func() error) {
	ctx, cancel := context.WithCancel(s.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func (s *site) until(what string, ok func() bool) {
	s.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("waited in vain: %s", what)
		}
	}
}

// same compares a point with what the machine's disk held.
func (s *site) same(k *wire.Marker) {
	s.Helper()
	c := k.Members[0].Disks[0]
	id := vault.DiskID{Machine: k.Members[0].Machine, Disk: c.Disk}
	at := vault.Position{Epoch: c.Epoch, Number: c.Number}
	s.until("the vault has the cut", func() bool {
		_, err := s.v.Cut(s.Context(), id, at)
		if err != nil && !errors.Is(err, vault.ErrNotFound) {
			s.Fatal(err)
		}
		return err == nil
	})
	r, err := s.v.OpenAt(s.Context(), id, at, vault.ReaderOptions{})
	if err != nil {
		s.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil || !bytes.Equal(got, s.m.at(k)) {
		s.Errorf("point %s is not the disk as it was: %v", k.ID, err)
	}
}

// marker returns the newest marker.
func (s *site) marker() *wire.Marker {
	s.Helper()
	st, err := s.b.JS.Stream(s.Context(), streams.Markers)
	if err != nil {
		s.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(s.Context(), streams.MarkersSubject("web1"))
	if err != nil {
		s.Fatal(err)
	}
	k, err := wire.DecodeMarker(m.Data)
	if err != nil {
		s.Fatal(err)
	}
	return k
}

var base = vault.Position{Epoch: 1, Number: 6}

// Each point is the disk at the instant when the machine stood still, whatever it wrote
// around it; one that follows a death sends only what the vault lacks.
func TestPointsOfAMachineThatWrites(t *testing.T) {
	s := newSite(t)
	r := rand.New(rand.NewPCG(1, 1))
	s.m.write(r, 20)
	e := s.exporter(base)
	stop := s.run(e)
	writing := make(chan struct{})
	var w sync.WaitGroup
	w.Go(func() {
		for r := rand.New(rand.NewPCG(2, 2)); ; {
			select {
			case <-writing:
				return
			case <-time.After(time.Millisecond):
				s.m.write(r, 5)
			}
		}
	})
	checked := map[string]bool{}
	for range 4 {
		n := e.Status().Points
		s.until("another point", func() bool { return e.Status().Points > n })
		k := s.marker()
		if checked[k.ID] {
			continue
		}
		checked[k.ID] = true
		s.same(k)
		if f := k.Members[0]; k.Frozen == 0 || f.Facts.Host != "web1" || !f.Disks[0].Frozen {
			t.Errorf("the marker is %+v", k)
		}
	}
	close(writing)
	w.Wait()
	n := e.Status().Points
	s.until("two points of a machine at rest", func() bool { return e.Status().Points > n+1 })
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	// The keeper died; another one knows only the overlay. Two blocks changed meanwhile.
	s.m.o.WriteAt([]byte("after the death"), 100)
	s.m.o.WriteAt([]byte("after the death"), 77777)
	e = s.exporter(base)
	stop = s.run(e)
	s.until("a point of the next exporter", func() bool { return e.Status().Points > 0 })
	if st := e.Status(); st.Sent != 2*vault.BlockSize || st.Compared < 10*vault.BlockSize {
		t.Errorf("two blocks had changed: %+v", st)
	}
	s.same(s.marker())

	s.m.write(r, 30)
	s.m.o.WriteAt([]byte("the end"), 5000)
	s.m.pause(nil)
	s.m.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	k, err := e.Final(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s.same(k)
	if st := e.Status(); !st.Final || st.Point != k.ID {
		t.Errorf("%+v", st)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// The epoch is lost on the way: another one makes it good.
func TestLostEpoch(t *testing.T) {
	s := newSite(t)
	s.m.write(rand.New(rand.NewPCG(3, 3)), 20)
	e := s.exporter(base)
	stop := s.run(e)
	s.until("a point", func() bool { return e.Status().Points > 0 })
	epoch := s.marker().Members[0].Disks[0].Epoch
	// What a process server says when links are missing.
	st, err := s.b.JS.Stream(t.Context(), streams.Receipts)
	if err != nil {
		t.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(t.Context(), streams.ReceiptsSubject("web1", "sda"))
	if err != nil {
		t.Fatal(err)
	}
	rc, err := wire.DecodeReceipt(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	s.m.write(rand.New(rand.NewPCG(4, 4)), 5)
	rc.Resend, rc.Reason, rc.Time, rc.Epoch, rc.Number = true, "a test says so", time.Now().UnixNano(), epoch, 1<<40
	b, err := wire.Encode(rc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.b.JS.Publish(t.Context(), streams.ReceiptsSubject("web1", "sda"), b); err != nil {
		t.Fatal(err)
	}
	s.until("a newer epoch", func() bool { return s.marker().Members[0].Disks[0].Epoch > epoch })
	s.same(s.marker())
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// Who comes later is the one who writes.
func TestFenced(t *testing.T) {
	s := newSite(t)
	e := s.exporter(base)
	done := make(chan error, 1)
	go func() { done <- e.Run(t.Context()) }()
	s.until("a point", func() bool { return e.Status().Points > 0 })
	epoch := s.marker().Members[0].Disks[0].Epoch
	p, err := blocks.Open(t.Context(), s.b.JS, "web1", "sda", epoch+1, &wire.Open{Size: vaulttest.Size, Capture: "scan", Instance: "other", Reason: "test"}, blocks.Options{})
	if err != nil && !errors.Is(err, blocks.ErrTaken) {
		t.Fatal(err)
	}
	for errors.Is(err, blocks.ErrTaken) { // the exporter published in between
		p, err = blocks.Open(t.Context(), s.b.JS, "web1", "sda", epoch+1, &wire.Open{Size: vaulttest.Size, Capture: "scan", Instance: "other", Reason: "test"}, blocks.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	select {
	case err := <-done:
		if !errors.Is(err, reverse.ErrFenced) {
			t.Errorf("run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on although somebody else writes")
	}
}

func TestConfig(t *testing.T) {
	s := newSite(t)
	pause := s.m.pause
	disk := reverse.Disk{Name: "sda", Base: base, Overlay: s.m.o}
	for name, c := range map[string]reverse.Config{
		"machine":  {Machine: "no such name!", Disks: []reverse.Disk{disk}, Pause: pause},
		"no disks": {Machine: "web1", Pause: pause},
		"no pause": {Machine: "web1", Disks: []reverse.Disk{disk}},
		"group":    {Machine: "web1", Group: "?", Disks: []reverse.Disk{disk}, Pause: pause},
	} {
		if _, err := reverse.New(c, s.b, s.v.Vault); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}
