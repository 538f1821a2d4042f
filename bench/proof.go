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

	"github.com/leeward-dr/leeward/bench/proof"
	"github.com/leeward-dr/leeward/bench/report"
)

func runProof(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench proof", flag.ContinueOnError)
	var c common
	c.add(f)
	size, rate := bytesFlag(1<<30), bytesFlag(8<<20)
	var o proof.Options
	fs := f.String("fs", "ext4,xfs,btrfs", "`filesystems` to prove, with commas; a+b are partitions of one disk")
	f.IntVar(&o.Points, "points", 100, "listed points wanted for each filesystem")
	f.Var(&size, "size", "`size` of the disk")
	f.Var(&rate, "rate", "what fio writes a second")
	f.DurationVar(&o.Interval, "interval", 300*time.Millisecond, "between points")
	f.StringVar(&o.Capture, "capture", "trace", "capture driver of the agent")
	f.StringVar(&o.Mount, "mount", "", "`options` for mount, e.g. discard")
	f.BoolVar(&o.Pgbench, "pgbench", false, "a PostgreSQL under pgbench writes to the (first) filesystem too: 300M of disk at least")
	f.BoolVar(&o.Sabotage, "sabotage", false, "change a block behind the tracker's back: the proof must then fail")
	f.IntVar(&o.Kills, "kills", 0, "kill the agent so often, every other time while all is frozen")
	f.DurationVar(&o.Limit, "limit", 30*time.Minute, "time that the points of one filesystem may take")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.Points < 1 || o.Interval < 100*time.Millisecond {
		return usage{errors.New("use at least 1 point and an interval of 100ms")}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Size, o.Rate, o.Seed, o.Dir, o.Keep, o.Log, o.Say = int64(size), int64(rate), c.seed, c.dir, c.keepDir, c.log(), say
	o.Guard = []string{self, "guard"}
	res := newResults()
	var all []*proof.Result
	for name := range strings.SplitSeq(*fs, ",") {
		say("%s: %d points of a disk of %d MiB, fio at %d MiB/s, seed %d", name, o.Points, o.Size>>20, o.Rate>>20, o.Seed)
		r, err := proof.Run(ctx, name, o)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	res.Detail = all
	printProof(os.Stdout, all)
	if err := c.keep(res, "proof", os.Stdout); err != nil {
		return err
	}
	for _, r := range all {
		if !r.OK(o.Points) {
			return errFailed
		}
	}
	return nil
}

func printProof(w io.Writer, all []*proof.Result) {
	rows := [][]string{{"filesystem", "equal", "of listed", "aborted", "unlisted", "blocks changed", "freeze p50", "p99", "max", "(proof's reading)", "seconds"}}
	for _, r := range all {
		if r.Skipped != "" {
			rows = append(rows, []string{r.FS, "not tried: " + r.Skipped})
			continue
		}
		rows = append(rows, []string{
			r.FS, fmt.Sprint(r.Equal), fmt.Sprint(r.Listed), fmt.Sprint(r.Aborted), fmt.Sprint(r.Unlisted), fmt.Sprintf("%.0f", r.Changed),
			ms(r.FreezeP50), ms(r.FreezeP99), ms(r.FreezeMax), ms(r.Reading), fmt.Sprintf("%.0f", r.Seconds),
		})
	}
	report.Table(w, rows)
	for _, r := range all {
		if k := r.Killed; k != nil {
			fmt.Fprintf(w, "%s: agent killed %d times, %d of them while all was frozen; writable again after %v at most, %d times after more than a second; the next agent took over %d times and compared %d times\n",
				r.FS, k.Kills, k.Frozen, k.ThawMax.Round(time.Millisecond), k.Late, k.Resumed, k.Compared)
		}
		for _, b := range r.Bad {
			fmt.Fprintf(w, "UNEQUAL %s point %s: %s\n", r.FS, b.Point, b.Why)
		}
		for _, e := range r.Events {
			fmt.Fprintf(w, "event %s %s\n", r.FS, e)
		}
	}
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1e3) }
