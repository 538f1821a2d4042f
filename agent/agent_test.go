package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/hooks"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "guard" {
		os.Exit(quiesce.GuardMain())
	}
	if len(os.Args) == 2 && os.Args[1] == "hook-keeper" {
		os.Exit(hooks.KeeperMain())
	}
	os.Exit(m.Run())
}

func quiet(t *testing.T) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// image makes an image file with random blocks in its first half.
func image(t *testing.T, blocks int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	b := make([]byte, blocks*wire.BlockSize-512) // the last block is short
	rand.NewChaCha8([32]byte{9}).Read(b[:len(b)/2])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func change(t *testing.T, path string, block int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), block*wire.BlockSize); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func config(t *testing.T, path string) Config {
	c := Default()
	c.Machine, c.Disks = "m", []DiskConfig{{Path: path, Name: "d"}}
	c.StateDir, c.Interval, c.Capture = t.TempDir(), 100*time.Millisecond, "scan"
	return c
}

// start runs an agent until the test or the returned function ends it.
func start(t *testing.T, cfg Config, b *bus.Bus) (stop func() error) {
	t.Helper()
	a, err := New(t.Context(), cfg, b, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	var once bool
	stop = func() error {
		if once {
			return nil
		}
		once = true
		cancel()
		err := <-done
		a.Close()
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

func (r *receiver) hasCut(sum [32]byte) bool {
	return get(r, func() bool {
		for _, c := range r.cuts {
			if c == sum {
				return true
			}
		}
		return false
	})
}

func TestCopiesThenFollows(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 3000)
	start(t, config(t, path), b)
	until(t, "a cut equal to the disk", func() bool { return r.hasCut(sumOf(t, path)) })
	first := get(r, func() int { return r.bytes })
	for i := range 5 {
		change(t, path, int64(10*i+2700), "changed "+string(rune('a'+i)))
		until(t, "a cut with the change", func() bool { return r.hasCut(sumOf(t, path)) })
	}
	if more := get(r, func() int { return r.bytes }) - first; more > 20*wire.BlockSize {
		t.Errorf("5 changed blocks cost %d bytes", more)
	}
	if n := get(r, func() int { return len(r.opens) }); n != 1 {
		t.Errorf("%d epochs for one undisturbed run", n)
	}
}

func TestLostLinksAreSentAgain(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 3000)
	start(t, config(t, path), b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	before := get(r, func() int { r.drop = 1; return r.bytes })
	change(t, path, 7, "this link will be lost")
	until(t, "a cut with the lost change", func() bool { return r.hasCut(sumOf(t, path)) })
	opens := get(r, func() []wire.Open { return r.opens })
	if len(opens) != 2 || !strings.HasPrefix(opens[1].Reason, "resend") {
		t.Fatalf("epochs: %+v, want a second one for the resend", opens)
	}
	if again := get(r, func() int { return r.bytes }) - before; again > 10*wire.BlockSize {
		t.Errorf("one lost block cost %d bytes: the whole disk was sent again", again)
	}
}

func TestRestartSendsOnlyDifferences(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 3000)
	cfg := config(t, path)
	stop := start(t, cfg, b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	change(t, path, 1234, "while nobody looked")
	before := get(r, func() int { return r.bytes })
	start(t, cfg, b)
	until(t, "a cut with what changed meanwhile", func() bool { return r.hasCut(sumOf(t, path)) })
	if d := get(r, func() int { return r.bytes }) - before; d != wire.BlockSize {
		t.Errorf("one block changed while the agent was down, %d bytes were sent", d)
	}
}

func TestFencedAgentStops(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 100)
	a, err := New(t.Context(), config(t, path), b, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	done := make(chan error, 1)
	go func() { done <- a.Run(t.Context()) }()
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	get(r, func() bool { r.epoch += 5; r.last = 1; r.send(&wire.Receipt{Machine: "m", Disk: "d"}); return true })
	if err := <-done; !errors.Is(err, ErrFenced) {
		t.Fatalf("the agent went on after a newer epoch: %v", err)
	}
}

func TestSecondAgentIsRefused(t *testing.T) {
	b := streamstest.Start(t)
	receive(t.Context(), t, b, "m", "d")
	path := image(t, 100)
	start(t, config(t, path), b)
	cfg := config(t, path) // another state directory: only the lease can tell
	_, err := New(t.Context(), cfg, b, quiet(t))
	if !errors.Is(err, bus.ErrHeld) {
		t.Fatalf("a second agent was let in: %v", err)
	}
}

func TestConfigErrorsNameTheField(t *testing.T) {
	ok := Default()
	ok.Machine, ok.Disks = "m", []DiskConfig{{Path: "/dev/sda", Name: "sda"}}
	if err := ok.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, f := range map[string]func(*Config){
		"machine":      func(c *Config) { c.Machine = "a b" },
		"group":        func(c *Config) { c.Group = "." },
		"no disk":      func(c *Config) { c.Disks = nil },
		"twice":        func(c *Config) { c.Disks = append(c.Disks, c.Disks[0]) },
		"capture":      func(c *Config) { c.Capture = "magic" },
		"interval":     func(c *Config) { c.Interval = 0 },
		"freeze-limit": func(c *Config) { c.FreezeLimit = time.Hour },
		"freeze-bytes": func(c *Config) { c.FreezeBytes = 1 },
		"rounds":       func(c *Config) { c.Rounds = 0 },
		"window-bytes": func(c *Config) { c.WindowBytes = 1 },
		"compress-at":  func(c *Config) { c.CompressAt = "nowhere" },
		"scan-rate":    func(c *Config) { c.ScanRate = 1000 },
		"app-interval": func(c *Config) { c.Apps.Hooks, c.Apps.Interval = make([]hooks.Hook, 1), 0 },
		"hook-hold":    func(c *Config) { c.Apps.Hooks, c.Apps.Hold = make([]hooks.Hook, 1), time.Hour },
		"state-dir":    func(c *Config) { c.StateDir = "" },
	} {
		c := ok
		f(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", want, err)
		}
	}
}

func TestParseDisk(t *testing.T) {
	for in, want := range map[string]DiskConfig{
		"/dev/sda":        {"/dev/sda", "sda"},
		"/dev/sda=system": {"/dev/sda", "system"},
		"/a/b/my.img":     {"/a/b/my.img", "my-img"},
		"system=/dev/sda": {"/dev/sda", "system"},
	} {
		if got, err := ParseDisk(in); err != nil || got != want {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "=x", "/dev/sda=", "/dev/sda=a b"} {
		if d, err := ParseDisk(in); err == nil {
			t.Errorf("%q is taken as %+v", in, d)
		}
	}
}

func TestLostOpenIsRepeated(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 300)
	stop := start(t, config(t, path), b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	get(r, func() bool { r.loseOpen = true; return true })
	change(t, path, 5, "while the agent was down")
	start(t, config(t, path), b)
	until(t, "a cut in a later epoch", func() bool { return r.hasCut(sumOf(t, path)) })
	if e := get(r, func() uint64 { return r.epoch }); e != 3 {
		t.Errorf("epoch is %d: the lost open was epoch 2, the repeat should be 3", e)
	}
}

// A vault that stands before what it had confirmed, restored from a backup for example,
// lacks what the agent has forgotten: the disk is compared, with that reason.
func TestVaultThatForgot(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := image(t, 300)
	start(t, config(t, path), b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	var image map[uint64][]byte
	last, hash := get(r, func() uint64 { image = maps.Clone(r.image); return r.last }), get(r, func() wire.Hash { return r.hash })
	change(t, path, 5, "confirmed, forgotten, and lost")
	until(t, "the second cut", func() bool { return r.hasCut(sumOf(t, path)) })
	get(r, func() bool {
		r.image, r.last, r.hash = image, last, hash
		clear(r.cuts)
		r.send(&wire.Receipt{Machine: "m", Disk: "d", Resend: true, Reason: "restored from a backup"})
		return true
	})
	until(t, "a cut with what was lost", func() bool { return r.hasCut(sumOf(t, path)) })
}
