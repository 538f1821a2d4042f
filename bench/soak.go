package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/chaos"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
)

func runSoak(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench soak", flag.ContinueOnError)
	var c common
	c.add(f)
	size, rate := bytesFlag(1<<30), bytesFlag(4<<20) // half an hour of records take 200 MiB
	var o chaos.Options
	f.DurationVar(&o.For, "for", 30*time.Minute, "how long")
	f.Var(&size, "size", "`size` of the disk")
	f.Var(&rate, "rate", "what fio writes a second")
	f.DurationVar(&o.Interval, "interval", time.Second, "between points")
	f.DurationVar(&o.Recovery, "recovery", 2*time.Minute, "a new point must be listed so long after a fault is over")
	f.IntVar(&o.Every, "every", 50, "restore every so many points, beside those around faults")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.For < time.Second || o.Every < 1 {
		return usage{errors.New("--for is at least 1s and --every at least 1")}
	}
	var err error
	if o.Bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	o.Size, o.Rate, o.Seed, o.Dir, o.Keep, o.Log, o.Say = int64(size), int64(rate), c.seed, c.dir, c.keepDir, c.log(), say
	res := newResults()
	r, err := chaos.Run(ctx, o)
	if err != nil {
		return err
	}
	res.Detail = r
	if r.Skipped == "" {
		printSoak(os.Stdout, r)
	}
	printChaos(os.Stdout, r)
	if err := c.keep(res, "soak", os.Stdout); err != nil {
		return err
	}
	if !r.OK(len(r.Kills)) || len(r.Grown()) > 0 {
		return errFailed
	}
	return nil
}

// printSoak prints what the faults cost, what the programs held, and how steeply it rose.
func printSoak(w io.Writer, r *chaos.Result) {
	rows := [][]string{{"fault", "times", "recovery p50", "max"}}
	for _, what := range []string{"the agent killed", "the agent upgraded", "the agent paused", "the appliance paused", "the store away"} {
		var x []time.Duration
		for _, k := range r.Kills {
			if k.Victim == what {
				x = append(x, k.Recovery)
			}
		}
		if len(x) > 0 {
			s := report.Seconds(x)
			rows = append(rows, []string{what, fmt.Sprint(len(x)), fmt.Sprintf("%.2f s", report.Quantile(s, 0.5)), fmt.Sprintf("%.2f s", report.Quantile(s, 1))})
		}
	}
	report.Table(w, rows)
	fmt.Fprintln(w)
	held := [][]string{{"at", "heap MiB", "resident MiB", "goroutines", "agent's heap MiB", "agent's goroutines"}}
	for i := range 8 {
		if n := len(r.Samples); n > 8 {
			s := r.Samples[min(n-1, (i+1)*n/8)]
			held = append(held, []string{s.At.Round(time.Second).String(), fmt.Sprintf("%.1f", s.Heap/(1<<20)), fmt.Sprintf("%.1f", s.Resident/(1<<20)), fmt.Sprint(s.Goroutines), fmt.Sprintf("%.1f", s.AgentHeap/(1<<20)), fmt.Sprint(s.AgentGo)})
		}
	}
	report.Table(w, held)
	if trends := r.Trends(); len(trends) > 0 {
		rows := [][]string{{"held at last", "", "more each hour", "R²"}}
		for _, t := range trends {
			unit := 1.0
			if strings.Contains(t.Name, "heap") {
				unit = 1 << 20
			}
			rows = append(rows, []string{t.Name, fmt.Sprintf("%.1f", t.Held/unit), fmt.Sprintf("%+.1f", t.Slope/unit), fmt.Sprintf("%.2f", t.Fit)})
		}
		fmt.Fprintln(w)
		report.Table(w, rows)
	}
	for _, g := range r.Grown() {
		fmt.Fprintln(w, "GROWN:", g)
	}
}
