package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
)

// extra is a scenario that takes minutes: FULL=1 has it, and it can be had by itself.
type extra struct {
	name string
	// figures are the goals as they stand in the table while nothing is known.
	figures []report.Goal
	run     func(x *extraRun, ctx context.Context) ([]report.Goal, error)
}

// extraRun is what an extra has to work with.
type extraRun struct {
	*common
	bin  product.Binaries
	rig  *rig.Rig
	only map[string]bool // peers wanted; nil: all
	out  io.Writer       // tables beside the goals
}

// extras lists them in the order in which they run.
func extras() []extra {
	return []extra{historyExtra, databaseExtra, failuresExtra, growthExtra}
}

// do runs an extra in a directory of its own. What it could not find out says why.
func (e *extra) do(ctx context.Context, c *common, bin product.Binaries, only map[string]bool, dir string, out io.Writer) (goals []report.Goal) {
	say("%s", e.name)
	r, err := rig.New(dir, c.log())
	if err == nil {
		r.Keep = c.keepDir
		goals, err = e.run(&extraRun{common: c, bin: bin, rig: r, only: only, out: out}, ctx)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		say("%s: %v", e.name, err)
		return e.without(err.Error(), goals)
	}
	return goals
}

// without are the goals of an extra, those that have not been taken with the reason.
func (e *extra) without(why string, have []report.Goal) []report.Goal {
	all := slices.Clone(have)
	for _, g := range e.figures {
		if !slices.ContainsFunc(have, func(h report.Goal) bool { return h.Figure == g.Figure }) {
			g.Ours, g.Why = "-", why
			all = append(all, g)
		}
	}
	return all
}

// runExtra runs some of them without the rest of the bench.
func runExtra(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("bench extra", flag.ContinueOnError)
	var c common
	c.add(f)
	var names []string
	for _, e := range extras() {
		names = append(names, e.name)
	}
	only := f.String("only", strings.Join(names, ","), "which, with commas")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	bin, err := product.Find(*up, *agentBin)
	if err != nil {
		return usage{err}
	}
	res, wanted := newResults(), strings.Split(*only, ",")
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return usage{fmt.Errorf("no scenario %q: use some of %s", w, strings.Join(names, ", "))}
		}
	}
	for _, e := range extras() {
		if slices.Contains(wanted, e.name) {
			res.Goals = append(res.Goals, e.do(ctx, &c, bin, nil, c.dir, os.Stdout)...)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
	}
	fmt.Println()
	report.Facts(os.Stdout, res.Facts)
	report.PrintGoals(os.Stdout, res.Goals)
	return c.keep(res, "extra", os.Stdout)
}
