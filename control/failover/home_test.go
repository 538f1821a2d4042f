package failover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/mastertarget"
	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/qemu"
	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// way is a machine on its way home, in this process.
type way struct {
	*testing.T
	b   *bus.Bus
	v   *vault.Vault
	l   *led
	log *slog.Logger
}

func newWay(t *testing.T) *way {
	s := world(t, "tick=B")
	srv := streamstest.StartWith(t, t.TempDir())
	w := &way{T: t, b: srv.Bus(), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	var err error
	if w.v, err = unlock(s.Vault, s.KeyFile); err != nil {
		t.Fatal(err)
	}
	p, err := process.New(w.b, w.v, process.Config{BatchBytes: 1 << 20, BatchAge: 50 * time.Millisecond, MemoryBytes: 64 << 20, Workers: 2},
		process.Options{Partitions: []int{streams.Partition("web", "sda")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Stop(context.Background()) })
	k, err := w.v.Point(t.Context(), "p1")
	if err != nil {
		t.Fatal(err)
	}
	all, err := open(t.Context(), w.v, &k.Machines[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(all.Close)
	lead := leading{Target: qemu.New(qemu.Config{PowerOff: 5 * time.Second}), vault: w.v, all: all, log: w.log,
		connect: func(ctx context.Context, o bus.Options) (*bus.Bus, error) {
			o.InProcess = srv
			return bus.Connect(ctx, o)
		}}
	r, err := lead.Start(t.Context(), machine(k, &k.Machines[0], all, Options{}), s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	w.l = r.(*led)
	t.Cleanup(func() {
		if err := w.l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *way) do(what string, in any) *Protected {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), longTime)
	defer cancel()
	b, err := json.Marshal(in)
	if err != nil {
		w.Fatal(err)
	}
	out, err := w.l.Do(ctx, what, b)
	if err != nil {
		w.Fatalf("%s: %v", what, err)
	}
	p := new(Protected)
	if err := json.Unmarshal(out, p); err != nil {
		w.Fatal(err)
	}
	return p
}

// marker returns the newest marker of the machine.
func (w *way) marker() *wire.Marker {
	w.Helper()
	st, err := w.b.JS.Stream(w.Context(), streams.Markers)
	if err != nil {
		w.Fatal(err)
	}
	m, err := st.GetLastMsgForSubject(w.Context(), streams.MarkersSubject("web"))
	if err != nil {
		w.Fatal(err)
	}
	k, err := wire.DecodeMarker(m.Data)
	if err != nil {
		w.Fatal(err)
	}
	return k
}

// disk returns the disk of a marker as its point would have it.
func (w *way) disk(k *wire.Marker) *vault.PointDisk {
	w.Helper()
	c := k.Members[0].Disks[0]
	d := &vault.PointDisk{Disk: c.Disk, At: vault.Position{Epoch: c.Epoch, Number: c.Number}, Size: c.Size}
	targettest.WaitFor(w, longTime, "the vault has the cut", func() bool {
		i, err := w.v.Cut(w.Context(), vault.DiskID{Machine: "web", Disk: "sda"}, d.At)
		if err != nil && !errors.Is(err, vault.ErrNotFound) {
			w.Fatal(err)
		}
		d.Digest = i.Digest
		return err == nil
	})
	return d
}

func (w *way) content() []byte {
	w.Helper()
	o := w.l.running.(guest).Overlay(0)
	b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
	if err != nil {
		w.Fatal(err)
	}
	return b
}

// A machine that runs at the recovery site is protected again and led home; it goes on
// when that is undone, and is led home once more by what changed.
func TestWayHome(t *testing.T) {
	t.Parallel()
	w := newWay(t)
	ctx := t.Context()
	if _, err := w.l.Probe(ctx, target.Probe{Serial: "tick=C", Timeout: longTime}); err != nil {
		t.Fatal(err)
	}
	how := Protection{Holder: "copy-1-web", Interval: 50 * time.Millisecond, Facts: wire.Facts{Firmware: "bios"}}
	w.do(DoProtect, how)
	w.do(DoProtect, how)
	targettest.WaitFor(t, longTime, "points of a machine that writes", func() bool { return w.do(DoTell, nil).Points > 2 })

	// At home the disk is as the machine left it, and nobody knows how that is.
	home := filepath.Join(t.TempDir(), "sda.img")
	if err := os.WriteFile(home, bytes.Repeat([]byte{7}, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := mastertarget.Open(ctx, mastertarget.Config{
		Vault: w.v, Disk: vault.DiskID{Machine: "web", Disk: "sda"}, Path: home, Other: true, StateDir: t.TempDir(), Size: 4 << 20, Log: w.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if b, err := m.Bring(ctx, w.disk(w.marker())); err != nil || !b.Whole {
		t.Fatalf("%+v, %v", b, err)
	}
	cutOver := func() {
		t.Helper()
		p := w.do(DoFinal, nil)
		if !p.Final || !p.Off || p.Point != w.marker().ID {
			t.Fatalf("the last point: %+v", p)
		}
		if again := w.do(DoFinal, nil); again.Point != p.Point {
			t.Errorf("asked twice, the last points are %s and %s", p.Point, again.Point)
		}
		d := w.disk(w.marker())
		b, err := m.Bring(ctx, d)
		if err != nil || b.Whole || b.Looked > 64<<10 {
			t.Fatalf("the last delta: %+v, %v", b, err)
		}
		if err := m.Verify(ctx, d); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(home)
		if err != nil || !bytes.Equal(got, w.content()) {
			t.Fatalf("at home the disk is another: %v", err)
		}
	}
	cutOver()
	before := w.content()
	w.do(DoAgain, nil)
	w.do(DoAgain, nil)
	targettest.WaitFor(t, longTime, "it goes on, and is protected", func() bool {
		return w.do(DoTell, nil).Points > 0 && !bytes.Equal(before, w.content())
	})
	// What was changed for the hardware here is taken back first, and does not go home.
	w.l.mu.Lock()
	fixed := &fixedRun{Run: w.l.running.(*qemu.Run)}
	w.l.running = fixed
	w.l.mu.Unlock()
	if _, err := w.l.Do(ctx, DoFinal, nil); !errors.Is(err, errNotYet) {
		t.Errorf("it goes home as it was changed here: %v", err)
	}
	cutOver()
	if got, err := os.ReadFile(home); err != nil || !bytes.Contains(got, []byte(asAtHome)) {
		t.Errorf("what was taken back last is not at home: %v", err)
	}
	w.do(DoUnprotect, nil)
	if p := w.do(DoTell, nil); p.On {
		t.Errorf("it is still published: %+v", p)
	}
}

// fixedRun is a machine whose disks were changed for the hardware here.
type fixedRun struct {
	*qemu.Run
	asked int
}

var errNotYet = errors.New("the helper is out")

const asAtHome = "as it was at home"

// Unfix fails at first.
func (r *fixedRun) Unfix(context.Context) ([]string, error) {
	if r.asked++; r.asked == 1 {
		return nil, errNotYet
	}
	_, err := r.Overlay(0).WriteAt([]byte(asAtHome), 2<<20)
	return []string{"/etc/fstab: as it was"}, err
}

// What cannot be led home says so.
func TestNoWayHome(t *testing.T) {
	l := &led{running: nil, leading: leading{Target: targetOfNothing{}}}
	for _, what := range []string{DoProtect, DoFinal, "dance"} {
		if _, err := l.Do(t.Context(), what, json.RawMessage("{}")); err == nil {
			t.Errorf("%s: it was done", what)
		}
	}
}

type targetOfNothing struct{ target.Target }

func (targetOfNothing) Name() string { return "nothing" }
