package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/bench/corpus"
	"github.com/leeward-dr/leeward/bench/peers"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams"
)

// Names within the bus and the vault.
const (
	benchMachine = "bench"
	benchDisk    = "disk"
)

// agentInterval is the time between points while a delta is awaited: the least that
// the agent takes, so that the figure is the pipeline's and not the timer's.
const agentInterval = 100 * time.Millisecond

// patience bounds one step.
const patience = 5 * time.Minute

// ours is Leeward under test: real binaries, an appliance and an agent.
type ours struct {
	bin    product.Binaries
	rig    *rig.Rig
	dir    string // everything of this run
	site   *product.Site
	server *rig.Process
	agent  *rig.Process
	live   string // the protected image
	share  string // who used how much processor time in the step before
	disk   string // what the agent protects: a loop device over it, or the image itself
	// interval is the time between points.
	interval time.Duration
}

// newOurs starts an appliance in dir.
func newOurs(ctx context.Context, r *rig.Rig, bin product.Binaries, dir string) (*ours, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	at, err := product.FreeAddress()
	if err != nil {
		return nil, err
	}
	o := &ours{bin: bin, rig: r, dir: dir, interval: agentInterval}
	if o.server, err = r.Start(bin.Up(filepath.Join(dir, "site"), at)); err != nil {
		return nil, err
	}
	if o.site, err = product.Connect(ctx, filepath.Join(dir, "site"), o.server.Alive); err != nil {
		return nil, err
	}
	return o, nil
}

// stop ends agent and appliance.
func (o *ours) stop() error {
	var all []error
	if o.agent != nil {
		all = append(all, o.agent.Stop(20*time.Second))
	}
	o.site.Close()
	return errors.Join(append(all, o.server.Stop(time.Minute))...)
}

// attach puts the image under a loop device if this process may.
func (o *ours) attach(ctx context.Context, image string) error {
	o.live = filepath.Join(o.dir, "live.img")
	if _, err := rig.Run(ctx, "cp", "--sparse=always", image, o.live); err != nil {
		return err
	}
	o.disk = o.live
	if !rig.Root() {
		return nil
	}
	dev, err := o.rig.Loop(ctx, o.live)
	o.disk = dev
	return err
}

// follow makes a file the disk that the agent protects, and says how it is followed: as
// the agent does by itself if this process may make a device of it. By scanning, which
// reads all of it thrice before the first point, only if there is no other way.
func (o *ours) follow(ctx context.Context, image string) (capture string, err error) {
	o.disk, capture, err = device(ctx, o.rig, image)
	return capture, err
}

func device(ctx context.Context, r *rig.Rig, image string) (disk, capture string, err error) {
	if !rig.Root() {
		return image, "scan", nil
	}
	disk, err = r.Loop(ctx, image)
	return disk, "auto", err
}

// protect starts the agent.
func (o *ours) protect(capture, disk string) (err error) {
	state := filepath.Join(o.dir, "agent")
	product.Forget(o.rig, state)
	o.agent, err = o.rig.Start(o.bin.Protect(product.Protection{
		Site: o.site.Dir, Machine: benchMachine, Disk: disk, Name: benchDisk, Capture: capture, Interval: o.interval, StateDir: state,
	}))
	return err
}

// alive says whether both programs still run.
func (o *ours) alive() error {
	return errors.Join(o.server.Alive(), o.agent.Alive())
}

// meter accounts for a step of programs that go on running.
type meter struct {
	o      *ours
	began  time.Time
	server time.Duration // processor time so far
	agent  time.Duration
	stored int64
}

func (o *ours) meter() (*meter, error) {
	n, err := peers.Bytes(product.Vault(o.site.Dir))
	m := &meter{o: o, began: time.Now(), server: o.server.CPU(), stored: n}
	if o.agent != nil && o.agent.Alive() == nil {
		m.agent = o.agent.CPU()
	}
	return m, err
}

// read ends the step at a time and says what it cost.
func (m *meter) read(from, to time.Time) (u rig.Usage, stored int64, err error) {
	u.Wall = to.Sub(from)
	m.server, m.agent = m.o.server.CPU()-m.server, m.o.agent.CPU()-m.agent
	m.o.share = fmt.Sprintf("cpu: agent %.1f s, appliance %.1f s", m.agent.Seconds(), m.server.Seconds())
	u.CPU = m.server + m.agent
	u.RSS = m.o.server.RSS()
	n, err := peers.Bytes(product.Vault(m.o.site.Dir))
	return u, n - m.stored, err
}

// initial is the first copy, from the start of the agent to the first listed point.
func (o *ours) initial(ctx context.Context, capture string) (u rig.Usage, stored int64, p api.Point, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no recovery point was listed in time"))
	defer cancel()
	m, err := o.meter()
	if err != nil {
		return u, 0, p, err
	}
	if err := o.protect(capture, o.disk); err != nil {
		return u, 0, p, err
	}
	if p, err = o.site.AwaitPoint(ctx, benchMachine, m.began, o.alive); err != nil {
		return u, 0, p, err
	}
	if err := rig.Syncfs(o.dir); err != nil {
		return u, 0, p, err
	}
	u, stored, err = m.read(m.began, time.Now())
	return u, stored, p, err
}

// delta writes the blocks that changed to the disk, as fast as it takes them, and
// waits for the first point whose cut is after the last write. Wall is the time from
// there; writing says how long the writes took.
func (o *ours) delta(ctx context.Context, from string, blocks []int64) (u rig.Usage, stored int64, p api.Point, writing time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the change was not in a listed point in time"))
	defer cancel()
	m, err := o.meter()
	if err != nil {
		return u, 0, p, 0, err
	}
	if err := apply(from, o.disk, blocks); err != nil {
		return u, 0, p, 0, err
	}
	stopped := time.Now()
	if p, err = o.site.AwaitPoint(ctx, benchMachine, stopped, o.alive); err != nil {
		return u, 0, p, 0, err
	}
	if err := rig.Syncfs(o.dir); err != nil {
		return u, 0, p, 0, err
	}
	u, stored, err = m.read(stopped, time.Now())
	return u, stored, p, stopped.Sub(m.began), err
}

// rescan starts a new agent on a disk that changed while nobody looked, so that it
// has to read all of it, and waits for its first point.
func (o *ours) rescan(ctx context.Context) (u rig.Usage, stored int64, err error) {
	if err := o.agent.Stop(20 * time.Second); err != nil {
		return u, 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the change was not in a listed point in time"))
	defer cancel()
	m, err := o.meter()
	if err != nil {
		return u, 0, err
	}
	if err := o.protect("scan", o.disk); err != nil {
		return u, 0, err
	}
	if _, err = o.site.AwaitPoint(ctx, benchMachine, m.began, o.alive); err != nil {
		return u, 0, err
	}
	if err := rig.Syncfs(o.dir); err != nil {
		return u, 0, err
	}
	return m.read(m.began, time.Now())
}

// restore writes a point to a raw file with the operator's command.
func (o *ours) restore(ctx context.Context, point string) (rig.Usage, string, error) {
	out := filepath.Join(o.dir, "restored.img")
	u, _, err := rig.Measure(ctx, rig.Command{Name: "leeward vault restore", Argv: []string{
		o.bin.Leeward, "vault", "restore", "--dir", o.site.Dir, "--machine", benchMachine, "--point", point, "--to", out,
	}}, func() error { return rig.Syncfs(o.dir) })
	return u, out, err
}

// first starts a program that opens the vault and reads one block of a point.
func (o *ours) first(ctx context.Context, point string, off int64) (b []byte, parts string, took time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", 0, err
	}
	return peers.Head(ctx, rig.Block, nil, self, "first-read", o.site.Dir, point, strconv.FormatInt(off, 10))
}

// firstRead is that program: first-read SITE POINT OFFSET.
func firstRead(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return usage{errors.New("first-read wants SITE POINT OFFSET")}
	}
	off, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return usage{err}
	}
	b, steps, err := product.FirstBlock(ctx, args[0], args[1], off)
	if err != nil {
		return err
	}
	for i, s := range steps {
		fmt.Fprint(os.Stderr, []string{"", ", "}[min(i, 1)], s.What, " ", ms(s.Took))
	}
	_, err = os.Stdout.Write(b)
	return err
}

// apply copies blocks of an image to the same place of a disk, past the page cache
// where that can be, and waits until the disk has them.
func apply(image, disk string, blocks []int64) error {
	in, err := os.Open(image)
	if err != nil {
		return err
	}
	defer in.Close()
	fd, err := unix.Open(disk, unix.O_WRONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.Open(disk, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", disk, err)
	}
	out := os.NewFile(uintptr(fd), disk)
	defer out.Close()
	b := rig.Aligned(64 * corpus.Block)
	for len(blocks) > 0 {
		n := 1
		for n < len(blocks) && n < 64 && blocks[n] == blocks[0]+int64(n) {
			n++
		}
		p := b[:n*corpus.Block]
		if _, err := in.ReadAt(p, blocks[0]*corpus.Block); err != nil {
			return err
		}
		if _, err := out.WriteAt(p, blocks[0]*corpus.Block); err != nil {
			return fmt.Errorf("write to %s: %w", disk, err)
		}
		blocks = blocks[n:]
	}
	return out.Sync()
}

// tap listens to the headers of everything on CHANGES and learns the mean size of
// its block messages.
type tap struct {
	sub *nats.Subscription

	mu    sync.Mutex
	count int64
	bytes int64
}

func (o *ours) tap() (*tap, error) {
	t := new(tap)
	var err error
	t.sub, err = o.site.Bus.Conn.Subscribe(streams.TapPrefix+">", func(m *nats.Msg) {
		n, err := strconv.ParseInt(m.Header.Get("Nats-Msg-Size"), 10, 64)
		if err != nil || m.Header.Get("Leeward-Kind") != "block" {
			return
		}
		t.mu.Lock()
		t.count, t.bytes = t.count+1, t.bytes+n
		t.mu.Unlock()
	})
	return t, err
}

// mean ends the tap.
func (t *tap) mean() (int, error) {
	if err := t.sub.Unsubscribe(); err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count == 0 {
		return 0, errors.New("the tap saw no block message")
	}
	return int(t.bytes / t.count), nil
}

// same says what is wrong if a file is not the image with a certain SHA-256.
func same(ctx context.Context, path, want string) error {
	m, err := rig.FileImage(ctx, path)
	if err != nil {
		return err
	}
	if got := fmt.Sprintf("%x", m.SHA256); got != want {
		return fmt.Errorf("the restored image has SHA-256 %s, want %s", got, want)
	}
	return nil
}

// blockOf reads one block of an image.
func blockOf(path string, off int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, rig.Block)
	_, err = f.ReadAt(b, off)
	return b, err
}

func sameBlock(got []byte, image string, off int64) error {
	want, err := blockOf(image, off)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("the block at %d is not what was stored", off)
	}
	return err
}

// show prints anything as one line of JSON.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
