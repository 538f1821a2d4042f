package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/leeward-dr/leeward/bench/boot"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
)

// bootLimit is how much longer than from a file a first line may take.
const bootLimit = 1.3

// runBoot boots points from the vault and from a file.
func runBoot(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench boot", flag.ContinueOnError)
	var c common
	c.add(f)
	memory := bytesFlag(512 << 20)
	var o boot.Options
	f.StringVar(&o.Image, "image", "", "raw `file` to boot: deploy/images/make-bootable.sh debian FILE")
	f.IntVar(&o.Points, "points", 20, "points, each booted from the vault and from a file")
	f.StringVar(&o.Hardware, "hardware", "compatible", "compatible or virtio")
	f.Var(&memory, "memory", "the machine's memory")
	f.BoolVar(&o.Cold, "cold", false, "drop the page cache before each boot")
	f.BoolVar(&o.First, "first", false, "end each boot at its first serial line: fast, and proves nothing more")
	f.BoolVar(&o.Together, "together", false, "boot each point both ways at the same time, so that what else runs here delays both alike; for a machine with two CPUs to spare, or a busy one")
	f.DurationVar(&o.Limit, "limit", 10*time.Minute, "for one boot, or one point")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.Image == "" || o.Points < 1 {
		return usage{errors.New("name the image with --image, and at least 1 point")}
	}
	var err error
	if o.Bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	o.Memory, o.Dir, o.Keep, o.Log, o.Say = int64(memory), c.dir, c.keepDir, c.log(), say
	r, err := boot.Run(ctx, o)
	if err != nil {
		return err
	}
	if r.Skipped != "" {
		fmt.Println("not tried:", r.Skipped)
		return nil
	}
	res := newResults()
	res.Detail = r
	take := func(get func(boot.Pair) float64) (x []float64) {
		for _, p := range r.Pairs {
			x = append(x, get(p))
		}
		return x
	}
	rows := [][]string{{"until", "from the vault, median", "from a file, median", "ratio of medians"}}
	for _, k := range []struct {
		name        string
		vault, file func(boot.Pair) float64
	}{
		{"the first serial line", func(p boot.Pair) float64 { return p.Vault.First }, func(p boot.Pair) float64 { return p.File.First }},
		{"the proof of life", func(p boot.Pair) float64 { return p.Vault.Alive }, func(p boot.Pair) float64 { return p.File.Alive }},
	} {
		v, l := report.Median(take(k.vault)), report.Median(take(k.file))
		rows = append(rows, []string{k.name, fmt.Sprintf("%.2f s", v), fmt.Sprintf("%.2f s", l), fmt.Sprintf("%.3f", v/l)})
		res.Goals = append(res.Goals, report.Goal{Figure: k.name, Ours: fmt.Sprintf("%.2f s", v), Against: fmt.Sprintf("file %.2f s", l), Ratio: v / l, Limit: bootLimit})
	}
	vcpu, fcpu := report.Median(take(func(p boot.Pair) float64 { return p.Vault.CPU })), report.Median(take(func(p boot.Pair) float64 { return p.File.CPU }))
	rows = append(rows, []string{"CPU time of it", fmt.Sprintf("%.1f s", vcpu), fmt.Sprintf("%.1f s", fcpu), fmt.Sprintf("%.3f", vcpu/fcpu)})
	report.Facts(os.Stdout, res.Facts)
	report.Table(os.Stdout, rows)
	mib := func(get func(boot.Pair) float64) float64 { return report.Median(take(get)) / (1 << 20) }
	fmt.Printf("\n%d points, %s, %s hardware, cold: %v; disk of %d MiB; of it the guest read %.1f MiB and %.1f MiB were fetched from the vault, medians; from request to proof %.2f s\n",
		len(r.Pairs), r.Accel, r.Hardware, r.Cold, r.Disk>>20, mib(func(p boot.Pair) float64 { return float64(p.Vault.Read) }),
		mib(func(p boot.Pair) float64 { return float64(p.Vault.Fetched) }), report.Median(take(func(p boot.Pair) float64 { return p.Vault.Asked })))
	return c.keep(res, "boot", os.Stdout)
}
