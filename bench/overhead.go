package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/leeward-dr/leeward/bench/overhead"
	"github.com/leeward-dr/leeward/bench/report"
)

func runOverhead(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench overhead", flag.ContinueOnError)
	var c common
	c.add(f)
	size := bytesFlag(512 << 20)
	var o overhead.Options
	f.Var(&size, "size", "`size` of each disk")
	f.IntVar(&o.Pairs, "pairs", 60, "alternating pairs of each kind of writing")
	f.DurationVar(&o.Each, "each", time.Second, "length of each window with and without tracking")
	f.IntVar(&o.Points, "points", 100, "points under pgbench (0: none)")
	f.DurationVar(&o.Bound, "bound", 200*time.Millisecond, "freeze limit under pgbench")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.Pairs < 1 || o.Each < 100*time.Millisecond {
		return usage{errors.New("use at least 1 pair and 100ms each")}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Size, o.Dir, o.Log, o.Say, o.Guard = int64(size), c.dir, c.log(), say, []string{self, "guard"}
	r, err := overhead.Run(ctx, o)
	if err != nil {
		return err
	}
	res := newResults()
	res.Detail = r
	rows := [][]string{{"writing", "with tracking", "95 % of", "noise", "CPU s per million events", "events", "losses"}}
	for _, w := range r.Writes {
		rows = append(rows, []string{w.Name, fmt.Sprintf("%.3f", w.Median), fmt.Sprintf("%.3f to %.3f", w.Low, w.High), fmt.Sprintf("%.3f", w.Floor), fmt.Sprintf("%.2f", w.CPUPerMega), fmt.Sprint(w.Events), fmt.Sprint(w.Losses)})
	}
	report.Facts(os.Stdout, res.Facts)
	report.Table(os.Stdout, rows)
	if s := r.Stall; s != nil {
		fmt.Printf("\n%d points under pgbench: writers stood still for %v (median), %v (99 %%), %v (longest), bound %v; %d points given up\n", s.Points, s.P50, s.P99, s.Max, s.Bound, s.Aborted)
	}
	if err := c.keep(res, "overhead", os.Stdout); err != nil {
		return err
	}
	if s := r.Stall; s != nil && s.P99 > s.Bound {
		return errFailed
	}
	return nil
}
