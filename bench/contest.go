package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	stepScan    = "delta without tracking"
	stepRestore = "restore"
	stepFirst   = "first read"
	stepPipe    = "pipe"
)

// stepDelta is the step of a day on which so many percent changed.
func stepDelta(percent float64) string { return fmt.Sprintf("delta %g %%", percent) }

// steps lists them all in their order.
func (c *contest) steps() []string {
	all := []string{stepInitial}
	for _, p := range c.percents {
		all = append(all, stepDelta(p))
	}
	return append(all, stepScan, stepRestore, stepFirst, stepPipe)
}

const leeward = "leeward"

// contest is one run of all tools on one disk.
type contest struct {
	common
	bin    product.Binaries
	corpus *corpus.Corpus
	runs   int
	full   bool // FULL=1
	// percents of the disk change on the days that follow the first.
	percents []float64
	tools    map[string]bool // peers wanted; nil: all
	res      *report.Results
	limits   []limits.Limit
	work     string
	drop     func() error // empties the page cache
	noise    int64        // bytes of the incompressible disk for the pipe
}

func runPeers(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	c := &contest{}
	c.add(f)
	c.full = os.Getenv("FULL") == "1"
	size, noise := bytesFlag(768<<20), bytesFlag(256<<20)
	if c.full {
		size, noise = 4<<30, 2<<30
	}
	f.Var(&size, "size", "`size` of the disk")
	f.Var(&noise, "pipe-size", "`size` of the incompressible disk")
	f.IntVar(&c.runs, "runs", 3, "runs of every tool, in alternating order")
	percents := f.String("percent", "1,5", "of the disk's blocks that change from day to day, with commas")
	keepCorpus := f.String("corpus", "", "`directory` to keep the corpus in (default: it is made anew)")
	names := f.String("peers", "", "only these peers, with commas (default: all that are installed, plain copies with FULL=1; - for none)")
	up := f.String("leeward", "bin/leeward", "the server's binary")
	agentBin := f.String("agent", "bin/leeward-agent", "the agent's binary")
	if err := parse(f, args); err != nil {
		return err
	}
	if c.percents, err = parsePercents(*percents); err != nil {
		return usage{err}
	}
	if c.runs < 1 {
		return usage{errors.New("use at least one run")}
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
	if err := c.prepare(ctx, *keepCorpus, corpus.Options{Size: int64(size), Seed: c.seed, Percents: c.percents}); err != nil {
		return err
	}
	for run := range c.runs {
		if err := c.round(ctx, run); err != nil {
			return err
		}
	}
	var tables bytes.Buffer
	c.res.Limits = c.limits
	c.res.Goals = append(c.goals(), c.extra(ctx, &tables)...)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	c.print(os.Stdout, tables.String())
	name := "quick"
	if c.full {
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

// extra takes what only FULL=1 has the time for.
func (c *contest) extra(ctx context.Context, tables io.Writer) (goals []report.Goal) {
	for _, e := range extras() {
		if !c.full {
			goals = append(goals, e.without("it takes minutes: make bench FULL=1", nil)...)
		} else if ctx.Err() == nil {
			goals = append(goals, e.do(ctx, &c.common, c.bin, c.tools, c.work, tables)...)
		}
	}
	return goals
}

// parsePercents reads numbers with commas between them.
func parsePercents(s string) (all []float64, err error) {
	for f := range strings.SplitSeq(s, ",") {
		p, err := strconv.ParseFloat(f, 64)
		if err != nil || p <= 0 || p > 50 || slices.Contains(all, p) {
			return nil, fmt.Errorf("%q is no list of different percentages of more than 0 and at most 50", s)
		}
		all = append(all, p)
	}
	return all, nil
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
	c.res.Facts["corpus"] = fmt.Sprintf("%s, %d MiB of which %d MiB are not zero", c.corpus.Kind, c.corpus.Size>>20, c.corpus.NonZero>>20)
	for i, d := range c.corpus.Days {
		c.res.Facts["corpus"] += fmt.Sprintf(", day %d changes %d blocks", i+2, d.Changed)
	}
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
	tools := peers.All(place)
	if c.full || c.tools != nil {
		tools = append(tools, peers.More(place)...)
	}
	for _, t := range tools {
		if c.tools != nil && !c.tools[t.Name()] {
			continue
		}
		if why := t.Missing(); why != "" {
			if run == 0 {
				for _, s := range c.steps() {
					if s != stepScan && s != stepPipe {
						c.fail(t.Name(), s, run, errors.New(why))
					}
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
		b, err := blockOf(c.corpus.Last().Path, off)
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
func (c *contest) peer(ctx context.Context, t peers.Tool, place peers.Place, run int) (err error) {
	defer os.RemoveAll(place.Dir)
	if x, ok := t.(io.Closer); ok {
		defer func() { err = errors.Join(err, x.Close()) }()
	}
	if err := os.MkdirAll(filepath.Dir(place.Source), 0o755); err != nil {
		return err
	}
	if err := c.peerDay(ctx, t, place, run, 1, stepInitial); err != nil {
		return err
	}
	for i, p := range c.percents {
		if err := c.peerDay(ctx, t, place, run, i+2, stepDelta(p)); err != nil {
			return err
		}
	}
	if err := c.drop(); err != nil {
		return err
	}
	busy := rig.Busy()
	u, out, err := t.Restore(ctx)
	others := rig.Busy() - busy
	if err == nil {
		err = same(ctx, out, c.corpus.Last().SHA256)
	}
	if err != nil {
		return c.fail(t.Name(), stepRestore, run, err)
	}
	c.take(t.Name(), stepRestore, run, u, 0, others, encryption(t))
	return c.peerFirst(ctx, t, run)
}

// peerDay lets a peer store the disk as it is on a day.
func (c *contest) peerDay(ctx context.Context, t peers.Tool, place peers.Place, run, day int, step string) error {
	image := c.corpus.Base
	if day > 1 {
		image = c.corpus.Days[day-2].Path
	}
	err := errors.Join(os.RemoveAll(place.Source), link(image, place.Source))
	if err == nil && day == 1 {
		err = t.Init(ctx)
	}
	if f, ok := t.(peers.Follower); err == nil && ok && day > 1 {
		err = f.Change(ctx, image, c.corpus.Days[day-2].ChangedAt)
	}
	if err != nil {
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
	u, err := t.Backup(ctx, day)
	if err != nil {
		return c.fail(t.Name(), step, run, err)
	}
	others := rig.Busy() - busy
	after, err := peers.Stored(t)
	if err != nil {
		return c.fail(t.Name(), step, run, err)
	}
	c.take(t.Name(), step, run, u, after-before, others, "")
	return nil
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
		err = sameBlock(b, c.corpus.Last().Path, at)
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
func (c *contest) print(w io.Writer, tables string) {
	fmt.Fprintf(w, "\nLeeward bench, %s\n", c.res.Time.Format(time.RFC3339))
	report.Facts(w, c.res.Facts)
	fmt.Fprintln(w, "\nLimits of this machine")
	rows := [][]string{{"limit", "figure", "how"}}
	for _, l := range c.limits {
		rows = append(rows, []string{l.Name, l.String(), l.How})
	}
	report.Table(w, rows)
	c.res.Steps(w, c.steps())
	fmt.Fprint(w, tables)
	fmt.Fprintln(w, "\nGoals: ratios of medians of this run")
	report.PrintGoals(w, c.res.Goals)
	if len(c.res.Notes) > 0 {
		fmt.Fprintln(w, "\nNotes")
		for _, n := range c.res.Notes {
			fmt.Fprintln(w, "  "+n)
		}
	}
}
