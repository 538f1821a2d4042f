package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/bench/chaos"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
)

func runChaos(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench chaos", flag.ContinueOnError)
	var c common
	c.add(f)
	size, rate := bytesFlag(512<<20), bytesFlag(4<<20)
	var o chaos.Options
	f.IntVar(&o.Kills, "kills", 50, "how often to kill")
	f.Var(&size, "size", "`size` of the disk")
	f.Var(&rate, "rate", "what fio writes a second")
	f.DurationVar(&o.Interval, "interval", time.Second, "between points")
	f.DurationVar(&o.Recovery, "recovery", time.Minute, "a new point must be listed so long after a kill")
	f.IntVar(&o.Every, "every", 10, "restore every so many points, beside those around kills")
	f.BoolVar(&o.Sabotage, "sabotage", false, "damage the vault before it is looked at: the run must then fail")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.Kills < 0 || o.Every < 1 {
		return usage{errors.New("--kills may not be negative and --every must be at least 1")}
	}
	var err error
	if o.Bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	o.Size, o.Rate, o.Seed, o.Dir, o.Keep, o.Log, o.Say = int64(size), int64(rate), c.seed, c.dir, c.keepDir, c.log(), say
	say("%d kills on a disk of %d MiB, fio at %d MiB/s, seed %d", o.Kills, o.Size>>20, o.Rate>>20, o.Seed)
	res := newResults()
	r, err := chaos.Run(ctx, o)
	if err != nil {
		return err
	}
	res.Detail = r
	printChaos(os.Stdout, r)
	if err := c.keep(res, "chaos", os.Stdout); err != nil {
		return err
	}
	if !r.OK(o.Kills) {
		return errFailed
	}
	return nil
}

func printChaos(w io.Writer, r *chaos.Result) {
	if r.Skipped != "" {
		fmt.Fprintln(w, "not tried:", r.Skipped)
		return
	}
	rows := [][]string{{"victim", "kills", "recovery p50", "p99", "max"}}
	for _, victim := range []string{"agent", "appliance", "both"} {
		var x []time.Duration
		for _, k := range r.Kills {
			if k.Victim == victim {
				x = append(x, k.Recovery)
			}
		}
		if len(x) == 0 {
			continue
		}
		s := report.Seconds(x)
		at := func(q float64) string { return fmt.Sprintf("%.2f s", report.Quantile(s, q)) }
		rows = append(rows, []string{victim, fmt.Sprint(len(x)), at(0.5), at(0.99), fmt.Sprintf("%.2f s", slices.Max(s))})
	}
	report.Table(w, rows)
	fmt.Fprintf(w, "\nseed %d, %d points listed, %d of them restored, mounted and counted, %d records, %d resyncs, longest wait of the writer %v, %.0f s\n",
		r.Seed, r.Listed, r.Checked, r.Records, r.Resyncs, r.Stall.Round(time.Millisecond), r.Seconds)
	times := map[string]int{}
	for _, e := range r.Ends {
		times[e]++
	}
	for _, e := range slices.Sorted(maps.Keys(times)) {
		fmt.Fprintf(w, "ended by itself %d times: %s\n", times[e], e)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, "vault check:", p)
	}
	for _, b := range r.Bad {
		fmt.Fprintln(w, "BROKEN:", b)
	}
}
