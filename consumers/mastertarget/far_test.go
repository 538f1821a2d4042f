package mastertarget

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/agent/disk/home"
	server "github.com/leeward-dr/leeward/agent/rescue"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/rescue"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// away is a rescue that has the site's disk, and the bus between.
type away struct {
	*testing.T
	s    *site
	bus  *streamstest.Server
	name string
	over atomic.Int64 // bytes of orders and reports

	mu   sync.Mutex
	said []string
}

func newAway(t *testing.T, s *site) *away {
	a := &away{T: t, s: s, bus: streamstest.StartWith(t, t.TempDir()), name: "metal"}
	for _, subject := range []string{streams.RescueOrder(a.name), streams.RescueReport(a.name)} {
		if _, err := a.bus.Bus().Conn.Subscribe(subject, func(m *nats.Msg) { a.over.Add(int64(len(m.Data) + len(m.Subject))) }); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// start boots the rescue; stop is a failure of its power.
func (a *away) start() (stop func()) {
	a.Helper()
	d, err := home.Open(a.s.home)
	if err == nil {
		err = d.Hold()
	}
	if err != nil {
		a.Fatal(err)
	}
	r, err := server.New(server.Config{
		Name: a.name, Host: "live", Version: "1", Disks: map[string]*home.Disk{testDisk.Disk: d},
		Done: func(disk, point string) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.said = append(a.said, disk+" "+point)
		},
	})
	if err != nil {
		a.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	b := a.bus.Connect("rescue")
	go func() { done <- r.Run(ctx, b.Conn) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			a.Error(err)
		}
		d.Close()
		b.Close()
	})
	a.Cleanup(stop)
	return stop
}

func (a *away) reach() *Rescue {
	a.Helper()
	r, err := Reach(a.Context(), a.bus.Bus().Conn, a.name, nil)
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { r.Close() })
	return r
}

func (a *away) open(r *Rescue, change ...func(*Config)) *Master {
	a.Helper()
	return a.s.open(a.T, append([]func(*Config){func(c *Config) { c.Rescue, c.Path = r, "" }}, change...)...)
}

// Of a disk in another machine only what differs crosses, and it is verified to the last
// byte; when that machine is started anew what was synced is not sent again.
func TestRescue(t *testing.T) {
	t.Parallel()
	s := newSite(t, 96<<20+1000)
	r := rand.New(rand.NewPCG(7, 7))
	first := s.cut(t, s.identity(t), s.scribble(r, 0.6)...)
	old := bytes.Clone(s.image)
	changed := int64(0)
	for i := 0; i < len(old); i += block {
		if r.Float64() < 0.02 && old[i] != 0 { // what should be zeros need not cross
			old[i]++
			changed += block
		}
	}
	if err := os.WriteFile(s.home, old, 0o600); err != nil {
		t.Fatal(err)
	}
	a := newAway(t, s)
	stop := a.start()
	far := a.reach()
	windows := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := a.open(far, func(c *Config) {
		c.Progress = func(what string, _, _ int64) {
			if windows++; windows == 3 {
				stop()
				time.AfterFunc(2*time.Second, cancel) // it would wait for a rescue that is gone
			}
		}
	})
	m.window = 4096
	if _, err := m.Bring(ctx, first); err == nil || !errors.Is(err, ErrAnew) && !errors.Is(err, context.Canceled) {
		t.Fatalf("its power failed: %v", err)
	}
	m.Close()
	stop = a.start()
	m = a.open(a.reach())
	b, err := m.Bring(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if b.Whole || b.Looked > 90<<20 {
		t.Errorf("three windows of 16 MiB were known: %+v", b)
	}
	if err := m.Verify(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := m.Finish(t.Context(), "p1"); err != nil {
		t.Fatal(err)
	}
	s.same(t, first)
	if got := a.over.Load(); float64(got) > 1.2*float64(changed) {
		t.Errorf("%d bytes crossed for %d that differed", got, changed)
	} else {
		t.Logf("%d bytes crossed for %d that differed: %.3f", got, changed, float64(got)/float64(changed))
	}
	a.mu.Lock()
	if strings.Join(a.said, ",") != "sda p1" {
		t.Errorf("the rescue was told %v", a.said)
	}
	a.mu.Unlock()

	next := s.cut(t, "", s.scribble(r, 0.02)...)
	if b, err = m.Bring(t.Context(), next); err != nil || b.Whole {
		t.Errorf("a delta: %+v, %v", b, err)
	}
	s.same(t, next)

	// What somebody else wrote is found from here, too.
	f, err := os.OpenFile(s.home, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("zombie"), 1<<20)
	f.Close()
	if err := m.Verify(t.Context(), next); !errors.Is(err, ErrDiffers) {
		t.Fatalf("verify: %v", err)
	}

	// Whoever said hello last writes, and nobody else.
	other := a.reach()
	if _, err := m.Bring(t.Context(), first); !errors.Is(err, ErrRefused) {
		t.Errorf("another master target has the disk: %v", err)
	}
	if _, err := a.open(other).Bring(t.Context(), first); err != nil {
		t.Error(err)
	}
	s.same(t, first)

	// A rescue that was started anew is not taken for the one before.
	m = a.open(a.reach())
	stop()
	a.start()
	if _, err := m.Bring(t.Context(), next); !errors.Is(err, ErrAnew) {
		t.Errorf("started anew: %v", err)
	}
}

// A new disk gets everything, in messages of full size.
func TestRescueNewDisk(t *testing.T) {
	t.Parallel()
	s := newSite(t, 9<<20+1000)
	p := s.cut(t, s.identity(t), s.scribble(rand.New(rand.NewPCG(8, 8)), 1)...)
	a := newAway(t, s)
	a.start()
	m := a.open(a.reach())
	if _, err := m.Bring(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(t.Context(), p); err != nil {
		t.Error(err)
	}
	s.same(t, p)
}

// What does not fit, or was not chosen, is not written to.
func TestRescueRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t, 4<<20)
	s.cut(t, s.identity(t), 0, 1, 2)
	a := newAway(t, s)
	a.start()
	far := a.reach()
	for what, change := range map[string]func(*Config){
		"has 4194304 bytes":  func(c *Config) { c.Size = 8 << 20 },
		"no disk was chosen": func(c *Config) { c.Disk.Disk = "sdb" },
	} {
		if _, err := s.try(func(c *Config) { c.Rescue = far }, change); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Reach(t.Context(), a.bus.Bus().Conn, "a.*", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("all of them: %v", err)
	}
	// Orders for what is not the disk do no harm, and are answered.
	x := &far2{far}
	for what, o := range map[string]*rescue.Order{
		"beyond the end":  {Kind: rescue.Zero, Disk: "sda", Body: rescue.EncodeExtents(rescue.Zero, []rescue.Extent{{Offset: 4 << 20, Length: 1}})},
		"no disk of this": {Kind: rescue.Sync, Disk: "sdb"},
		"unpack":          {Kind: rescue.Write, Disk: "sda", Body: append(rescue.EncodeExtents(rescue.Write, []rescue.Extent{{Length: 4096}}), 1, 2, 3)},
		"has 4194304":     {Kind: rescue.Compare, Disk: "sda", Body: (&rescue.Question{Size: 8 << 20, Count: 1, Group: 1, Tags: make([]rescue.Tag, 1)}).Encode()},
	} {
		if _, err := x.do(t.Context(), o, time.Minute); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// far2 is a rescue that is given orders by hand.
type far2 struct{ *Rescue }
