package fleet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// TestMain lets this binary be the agent's freeze guard, and run a fleet.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && slices.Contains([]string{childWord, rescueWord, poolsWord}, os.Args[1]) {
		os.Exit(child(os.Args[1], os.Args[2]))
	}
	if len(os.Args) == 2 && os.Args[1] == "guard" {
		os.Exit(quiesce.GuardMain())
	}
	os.Exit(m.Run())
}

// powered is one NATS server on a disk whose power fails, with an agent and a process
// server that live on.
type powered struct {
	t      *testing.T
	ctx    context.Context
	rig    *rig.Rig
	disk   *store
	at     string // address of the server
	server *embed.Server
	inside *bus.Bus
	vault  *vault.Vault
	id     vault.DiskID
	image  string
	worker *process.Server
}

// A server that loses its power loses the tail of the stream. The chain shows it and
// the agent sends those ranges again: the vault ends up with the disk, nothing is
// compared as a whole.
func TestPowerFailure(t *testing.T) {
	if m := rig.Missing("ext4"); m != "" {
		if rig.Root() || os.Getenv("CI") == "true" {
			t.Fatal(m)
		}
		t.Skip(m)
	}
	p := newPowered(t)
	p.work()
	stop := p.protect()
	defer stop()
	p.write(0)
	p.same("the first copy")
	lost := uint64(0)
	for try := 0; try < 8 && lost == 0; try++ {
		p.rest()
		before := p.last()
		p.await("changes that no disk has yet", func() bool { p.write(1 + try); return p.last() > before+2 })
		before = p.last()
		p.fail()
		after := p.last() // the agent may have published since: then it was more
		if after < before {
			lost = before - after
		}
		p.work()
		p.write(100 + try)
		p.same("what was written around a power failure")
	}
	if lost == 0 {
		t.Error("no power failure has cost a message: nothing was tried")
	}
	gaps, resyncs := p.events("gap"), p.events("resync")
	t.Logf("%d messages lost, %d gaps, %d resyncs", lost, gaps, resyncs)
	if gaps == 0 || resyncs != 0 {
		t.Errorf("%d gaps were told of and %d disks were compared as a whole, want some and none", gaps, resyncs)
	}
}

func newPowered(t *testing.T) *powered {
	r, err := rig.New(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Minute)
	p := &powered{t: t, ctx: ctx, rig: r, disk: &store{}, id: vault.DiskID{Machine: "web", Disk: "sda"}, image: filepath.Join(r.Dir, "sda.img")}
	t.Cleanup(func() {
		p.rest()
		if p.server != nil {
			_ = p.server.Stop(ctx) // its disk may be gone
		}
		cancel()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	file, err := r.File("nats.img", 1200<<20)
	p.must(err)
	p.disk.dev, err = r.Loop(ctx, file)
	p.must(err)
	p.must(rig.Mkfs(ctx, "ext4", p.disk.dev))
	p.disk.dir, p.disk.unmount, err = r.Mount(ctx, "nats", "ext4", p.disk.dev, "")
	p.must(err)
	p.at, err = product.FreeAddress()
	p.must(err)
	st, err := vault.OpenStore("dir://"+filepath.Join(r.Dir, "vault"), true)
	p.must(err)
	p.vault, err = vault.Create(ctx, st, vault.KeyFromPassphrase("correct horse battery staple"))
	p.must(err)
	noise := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	p.must(os.WriteFile(p.image, noise, 0o600))
	p.up()
	return p
}

func (p *powered) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *powered) dir() string { return filepath.Join(p.disk.dir, "site") }

// up starts the server.
func (p *powered) up() {
	p.t.Helper()
	cfg := embed.Default()
	cfg.Dir, cfg.Listen = p.dir(), p.at
	var err error
	p.server, err = embed.Start(p.ctx, cfg)
	p.must(err)
	p.inside, err = p.server.Connect(p.ctx, embed.Admin)
	p.must(err)
	p.must(streams.Ensure(p.ctx, p.inside.JS, p.server.Streams()))
}

// fail takes the power away and gives it back.
func (p *powered) fail() {
	p.t.Helper()
	p.must(rig.PowerOff(p.disk.dir))
	_ = p.server.Stop(p.ctx) // it cannot write any more
	p.server = nil
	p.must(p.disk.on(p.ctx, p.rig, "nats"))
	p.up()
}

// work starts the process server, rest stops it.
func (p *powered) work() {
	p.t.Helper()
	var err error
	p.worker, err = process.New(p.inside, p.vault, process.Default(), process.Options{Partitions: []int{streams.Partition(p.id.Machine, p.id.Disk)}})
	p.must(err)
	p.must(p.worker.Start(p.ctx))
}

func (p *powered) rest() {
	if p.worker != nil {
		if err := p.worker.Stop(p.ctx); err != nil {
			p.t.Log(err)
		}
		p.worker = nil
	}
}

// protect runs an agent.
func (p *powered) protect() (stop func()) {
	p.t.Helper()
	self, err := os.Executable()
	p.must(err)
	b, err := bus.Connect(p.ctx, bus.Options{Name: "agent", Context: product.Context(p.dir(), "agent")})
	p.must(err)
	cfg := agent.Default()
	cfg.Machine, cfg.Disks = p.id.Machine, []agent.DiskConfig{{Path: p.image, Name: p.id.Disk}}
	cfg.Capture, cfg.Interval, cfg.StateDir, cfg.GuardCommand = "scan", 100*time.Millisecond, filepath.Join(p.rig.Dir, "state"), []string{self, "guard"}
	a, err := agent.New(p.ctx, cfg, b, slog.New(slog.DiscardHandler))
	p.must(err)
	ctx, cancel := context.WithCancel(p.ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			p.t.Error(err)
		}
		a.Close()
		b.Close()
	}
}

// write changes some blocks of the disk; what depends on n.
func (p *powered) write(n int) {
	p.t.Helper()
	f, err := os.OpenFile(p.image, os.O_WRONLY, 0)
	p.must(err)
	defer f.Close()
	b := make([]byte, wire.BlockSize)
	rnd := rand.NewChaCha8([32]byte{byte(n), 1})
	for i := range 20 {
		rnd.Read(b)
		_, err := f.WriteAt(b, int64((n*31+i*97)%2048)*wire.BlockSize)
		p.must(err)
	}
}

// await waits for something that must happen.
func (p *powered) await(what string, ok func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 3*time.Minute)
	defer cancel()
	if err := rig.Poll(ctx, 20*time.Millisecond, func() (bool, error) { return ok(), nil }); err != nil {
		p.t.Fatalf("waited for %s: %v", what, err)
	}
}

// last is the number of the newest message of CHANGES.
func (p *powered) last() uint64 {
	p.t.Helper()
	s, err := p.inside.JS.Stream(p.ctx, streams.Changes)
	p.must(err)
	return s.CachedInfo().State.LastSeq
}

// events counts the events of one kind.
func (p *powered) events(kind string) uint64 {
	p.t.Helper()
	s, err := p.inside.JS.Stream(p.ctx, streams.Events)
	p.must(err)
	i, err := s.Info(p.ctx)
	p.must(err)
	n := uint64(0)
	for seq := i.State.FirstSeq; seq <= i.State.LastSeq; seq++ {
		m, err := s.GetMsg(p.ctx, seq)
		if err == nil && m.Subject == streams.EventsSubject(p.id.Machine, kind) {
			n++
		}
	}
	return n
}

// same waits until the vault holds what the disk holds.
func (p *powered) same(what string) {
	p.t.Helper()
	want, err := os.ReadFile(p.image)
	p.must(err)
	p.await(what+" in the vault", func() bool {
		w, err := p.vault.OpenDisk(p.ctx, p.id)
		p.must(err)
		if w.Head().Number < 2 {
			return false
		}
		rd, err := p.vault.OpenAt(p.ctx, p.id, w.Head().Position, vault.ReaderOptions{})
		p.must(err)
		defer rd.Close()
		got := make([]byte, rd.Size())
		if _, err := rd.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
			p.t.Fatal(err)
		}
		return bytes.Equal(got, want)
	})
}
