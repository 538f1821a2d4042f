package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/leeward-dr/leeward/bench/causal"
	"github.com/leeward-dr/leeward/bench/report"
)

// runGroups proves that points of a group keep causes with their effects, and that
// points which machines cut alone do not.
func runGroups(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench groups", flag.ContinueOnError)
	var c common
	c.add(f)
	size := bytesFlag(160 << 20)
	var o causal.Options
	f.IntVar(&o.Points, "points", 200, "points of the group; a tenth as many, at least 5, without a group")
	f.Var(&size, "size", "`size` of each disk")
	f.DurationVar(&o.Limit, "limit", 30*time.Minute, "time that making the points may take")
	if err := parse(f, args); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Size, o.Dir, o.Keep, o.Log, o.Say, o.Guard = int64(size), c.dir, c.keepDir, c.log(), say, []string{self, "guard"}
	res := newResults()
	alone := o
	alone.Alone, alone.Points = true, max(5, o.Points/10)
	var all []*causal.Result
	for _, o := range []causal.Options{alone, o} {
		say("%d points, group: %v", o.Points, !o.Alone)
		r, err := causal.Run(ctx, o)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	rows := [][]string{{"points", "looked at", "a cause is missing in", "worst", "rows", "freeze p50", "skew p50", "seconds"}}
	held := true
	for _, r := range all {
		name := "of the group"
		if r.Alone {
			name = "cut alone"
		}
		if r.Skipped != "" {
			rows, held = append(rows, []string{name, "not tried: " + r.Skipped}), false
			continue
		}
		rows = append(rows, []string{name, fmt.Sprint(r.Points), fmt.Sprint(r.Missing), fmt.Sprint(r.Worst), fmt.Sprint(r.Rows), ms(r.Frozen), ms(r.Skew), fmt.Sprintf("%.0f", r.Seconds)})
		held = held && r.Alone == (r.Missing > 0)
	}
	report.Table(os.Stdout, rows)
	res.Detail = all
	if err := c.keep(res, "groups", os.Stdout); err != nil {
		return err
	}
	if !held {
		return errFailed
	}
	return nil
}
