package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/bench/fleet"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
)

// inSwitch marks the child that lives in the network namespace of the switch.
const inSwitch = "LEEWARD_BENCH_SWITCH"

// runFleet runs a cluster and breaks it; with power the only fault is a power failure
// of NATS nodes.
func runFleet(ctx context.Context, args []string, power bool) error {
	name := "fleet"
	if power {
		name = "power"
	}
	f := flag.NewFlagSet("bench "+name, flag.ContinueOnError)
	var c common
	c.add(f)
	size := bytesFlag(96 << 20)
	var o fleet.Options
	f.IntVar(&o.Rounds, "rounds", 50, "how often something is broken")
	f.IntVar(&o.Agents, "agents", 4, "machines")
	f.Var(&size, "size", "`size` of each disk")
	f.DurationVar(&o.Interval, "interval", 2*time.Second, "between points")
	f.DurationVar(&o.Cut, "cut", 30*time.Second, "how long a cable is out")
	f.DurationVar(&o.Recovery, "recovery", 30*time.Second, "every machine must have a new point so long after a fault ended")
	f.IntVar(&o.Every, "every", 50, "restore every so many points, beside those around faults")
	f.IntVar(&o.Rolling, "rolling", 10, "restart everything, part by part, every so many rounds; 0: never")
	f.BoolVar(&o.Each, "each", false, "one fault of each kind after the other instead of random ones")
	f.StringVar(&o.Only, "only", "", "only faults whose text begins with `words`, e.g. \"kill n\" or \"pull the cable of n\"")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.Rounds < 0 || o.Agents < 1 || o.Agents > 100 || o.Every < 1 {
		return usage{errors.New("--rounds may not be negative, --agents is 1 to 100, --every at least 1")}
	}
	if os.Getenv(inSwitch) == "" && os.Geteuid() == 0 {
		return insideSwitch(ctx)
	}
	var err error
	if o.Bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	o.Nodes = filepath.Join(source(), "..", "deploy", "nats")
	o.Power = power
	o.Size, o.Seed, o.Dir, o.Keep, o.Log, o.Say = int64(size), c.seed, c.dir, c.keepDir, c.log(), say
	res := newResults()
	r, err := fleet.Run(ctx, o)
	if err != nil {
		return err
	}
	res.Detail = r
	printFleet(os.Stdout, r)
	if err := c.keep(res, name, os.Stdout); err != nil {
		return err
	}
	if !r.OK(o.Rounds) {
		return errFailed
	}
	return nil
}

// insideSwitch runs this program again in a network namespace of its own.
func insideSwitch(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inSwitch+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it cleans up
	cmd.WaitDelay = 2 * time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("in the network namespace of the switch: %w", err)
	}
	return nil
}

func printFleet(w io.Writer, r *fleet.Result) {
	if r.Skipped != "" {
		fmt.Fprintln(w, "not tried:", r.Skipped)
		return
	}
	rows := [][]string{{"fault", "rounds", "recovery p50", "max"}}
	for _, kind := range []string{"kill n", "kill p", "kill c", "kill web", "pull the cable of n", "pull the cable of the leader", "pull the cable of p", "pull the cable of c", "pull the cable of web", "rolling", "power of n", "power of the leader", "power of all"} {
		var x []time.Duration
		for _, k := range r.Rounds {
			if strings.HasPrefix(k.What, kind) {
				x = append(x, k.Recovery)
			}
		}
		if len(x) > 0 {
			s := report.Seconds(x)
			rows = append(rows, []string{kind, fmt.Sprint(len(x)), fmt.Sprintf("%.1f s", report.Quantile(s, 0.5)), fmt.Sprintf("%.1f s", report.Quantile(s, 1))})
		}
	}
	report.Table(w, rows)
	fmt.Fprintf(w, "\nseed %d, %d points listed, %d restored, mounted and counted, %d records, %d full resyncs, %.0f s\n",
		r.Seed, r.Listed, r.Checked, r.Records, len(r.Resyncs), r.Seconds)
	for _, e := range r.Ends {
		fmt.Fprintln(w, "ended by itself:", e)
	}
	for _, e := range r.Resyncs {
		fmt.Fprintln(w, "resync:", e)
	}
	for _, p := range r.Problems {
		fmt.Fprintln(w, "vault check:", p)
	}
	for _, b := range r.Bad {
		fmt.Fprintln(w, "BROKEN:", b)
	}
}

// rescueLimit is how many bytes may cross for each that differs.
const rescueLimit = 1.2

// runRescue brings a machine home onto bare metal.
func runRescue(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench rescue", flag.ContinueOnError)
	var c common
	c.add(f)
	size := bytesFlag(8 << 30)
	var o fleet.RescueOptions
	f.Var(&size, "size", "`size` of the disk")
	f.Float64Var(&o.Fill, "fill", 0.25, "share of the disk with contents, from its beginning")
	f.Float64Var(&o.Share, "share", 0.01, "share of the disk that differs when it comes home, all of it in what has contents")
	f.BoolVar(&o.Kill, "kill", true, "the rescue loses its power in the middle")
	f.DurationVar(&o.Limit, "limit", 20*time.Minute, "of each step")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if size < 64<<20 || o.Share <= 0 || o.Fill > 1 || o.Fill < o.Share {
		return usage{errors.New("use at least 64M, --fill up to 1, and --share up to --fill")}
	}
	if os.Getenv(inSwitch) == "" && os.Geteuid() == 0 {
		return insideSwitch(ctx)
	}
	var err error
	if o.Bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	o.Size, o.Seed, o.Dir, o.Keep, o.Log, o.Say = int64(size), c.seed, c.dir, c.keepDir, c.log(), say
	r, err := fleet.Rescue(ctx, o)
	if err != nil {
		return err
	}
	if r.Skipped != "" {
		fmt.Println("not tried:", r.Skipped)
		return errFailed
	}
	res := newResults()
	res.Detail = r
	report.Facts(os.Stdout, res.Facts)
	fmt.Printf("\ndisk of %d MiB, %.1f MiB differed, %.1f MiB crossed the cable: %.3f (limit %.1f); power failed: %v; equal by SHA-256: %v; home after %.1f s\n",
		r.Disk>>20, float64(r.Differ)/(1<<20), float64(r.Crossed)/(1<<20), r.Ratio, rescueLimit, r.Killed, r.Equal, r.Home)
	if err := c.keep(res, "rescue", os.Stdout); err != nil {
		return err
	}
	if !r.OK(rescueLimit) {
		return errFailed
	}
	return nil
}
