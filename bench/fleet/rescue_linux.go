package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/life"
)

// RescueOptions of a way home onto bare metal.
type RescueOptions struct {
	Size  int64   // bytes of the disk
	Fill  float64 // share of it that has contents
	Share float64 // of the disk that differs when it comes home
	Kill  bool    // the rescue loses its power in the middle
	Seed  uint64
	Limit time.Duration // of each step
	Bin   product.Binaries
	Dir   string
	Keep  bool
	Log   *slog.Logger                     `json:"-"`
	Say   func(format string, args ...any) `json:"-"`
}

// RescueResult is what was seen.
type RescueResult struct {
	Skipped string  `json:"skipped,omitempty"`
	Disk    int64   `json:"disk_bytes"`
	Differ  int64   `json:"differing_bytes"`
	Crossed int64   `json:"crossed_bytes"` // over the rescue's cable, both ways, with all that TLS and TCP add
	Ratio   float64 `json:"ratio"`
	Killed  bool    `json:"killed"`
	Equal   bool    `json:"equal"`            // by SHA-256, to what the vault restores
	Home    float64 `json:"failback_seconds"` // from the request until every byte was compared, with the failure of power
	Seconds float64 `json:"seconds"`
}

// OK says whether the disk came home, for at most limit times what differed.
func (r *RescueResult) OK(limit float64) bool {
	return r.Skipped == "" && r.Equal && r.Ratio > 0 && r.Ratio <= limit
}

// homing is a trial of a rescue.
type homing struct {
	o           RescueOptions
	rig         *rig.Rig
	net         *network
	here, metal *host
	site        *product.Site
	alive       func() error
	front       string // address of the control that lets a rescue in
	boot        []byte // what the machine does where it is failed over to
	dir, dev    string
	rnd         *rand.Rand
	res         *RescueResult
	starts      int
}

// standing says "k" on the serial line, and stands still for ever.
var standing = []byte{0xba, 0xf8, 0x03, 0xb0, 'k', 0xee, 0xb0, '\n', 0xee, 0xfa, 0xf4, 0xeb, 0xfd}

const rescued, rescueName = "web", "metal"

// Rescue protects a disk, fails its machine over, and brings it home onto the disk of a
// machine that runs the rescue, in a network namespace of its own.
func Rescue(ctx context.Context, o RescueOptions) (res *RescueResult, err error) {
	if why := missing(); why != "" {
		return &RescueResult{Skipped: why}, nil
	}
	if m, ok := rig.Have("qemu-system-x86_64", "losetup"); !ok {
		return &RescueResult{Skipped: m + " is not installed"}, nil
	}
	began := time.Now()
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", e))
		}
	}()
	r.Keep = o.Keep
	o.Say("working in %s", r.Dir)
	t := &homing{o: o, rig: r, rnd: rand.New(rand.NewPCG(o.Seed, 41)), res: &RescueResult{Disk: o.Size}, boot: standing, dir: filepath.Join(r.Dir, "site")}
	for _, do := range []func(context.Context) error{t.start, t.protect, t.away, t.differ, t.home, t.compare} {
		step, cancel := context.WithTimeout(ctx, o.Limit)
		err := do(step)
		cancel()
		if err != nil {
			return nil, err
		}
	}
	t.res.Seconds = time.Since(began).Seconds()
	return t.res, nil
}

// start makes the two hosts and the appliance.
func (t *homing) start(ctx context.Context) (err error) {
	if t.net, err = newNetwork(ctx, t.rig); err != nil {
		return err
	}
	if t.here, err = t.net.host(ctx, "site"); err != nil {
		return err
	}
	if t.metal, err = t.net.host(ctx, rescueName); err != nil {
		return err
	}
	t.front = t.here.addr
	argv := append(t.o.Bin.Up(t.dir, t.here.addr+":4222").Argv, "--manage", t.here.addr+":8443")
	p, err := t.rig.Start(rig.Command{Name: "appliance", Argv: t.here.on(argv...)})
	if err != nil {
		return err
	}
	t.alive = p.Alive
	t.rig.Defer("stop the appliance", func() error { return p.Stop(time.Minute) })
	if t.site, err = product.Connect(ctx, t.dir, p.Alive); err != nil {
		return err
	}
	t.rig.Defer("disconnect", func() error { t.site.Close(); return nil })
	return nil
}

// protect fills a disk and waits for a point of it.
func (t *homing) protect(ctx context.Context) error {
	file, err := t.rig.File("sda.img", t.o.Size)
	if err != nil {
		return err
	}
	if t.dev, err = t.rig.Loop(ctx, file); err != nil {
		return err
	}
	boot := make([]byte, 512)
	copy(boot, t.boot)
	boot[510], boot[511] = 0x55, 0xaa
	err = t.write(func(f *os.File) error {
		if _, err := f.WriteAt(boot, 0); err != nil {
			return err
		}
		return t.scatter(f, 1, 1<<20)
	})
	if err != nil {
		return err
	}
	a, err := t.rig.Start(rig.Command{Name: "agent", Argv: t.here.on(t.o.Bin.Protect(product.Protection{
		Site: t.dir, Machine: rescued, Disk: t.dev, Name: "sda", Capture: "scan", Interval: time.Second, StateDir: filepath.Join(t.rig.Dir, "agent"),
	}).Argv...)})
	if err != nil {
		return err
	}
	if _, err := t.site.AwaitPoint(ctx, rescued, time.Now(), a.Alive); err != nil {
		return fmt.Errorf("no point of the disk: %w", err)
	}
	return a.Stop(time.Minute) // its machine is lost
}

// write opens the disk, and syncs what do wrote.
func (t *homing) write(do func(f *os.File) error) error {
	f, err := os.OpenFile(t.dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(f), f.Sync(), f.Close())
}

// scatter writes random pieces of one size to a share of what is full of the disk, none at
// its beginning. What differs there must come over the cable; what should be zeros need not.
func (t *homing) scatter(f *os.File, share float64, piece int) error {
	b := make([]byte, piece)
	full := int64(float64(t.o.Size) * t.o.Fill)
	for at := int64(1 << 20); at+int64(piece) <= full; at += int64(piece) {
		if t.rnd.Float64() >= share {
			continue
		}
		for i := 0; i < len(b); i += 8 {
			x := t.rnd.Uint64()
			for k := range 8 {
				b[i+k] = byte(x >> (8 * k))
			}
		}
		if _, err := f.WriteAt(b, at); err != nil {
			return err
		}
		if piece == rig.Block {
			t.res.Differ += int64(piece)
		}
	}
	return nil
}

// ask takes the machine a step further, and waits until it is there.
func (t *homing) ask(ctx context.Context, kind life.Kind, order life.Order, want life.Phase) error {
	if _, err := t.site.API.AskLife(ctx, kind, api.LifeRequest{Machine: rescued, Confirm: rescued, Order: order}); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	l, err := t.site.API.Life(ctx, rescued)
	for err == nil && l.Phase != want {
		if l.Failures > 0 || !l.Phase.Working() {
			return fmt.Errorf("%s: the machine is %s: %s", kind, l.Phase, l.Error)
		}
		l, err = t.site.API.WatchLife(ctx, rescued, l.Attempt)
	}
	return err
}

// away fails the machine over, and protects it there.
func (t *homing) away(ctx context.Context) error {
	t.o.Say("failing over")
	o := life.Order{Point: "latest", Target: "qemu"}
	o.Options.MemoryBytes, o.Options.Firmware, o.Options.Hydrate = 128<<20, "bios", "off"
	o.Options.Serial = "k"
	if err := t.ask(ctx, life.Start, o, life.FailedOver); err != nil {
		return err
	}
	if err := t.ask(ctx, life.Commit, life.Order{}, life.Committed); err != nil {
		return err
	}
	return t.ask(ctx, life.Reprotect, life.Order{}, life.Ready)
}

// differ makes the disk at home another than the machine's.
func (t *homing) differ(context.Context) error {
	return t.write(func(f *os.File) error { return t.scatter(f, t.o.Share/t.o.Fill, rig.Block) })
}

// rescue boots the metal: each time with a new token, for nothing was kept.
func (t *homing) rescue(ctx context.Context) (*rig.Process, error) {
	t.starts++
	k, err := t.site.API.NewToken(ctx, api.NewToken{Machine: rescueName, TTLSeconds: 600})
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(t.rig.Dir, fmt.Sprint("live", t.starts))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(k.Text+"\n"), 0o600); err != nil {
		return nil, err
	}
	return t.rig.Start(rig.Command{Name: fmt.Sprint("rescue", t.starts), Argv: t.metal.on(
		t.o.Bin.Agent, "rescue", "--server", "https://"+t.front+":8443", "--token-file", token, "--ca-pin", k.Pin,
		"--config-dir", dir, "--disk", "sda="+t.dev, "--confirm", t.dev)})
}

// crossed is what went over the metal's cable up to now.
func (t *homing) crossed(ctx context.Context) (int64, error) {
	out, err := rig.Run(ctx, "ip", "-s", "-j", "link", "show", t.metal.port)
	if err != nil {
		return 0, err
	}
	var all []struct {
		Stats struct {
			RX struct{ Bytes int64 } `json:"rx"`
			TX struct{ Bytes int64 } `json:"tx"`
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		return 0, fmt.Errorf("what crossed the cable: %w: %s", err, out)
	}
	return all[0].Stats.RX.Bytes + all[0].Stats.TX.Bytes, nil
}

// home brings the disk home; in the middle the metal's power fails.
func (t *homing) home(ctx context.Context) error {
	p, err := t.rescue(ctx)
	if err != nil {
		return err
	}
	if err := rig.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		return strings.Contains(p.Tail(5), "ready; now:"), p.Alive()
	}); err != nil {
		return fmt.Errorf("the rescue does not come up: %w", err)
	}
	before, err := t.crossed(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		done <- t.ask(ctx, life.Failback, life.Order{Home: map[string]string{api.EveryDisk: api.RescueDisk + rescueName}}, life.Returned)
	}()
	if t.o.Kill {
		if err := t.cut(ctx, p, before, done); err != nil {
			return err
		}
	}
	if err := <-done; err != nil {
		return err
	}
	t.res.Home = time.Since(began).Seconds()
	after, err := t.crossed(ctx)
	t.res.Crossed = after - before
	t.res.Ratio = float64(t.res.Crossed) / float64(t.res.Differ)
	return err
}

// cut kills the rescue when a quarter of what differs has crossed, and boots it again.
func (t *homing) cut(ctx context.Context, p *rig.Process, before int64, done chan error) error {
	err := rig.Poll(ctx, 5*time.Millisecond, func() (bool, error) {
		select {
		case err := <-done:
			return false, errors.Join(errors.New("it was home before its power could fail"), err)
		default:
		}
		now, err := t.crossed(ctx)
		return now-before > t.res.Differ/4, err
	})
	if err != nil {
		return err
	}
	t.o.Say("the rescue's power fails")
	if err := p.Kill(); err != nil {
		return err
	}
	t.res.Killed = true
	_, err = t.rescue(ctx)
	return err
}

// compare holds the disk at home against what the vault restores.
func (t *homing) compare(ctx context.Context) error {
	var last *api.Point
	all, err := t.site.API.Points(ctx, api.Query{Machine: rescued})
	if err != nil {
		return err
	}
	for i := range all {
		if last == nil || all[i].Time.After(last.Time) {
			last = &all[i]
		}
	}
	if last == nil {
		return errors.New("the machine has no points")
	}
	p, err := t.site.Vault.Point(ctx, last.ID)
	if err != nil {
		return err
	}
	path := filepath.Join(t.rig.Dir, "restored.img")
	d := p.Machines[0].Disks[0]
	if err := product.Restore(ctx, t.site.Vault, vault.DiskID{Machine: rescued, Disk: d.Disk}, d, path); err != nil {
		return err
	}
	want, err := digest(ctx, path)
	if err != nil {
		return err
	}
	got, err := digest(ctx, t.dev)
	t.res.Equal = err == nil && got == want
	if err != nil {
		return err
	}
	return t.ask(ctx, life.Commit, life.Order{}, life.Protected)
}

func digest(ctx context.Context, path string) (sum [32]byte, err error) {
	h := sha256.New()
	err = rig.ReadCached(ctx, path, func(_ int64, p []byte) error {
		h.Write(p)
		return nil
	})
	return [32]byte(h.Sum(nil)), err
}
