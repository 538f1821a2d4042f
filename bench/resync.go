package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/limits"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
)

// resyncResult is what bench resync found.
type resyncResult struct {
	Size   int64         `json:"size"`
	Rounds []resyncRound `json:"rounds"`
	Equal  bool          `json:"equal"` // the last point was the disk, byte for byte
}

// resyncRound is one comparison of a disk with the vault, and what stands beside it.
type resyncRound struct {
	Took    time.Duration `json:"took"` // from the first read to all differences being on their way
	DD      time.Duration `json:"dd"`
	Sums    time.Duration `json:"sums"` // all CPUs, of as many bytes in their caches
	Changed int           `json:"changed"`
	Sent    uint64        `json:"sent"` // bytes
}

// goal is the speed beside 70 % of dd's, or of what can be summed up if that is less.
func (r resyncRound) goal() float64 {
	return max(r.DD.Seconds()/0.7, r.Sums.Seconds()) / r.Took.Seconds()
}

// runResync compares a disk with the vault again and again, each time after blocks changed
// while nobody looked and what was kept of the disk is gone.
func runResync(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("bench resync", flag.ContinueOnError)
	var c common
	c.add(f)
	size := bytesFlag(1 << 30)
	f.Var(&size, "size", "`size` of the disk, all of it noise")
	rounds := f.Int("rounds", 7, "comparisons")
	share := f.Float64("changed", 0.001, "`share` of the blocks that change before each")
	if err := parse(f, args); err != nil {
		return err
	}
	if !rig.Root() {
		return usage{errors.New("a disk is needed: run it as root")}
	}
	if *rounds < 1 || *share < 0 || *share > 1 || size < 16<<20 {
		return usage{errors.New("use at least 1 round, a share from 0 to 1, and 16M")}
	}
	r, err := rig.New(c.dir, product.Silent())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	x, err := newResync(ctx, r, int64(size), c.seed)
	if err != nil {
		return err
	}
	res := newResults()
	out := &resyncResult{Size: int64(size)}
	res.Detail = out
	for i := range *rounds {
		one, err := x.round(ctx, int(*share*float64(size/rig.Block)))
		if err != nil {
			return err
		}
		say("round %d of %d: %.2f of dd, %.2f of the goal", i+1, *rounds, one.DD.Seconds()/one.Took.Seconds(), one.goal())
		out.Rounds = append(out.Rounds, *one)
	}
	if out.Equal, err = x.equal(ctx); err != nil {
		return err
	}
	report.Facts(os.Stdout, res.Facts)
	out.print(os.Stdout)
	if err := c.keep(res, "resync", os.Stdout); err != nil {
		return err
	}
	if !out.Equal {
		return errFailed
	}
	return nil
}

// resync is a disk whose copy is in a vault.
type resync struct {
	rig       *rig.Rig
	site      *product.Site
	size      int64
	dev, self string
	rnd       *rand.Rand
}

func newResync(ctx context.Context, r *rig.Rig, size int64, seed uint64) (*resync, error) {
	image := filepath.Join(r.Dir, "noise.img")
	if err := noise(image, size); err != nil {
		return nil, err
	}
	x := &resync{rig: r, size: size, rnd: rand.New(rand.NewPCG(seed, 1))}
	var err error
	if x.dev, err = r.Loop(ctx, image); err != nil {
		return nil, err
	}
	if x.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if x.site, err = product.RunHere(ctx, r, filepath.Join(r.Dir, "site")); err != nil {
		return nil, err
	}
	product.Forget(r, x.state())
	return x, copyOnce(ctx, x.site, x.dev, "trace", x.self, x.state())
}

func (x *resync) state() string { return filepath.Join(x.rig.Dir, "agent") }

// round changes blocks, lets an agent that knows nothing compare the disk, and takes what
// stands beside it right after.
func (x *resync) round(ctx context.Context, blocks int) (*resyncRound, error) {
	// What was kept of the disk goes with the directory.
	if err := os.RemoveAll(x.state()); err != nil {
		return nil, err
	}
	one := &resyncRound{Changed: blocks}
	if err := x.change(blocks); err != nil {
		return nil, err
	}
	if err := x.compare(ctx, one); err != nil {
		return nil, err
	}
	began := time.Now()
	if _, err := rig.Run(ctx, "dd", "if="+x.dev, "of=/dev/null", "iflag=direct", "bs=4M"); err != nil {
		return nil, err
	}
	one.DD = time.Since(began)
	one.Sums = time.Duration(float64(x.size) / limits.BlockSums(x.size).Rate * float64(time.Second))
	return one, nil
}

// change writes to random blocks of the disk.
func (x *resync) change(blocks int) error {
	f, err := os.OpenFile(x.dev, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := rig.Aligned(rig.Block)
	for _, at := range x.rnd.Perm(int(x.size / rig.Block))[:blocks] {
		for i := 0; i < len(b); i += 64 {
			b[i] = byte(x.rnd.Uint32())
		}
		if _, err := f.WriteAt(b, int64(at)*rig.Block); err != nil {
			return err
		}
	}
	return f.Sync()
}

// compare runs an agent until it has compared the disk and a point is listed.
func (x *resync) compare(ctx context.Context, one *resyncRound) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var mu sync.Mutex
	var first, last time.Time
	var before, after uint64
	cfg := agentConfig(x.dev, "trace", x.self, x.state(), agent.Default().Interval)
	cfg.Progress = func(p agent.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Phase != "compare" {
			return
		}
		if first.IsZero() {
			first, before = time.Now(), p.Sent
		}
		if p.Done == p.Total {
			last, after = time.Now(), p.Sent
		}
	}
	began := time.Now()
	stop, err := runAgent(ctx, x.site, cfg)
	if err != nil {
		return err
	}
	_, err = x.site.AwaitPoint(ctx, benchMachine, began, nil)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	if last.IsZero() {
		return errors.New("the agent did not compare the disk")
	}
	one.Took, one.Sent = last.Sub(first), after-before
	return nil
}

// equal restores the newest point and holds it against the disk.
func (x *resync) equal(ctx context.Context) (bool, error) {
	points, damaged, err := x.site.Vault.Points(ctx, benchMachine)
	if err := errors.Join(append(damaged, err)...); err != nil {
		return false, err
	}
	newest := points[0]
	for _, p := range points {
		if p.Time.After(newest.Time) {
			newest = p
		}
	}
	out := filepath.Join(x.rig.Dir, "restored.img")
	d := newest.Machines[0].Disks[0]
	if err := product.Restore(ctx, x.site.Vault, vault.DiskID{Machine: benchMachine, Disk: benchDisk}, d, out); err != nil {
		return false, err
	}
	is, err := rig.FileImage(ctx, out)
	if err != nil {
		return false, err
	}
	want, err := rig.DeviceImage(ctx, x.dev)
	return err == nil && is.SHA256 == want.SHA256, err
}

func (o *resyncResult) print(w io.Writer) {
	take := func(get func(resyncRound) float64) float64 {
		var all []float64
		for _, r := range o.Rounds {
			all = append(all, get(r))
		}
		return report.Median(all)
	}
	rate := func(d func(resyncRound) time.Duration) string {
		return fmt.Sprintf("%.0f", take(func(r resyncRound) float64 { return float64(o.Size) / d(r).Seconds() / 1e6 }))
	}
	report.Table(w, [][]string{
		{"", "MB/s"},
		{"a disk is compared with the vault", rate(func(r resyncRound) time.Duration { return r.Took })},
		{"dd iflag=direct bs=4M", rate(func(r resyncRound) time.Duration { return r.DD })},
		{"all CPUs sum up blocks", rate(func(r resyncRound) time.Duration { return r.Sums })},
	})
	fmt.Fprintf(w, "\nof dd %.2f, of the goal %.2f (medians of %d rounds; the goal is 0.7 of dd, or what can be summed up if that is less)\n",
		take(func(r resyncRound) float64 { return r.DD.Seconds() / r.Took.Seconds() }), take(resyncRound.goal), len(o.Rounds))
	fmt.Fprintf(w, "sent %.2f bytes for each that changed; the last point is the disk: %v\n",
		take(func(r resyncRound) float64 { return float64(r.Sent) / float64(max(r.Changed, 1)*rig.Block) }), o.Equal)
}
