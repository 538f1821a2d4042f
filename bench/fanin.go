package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/fanin"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/stages"
)

func runFanin(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench fanin", flag.ContinueOnError)
	var c common
	c.add(f)
	var o fanin.Options
	disks := f.String("disks", "1250,2500,5000,10000", "how many disks, with commas, ascending")
	f.IntVar(&o.Machine, "machine", 4, "disks a machine")
	f.IntVar(&o.Pace, "pace", 200, "disks a second while latency is measured")
	f.DurationVar(&o.Limit, "limit", 10*time.Minute, "longest time for each of appliance and cluster")
	only := f.String("servers", "appliance,cluster", "what to measure, with commas")
	keepProfile := f.String("profile", "", "run the appliance in this process and keep a CPU profile of the last round in this `file`")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	for s := range strings.SplitSeq(*disks, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < o.Machine || len(o.Disks) > 0 && n <= o.Disks[len(o.Disks)-1] {
			return usage{fmt.Errorf("--disks is %q: write ascending numbers with commas, at least --machine", *disks)}
		}
		o.Disks = append(o.Disks, n)
	}
	if o.Machine < 1 || o.Pace < 1 {
		return usage{errors.New("--machine and --pace are at least 1")}
	}
	var err error
	if o.Bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	o.Nodes = filepath.Join(source(), "..", "deploy", "nats")
	o.Dir, o.Keep, o.Log, o.Say = c.dir, c.keepDir, c.log(), say
	if *keepProfile != "" {
		o.Profile = func() (func() error, error) { return profileInto(*keepProfile) }
	}
	res := newResults()
	var all []*fanin.Result
	for s := range strings.SplitSeq(*only, ",") {
		if s != "appliance" && s != "cluster" {
			return usage{fmt.Errorf("--servers is %q: use appliance, cluster or both", *only)}
		}
		o.Cluster = s == "cluster"
		r, err := fanin.Run(ctx, o)
		if err != nil {
			return err
		}
		all = append(all, r)
		printFanin(os.Stdout, r)
	}
	res.Detail = all
	return c.keep(res, "fanin", os.Stdout)
}

func printFanin(w io.Writer, r *fanin.Result) {
	fmt.Fprintf(w, "\n%s\n", r.Servers)
	rows := [][]string{{"disks", "first points", "round", "links/s", "cpu s", "MiB", "marker p50", "p99", "left on the bus"}}
	s := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	for _, x := range r.Rows {
		rows = append(rows, []string{
			fmt.Sprint(x.Disks), s(x.First), s(x.Round), fmt.Sprintf("%.0f", x.Links), fmt.Sprintf("%.1f", x.CPU.Seconds()), fmt.Sprint(x.RSS >> 20), s(x.P50), s(x.P99), fmt.Sprint(x.Backlog),
		})
	}
	report.Table(w, rows)
	fmt.Fprintf(w, "a disk more costs %.2f ms of a round (straight line: R² %.3f), %.2f ms of CPU (%.3f), %.1f KiB of memory (%.3f)\n",
		1000*r.SecondsPerDisk, r.SecondsFit, 1000*r.CPUPerDisk, r.CPUFit, r.BytesPerDisk/1024, r.BytesFit)
}

// profileInto begins a CPU profile that is kept in a file, and whose stages are printed,
// when stop is called.
func profileInto(file string) (stop func() error, err error) {
	var b bytes.Buffer
	if err := pprof.StartCPUProfile(&b); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		used, err := stages.Of(b.Bytes())
		if err != nil {
			return err
		}
		rows := [][]string{{"stage", "CPU s"}}
		for _, u := range used {
			rows = append(rows, []string{u.Stage, fmt.Sprintf("%.2f", u.CPU.Seconds())})
		}
		report.Table(os.Stdout, rows)
		return os.WriteFile(file, b.Bytes(), 0o600)
	}, nil
}
