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
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/corpus"
	"github.com/leeward-dr/leeward/bench/limits"
	"github.com/leeward-dr/leeward/bench/peers"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
)

// The steps that are compared.
const (
	stepInitial = "initial"
	stepDelta   = "delta"
	stepScan    = "delta without tracking"
	stepRestore = "restore"
	stepFirst   = "first read"
	stepPipe    = "pipe"
)

const leeward = "leeward"

// contest is one run of all tools on one disk.
type contest struct {
	common
	bin    product.Binaries
	corpus *corpus.Corpus
	runs   int
	tools  map[string]bool // peers wanted; nil: all
	res    *report.Results
	limits []limits.Limit
	work   string
	drop   func() error // empties the page cache
	noise  int64        // bytes of the incompressible disk for the pipe
}

func runPeers(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	c := &contest{}
	c.add(f)
	full := os.Getenv("FULL") == "1"
	size, noise := bytesFlag(1<<30), bytesFlag(256<<20)
	if full {
		size, noise = 4<<30, 2<<30
	}
	f.Var(&size, "size", "`size` of the disk")
	f.Var(&noise, "pipe-size", "`size` of the incompressible disk")
	f.IntVar(&c.runs, "runs", 3, "runs of every tool, in alternating order")
	percent := f.Float64("percent", 1, "of the disk's blocks that change")
	keepCorpus := f.String("corpus", "", "`directory` to keep the corpus in (default: it is made anew)")
	names := f.String("peers", "", "only these peers, with commas (default: all that are installed; - for none)")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if c.runs < 1 || *percent <= 0 || *percent > 50 {
		return usage{errors.New("use at least one run, and more than 0 and at most 50 percent")}
	}
	if c.bin, err = product.Find(*up, *agentBin); err != nil {
		return usage{err}
	}
	if *names != "" {
		c.tools = map[string]bool{}
		for n := range strings.SplitSeq(*names, ",") {
			c.tools[n] = true
		}
	}
	c.res, c.noise = newResults(), int64(noise)
	r, err := rig.New(c.dir, c.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c.work, r.Keep = r.Dir, c.keepDir
	if err := c.prepare(ctx, *keepCorpus, corpus.Options{Size: int64(size), Seed: c.seed, Percent: *percent}); err != nil {
		return err
	}
	for run := range c.runs {
		if err := c.round(ctx, run); err != nil {
			return err
		}
	}
	c.res.Limits = c.limits
	c.res.Goals = c.goals()
	c.print(os.Stdout)
	name := "quick"
	if full {
		name = "full"
	}
	if err := c.keep(c.res, name, os.Stdout); err != nil {
		return err
	}
	if len(c.res.Of(leeward, stepRestore)) < c.runs {
		return fmt.Errorf("leeward could not be measured to the end: %s: %w", c.res.Why(leeward, stepRestore), errFailed)
	}
	return nil
}

// prepare builds the corpus and takes the limits that need nothing else.
func (c *contest) prepare(ctx context.Context, keep string, o corpus.Options) (err error) {
	c.drop = rig.DropCaches
	if !rig.Root() {
		c.note("the page cache was NOT dropped between steps: that needs root. Reads may come from memory, for every tool alike")
		c.drop = func() error { return rig.Syncfs(c.work) }
	}
	if keep == "" {
		keep = filepath.Join(c.work, "corpus")
	}
	say("corpus: %d MiB, seed %d", o.Size>>20, o.Seed)
	if c.corpus, err = corpus.Load(ctx, keep, o); err != nil {
		return err
	}
	c.res.Corpus = c.corpus.Info
	c.res.Facts["corpus"] = fmt.Sprintf("%s, %d MiB of which %d MiB are not zero, day 2 changes %d blocks", c.corpus.Kind, c.corpus.Size>>20, c.corpus.NonZero>>20, c.corpus.Changed)
	say("limits")
	if err := c.drop(); err != nil {
		return err
	}
	c.limits = append(limits.Disk(ctx, c.corpus.Base, c.work), limits.CPU(ctx, c.corpus.Base)...)
	return context.Cause(ctx)
}

func (c *contest) note(format string, args ...any) {
	c.res.Notes = append(c.res.Notes, fmt.Sprintf(format, args...))
}

// round runs every tool once, beginning with another one each time.
func (c *contest) round(ctx context.Context, run int) error {
	type contestant struct {
		name string
		run  func(context.Context, int) error
	}
	all := []contestant{{leeward, c.leeward}}
	place := peers.Place{Dir: filepath.Join(c.work, "peers"), Source: filepath.Join(c.work, "src", "disk.img")}
	for _, t := range peers.All(place) {
		if c.tools != nil && !c.tools[t.Name()] {
			continue
		}
		if why := t.Missing(); why != "" {
			if run == 0 {
				for _, s := range []string{stepInitial, stepDelta, stepRestore, stepFirst} {
					c.fail(t.Name(), s, run, errors.New(why))
				}
			}
			continue
		}
		if run == 0 {
			c.note("%s: %s", t.Name(), t.Note())
		}
		all = append(all, contestant{t.Name(), func(ctx context.Context, run int) error { return c.peer(ctx, t, place, run) }})
	}
	for i := range all {
		x := all[(i+run)%len(all)]
		say("run %d of %d: %s", run+1, c.runs, x.name)
		if err := x.run(ctx, run); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			say("%s: %v", x.name, err)
		}
	}
	say("run %d of %d: pipe", run+1, c.runs)
	if err := c.pipe(ctx, run); err != nil {
		c.fail(leeward, stepPipe, run, err)
	}
	return context.Cause(ctx)
}

// take keeps a sample.
func (c *contest) take(tool, step string, run int, u rig.Usage, stored int64, others time.Duration, note string) {
	c.res.Samples = append(c.res.Samples, report.Sample{
		Tool: tool, Step: step, Run: run, Wall: u.Wall.Seconds(), CPU: u.CPU.Seconds(), RSS: u.RSS, Stored: stored,
		Busy: max(0, (others - u.CPU).Seconds()), Note: note,
	})
}

// fail keeps the reason why there is no sample, and hands it on.
func (c *contest) fail(tool, step string, run int, err error) error {
	c.res.Samples = append(c.res.Samples, report.Sample{Tool: tool, Step: step, Run: run, Err: err.Error()})
	return err
}

// offset chooses the block of the first read: one in use, another one each run.
func (c *contest) offset(run int) (int64, error) {
	rnd := rand.New(rand.NewPCG(c.seed, uint64(run)))
	for range 10000 {
		off := rnd.Int64N(c.corpus.Size/rig.Block) * rig.Block
		b, err := blockOf(c.corpus.Day2, off)
		if err != nil {
			return 0, err
		}
		if !zeros(b) {
			return off, nil
		}
	}
	return 0, errors.New("the corpus is all zero")
}

func zeros(b []byte) bool { return len(strings.Trim(string(b), "\x00")) == 0 }

// peer takes one peer through all steps.
func (c *contest) peer(ctx context.Context, t peers.Tool, place peers.Place, run int) error {
	defer os.RemoveAll(place.Dir)
	if err := os.MkdirAll(filepath.Dir(place.Source), 0o755); err != nil {
		return err
	}
	if err := t.Init(ctx); err != nil {
		return c.fail(t.Name(), stepInitial, run, err)
	}
	for day, image := range []string{c.corpus.Base, c.corpus.Day2} {
		step := []string{stepInitial, stepDelta}[day]
		if err := errors.Join(os.RemoveAll(place.Source), link(image, place.Source)); err != nil {
			return c.fail(t.Name(), step, run, err)
		}
		before, err := peers.Stored(t)
		if err != nil {
			return c.fail(t.Name(), step, run, err)
		}
		if err := c.drop(); err != nil {
			return err
		}
		busy := rig.Busy()
		u, err := t.Backup(ctx, day+1)
		if err != nil {
			return c.fail(t.Name(), step, run, err)
		}
		others := rig.Busy() - busy
		after, err := peers.Stored(t)
		if err != nil {
			return c.fail(t.Name(), step, run, err)
		}
		c.take(t.Name(), step, run, u, after-before, others, "")
	}
	if err := c.drop(); err != nil {
		return err
	}
	busy := rig.Busy()
	u, out, err := t.Restore(ctx)
	others := rig.Busy() - busy
	if err == nil {
		err = same(ctx, out, c.corpus.DayTwo)
	}
	if err != nil {
		return c.fail(t.Name(), stepRestore, run, err)
	}
	c.take(t.Name(), stepRestore, run, u, 0, others, encryption(t))
	return c.peerFirst(ctx, t, run)
}

func encryption(t peers.Tool) string {
	if t.Encrypted() {
		return ""
	}
	return "not encrypted"
}

func (c *contest) peerFirst(ctx context.Context, t peers.Tool, run int) error {
	off, err := c.offset(run)
	if err != nil {
		return err
	}
	if err := c.drop(); err != nil {
		return err
	}
	b, at, took, err := t.First(ctx, off)
	if err == nil {
		err = sameBlock(b, c.corpus.Day2, at)
	}
	if err != nil {
		return c.fail(t.Name(), stepFirst, run, err)
	}
	note := ""
	if at != off {
		note = "the head of the disk only: no random access without FUSE"
	}
	c.take(t.Name(), stepFirst, run, rig.Usage{Wall: took}, 0, 0, note)
	return nil
}

// link makes a second name for a file, or a copy where that cannot be.
func link(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	_, err := rig.Run(context.Background(), "cp", "--sparse=always", from, to)
	return err
}

// print prints everything for people.
func (c *contest) print(w io.Writer) {
	fmt.Fprintf(w, "\nLeeward bench, %s\n", c.res.Time.Format(time.RFC3339))
	report.Facts(w, c.res.Facts)
	fmt.Fprintln(w, "\nLimits of this machine")
	rows := [][]string{{"limit", "figure", "how"}}
	for _, l := range c.limits {
		rows = append(rows, []string{l.Name, l.String(), l.How})
	}
	report.Table(w, rows)
	c.res.Steps(w, []string{stepInitial, stepDelta, stepScan, stepRestore, stepFirst, stepPipe})
	fmt.Fprintln(w, "\nGoals: ratios of medians of this run")
	report.PrintGoals(w, c.res.Goals)
	if len(c.res.Notes) > 0 {
		fmt.Fprintln(w, "\nNotes")
		for _, n := range c.res.Notes {
			fmt.Fprintln(w, "  "+n)
		}
	}
}
