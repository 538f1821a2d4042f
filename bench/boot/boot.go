package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/failover"
)

// Options of a run.
type Options struct {
	Image    string // raw, bootable; says HEARTBEAT … mark=TEXT with what stands in sector Mark
	Points   int
	Hardware string // compatible or virtio
	Memory   int64
	Cold     bool // drop the page cache before each boot
	First    bool // end each boot at its first line
	Together bool // both boots of a point at the same time: what else runs here delays both alike
	Limit    time.Duration
	Bin      product.Binaries
	Dir      string
	Keep     bool
	Log      *slog.Logger                     `json:"-"`
	Say      func(format string, args ...any) `json:"-"`
}

// Mark is the sector, before the first partition, that tells points apart.
const Mark = 1500

// Boot is one boot.
type Boot struct {
	First   float64 `json:"first_line_seconds"` // from the start of QEMU, and of the disk's server, to a first word on the serial line
	Alive   float64 `json:"alive_seconds"`      // to the proof
	Asked   float64 `json:"asked_seconds"`      // from the operator's request to the proof; 0 from a file
	Read    int64   `json:"guest_read_bytes"`   // by the guest; 0 from a file
	Fetched int64   `json:"vault_read_bytes"`   // from the store
	CPU     float64 `json:"cpu_seconds"`        // of QEMU, and of the appliance that serves its disk
}

// Pair is a point booted both ways.
type Pair struct {
	Point string `json:"point"`
	Vault Boot   `json:"vault"`
	File  Boot   `json:"file"`
}

// Result is what was measured.
type Result struct {
	Skipped  string `json:"skipped,omitempty"`
	Disk     int64  `json:"disk_bytes"`
	Pairs    []Pair `json:"pairs"`
	Accel    string `json:"accel"`
	Hardware string `json:"hardware"`
	Cold     bool   `json:"cold"`
	Together bool   `json:"together"`
}

type trial struct {
	o    Options
	rig  *rig.Rig
	site *product.Site
	disk string
	dir  string
	res  *Result
	up   *rig.Process
	argv []string // how the product starts QEMU, with the disk as a file
}

const machine, diskName = "web", "sda"

// Run makes points and boots each from the vault and from a file.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	if m, ok := rig.Have("qemu-system-x86_64"); !ok {
		return &Result{Skipped: m + " is not installed"}, nil
	}
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
	t := &trial{o: o, rig: r, dir: filepath.Join(r.Dir, "site"), res: &Result{Hardware: o.Hardware, Cold: o.Cold, Together: o.Together}}
	if err := t.start(ctx); err != nil {
		return nil, err
	}
	points, err := t.points(ctx)
	if err != nil {
		return nil, err
	}
	for i, p := range points {
		pair := Pair{Point: p}
		if o.Together {
			err = t.together(ctx, &pair, mark(i))
		} else {
			err = t.inTurn(ctx, &pair, mark(i), i%2)
		}
		if err != nil {
			return nil, fmt.Errorf("point %d, %s: %w", i+1, p, err)
		}
		o.Say("point %2d: first line %.2f s from the vault, %.2f s from a file; alive %.2f and %.2f s; the guest read %d MiB, the vault was asked for %d MiB; CPU %.1f and %.1f s", i+1,
			pair.Vault.First, pair.File.First, pair.Vault.Alive, pair.File.Alive, pair.Vault.Read>>20, pair.Vault.Fetched>>20, pair.Vault.CPU, pair.File.CPU)
		t.res.Pairs = append(t.res.Pairs, pair)
	}
	return t.res, nil
}

// inTurn boots a point both ways, one after the other; the vault's turn is 0 or 1.
func (t *trial) inTurn(ctx context.Context, pair *Pair, mark string, vaults int) (err error) {
	for turn := range 2 {
		if turn != vaults {
			pair.File, err = t.file(ctx, pair.Point, mark)
		} else if err = t.cold(); err == nil {
			pair.Vault, err = t.vault(ctx, pair.Point, mark, nil, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// together boots a point both ways at the same time. Neither is ended before both said what
// they have to say, so that each has the other beside it all the while.
func (t *trial) together(ctx context.Context, pair *Pair, mark string) error {
	dir, err := t.plain(ctx, pair.Point)
	if err == nil {
		err = t.cold()
	}
	if err != nil {
		return err
	}
	runs := make(chan []string, 1) // the command line of the vault's QEMU; closed if there is none
	vaultSaid, fileSaid := make(chan struct{}), make(chan struct{})
	var errs [2]error
	var wg sync.WaitGroup
	wg.Go(func() {
		said := sync.OnceFunc(func() { close(vaultSaid) })
		defer said()
		pair.Vault, errs[0] = t.vault(ctx, pair.Point, mark, runs, func() { said(); <-fileSaid })
	})
	wg.Go(func() {
		said := sync.OnceFunc(func() { close(fileSaid) })
		defer said()
		if argv, ok := <-runs; ok {
			pair.File, errs[1] = t.bootFile(ctx, argv, dir, mark, func() { said(); <-vaultSaid })
		}
	})
	wg.Wait()
	return errors.Join(errs[:]...)
}

// cold drops the page cache if that is wanted.
func (t *trial) cold() error {
	if !t.o.Cold {
		return nil
	}
	unix.Sync()
	return rig.DropCaches()
}

func mark(i int) string { return fmt.Sprintf("leeward-boot-%03d", i+1) }

// start copies the image and protects the copy.
func (t *trial) start(ctx context.Context) error {
	t.disk = filepath.Join(t.rig.Dir, "sda.img")
	n, err := clone(t.o.Image, t.disk)
	if err != nil {
		return err
	}
	t.res.Disk = n
	if err := t.mark(mark(0)); err != nil {
		return err
	}
	address, err := product.FreeAddress()
	if err != nil {
		return err
	}
	if t.up, err = t.rig.Start(t.o.Bin.Up(t.dir, address)); err != nil {
		return err
	}
	t.rig.Defer("stop the appliance", func() error { return t.up.Stop(time.Minute) })
	if t.site, err = product.Connect(ctx, t.dir, t.up.Alive); err != nil {
		return err
	}
	t.rig.Defer("disconnect", func() error { t.site.Close(); return nil })
	return nil
}

// points protects the disk and makes its points; the agent is gone afterwards.
func (t *trial) points(ctx context.Context) (ids []string, err error) {
	a, err := t.rig.Start(t.o.Bin.Protect(product.Protection{
		Site: t.dir, Machine: machine, Disk: t.disk, Name: diskName, Capture: "scan", Interval: 500 * time.Millisecond,
		StateDir: filepath.Join(t.rig.Dir, "agent"),
	}))
	if err != nil {
		return nil, err
	}
	t.o.Say("protecting %d MiB", t.res.Disk>>20)
	for i := range t.o.Points {
		if err := t.mark(mark(i)); err != nil {
			return nil, err
		}
		wait, cancel := context.WithTimeout(ctx, t.o.Limit)
		p, err := t.site.AwaitPoint(wait, machine, time.Now(), a.Alive)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("point %d: %w", i+1, err)
		}
		// It may be swept away before it is booted, but for a name.
		if _, err := t.site.API.Pin(ctx, p.ID, mark(i)); err != nil {
			return nil, err
		}
		ids = append(ids, p.ID)
	}
	return ids, a.Stop(time.Minute)
}

// mark writes what tells the next point apart.
func (t *trial) mark(text string) error {
	f, err := os.OpenFile(t.disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 512)
	copy(b, text+"\n")
	_, err = f.WriteAt(b, Mark*512)
	return errors.Join(err, f.Sync(), f.Close())
}

// vault boots a point as an operator does. How the product started QEMU goes to runs, which
// is closed, as soon as it did; the machine runs until hold returns. Both may be nil.
func (t *trial) vault(ctx context.Context, point, mark string, runs chan<- []string, hold func()) (b Boot, err error) {
	closeRuns := sync.OnceFunc(func() {
		if runs != nil {
			close(runs)
		}
	})
	defer closeRuns()
	ctx, cancel := context.WithTimeout(ctx, t.o.Limit)
	defer cancel()
	r := failover.Request{Machine: machine, Point: point, Target: "qemu"}
	r.Options.Hardware, r.Options.MemoryBytes, r.Options.Firmware, r.Options.Fixup = t.o.Hardware, t.o.Memory, "bios", "off"
	r.Options.Serial, r.Options.TimeoutSecs = t.proof(mark), int(t.o.Limit.Seconds())
	began, cpu := time.Now(), t.up.CPU()
	j, err := t.site.API.Test(ctx, r)
	if err != nil {
		return b, err
	}
	id := j.ID
	defer func() {
		_, e := t.site.API.Cleanup(context.WithoutCancel(ctx), id)
		err = errors.Join(err, e)
	}()
	if runs != nil {
		argv, err := t.started(ctx, id)
		if err != nil {
			return b, err
		}
		runs <- argv
		closeRuns()
	}
	for j.State.Running() {
		if j, err = t.site.API.WatchJob(ctx, id, j.Revision); err != nil {
			return b, err
		}
	}
	if j.State != failover.Alive || j.Result == nil {
		return b, fmt.Errorf("job %s is %s: %s", j.ID, j.State, j.Error)
	}
	cpu = t.up.CPU() - cpu // with QEMU, which is its child and still runs
	if t.argv == nil {
		if t.argv, err = t.learn(j); err != nil {
			return b, err
		}
	}
	asked := time.Since(began)
	if hold != nil {
		hold()
	}
	x := j.Result
	return Boot{First: x.FirstLineSeconds, Alive: x.BootSeconds, Asked: asked.Seconds(), Read: x.GuestReadBytes, Fetched: x.VaultReadBytes, CPU: cpu.Seconds()}, nil
}

// proof is the serial line that proves a boot from the point with this mark, or the first.
func (t *trial) proof(mark string) string {
	if t.o.First {
		return `\S`
	}
	return "HEARTBEAT .*mark=" + mark
}

// restored writes a point's disk to a file.
func (t *trial) restored(ctx context.Context, point string) (string, error) {
	p, err := t.site.Vault.Point(ctx, point)
	if err != nil {
		return "", err
	}
	path := filepath.Join(t.rig.Dir, "plain.img")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return path, product.Restore(ctx, t.site.Vault, diskID, p.Machines[0].Disks[0], path)
}

// clone copies a file with its holes, and returns its size.
func clone(from, to string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<20)
	var at int64
	for {
		n, err := io.ReadFull(in, buf)
		if strings.Trim(string(buf[:n]), "\x00") != "" {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return 0, errors.Join(err, out.Close())
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return 0, errors.Join(err, out.Close())
		}
	}
	return at, errors.Join(out.Truncate(at), out.Close())
}
