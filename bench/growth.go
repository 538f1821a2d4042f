package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/bench/corpus"
	"github.com/leeward-dr/leeward/bench/fanin"
	"github.com/leeward-dr/leeward/bench/peers"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
)

var growthExtra = extra{
	name: "growth", run: (*extraRun).growth,
	figures: []report.Goal{
		{Figure: growthOf("a disk", "initial"), Against: growthAgainst, Limit: growthMost},
		{Figure: growthOf("a disk", "restore"), Against: growthAgainst, Limit: growthMost},
		{Figure: growthOf("a history", "next point"), Against: growthAgainst, Limit: growthMost},
		{Figure: growthOf("a history", "first read"), Against: growthAgainst, Limit: growthMost},
		{Figure: growthOf("the number of disks", "round"), Against: growthAgainst, Limit: growthMost},
	},
}

const (
	growthAgainst = "a cost that is 16 times, too"
	// growthMost leaves some room for noise: what is quadratic grows 256 times.
	growthMost = 1.5
)

// growthOf names the figure that says how a cost grows.
func growthOf(what, cost string) string {
	return fmt.Sprintf("%s that is 16 times, %s: cost per unit", what, cost)
}

// series is one thing that is doubled four times, and costs that were seen with it.
type series struct {
	what, unit string
	sizes      []float64
	costs      []*cost
}

type cost struct {
	name, unit string
	values     []float64
	goal       bool
}

func (s *series) add(name, unit string, v float64, goal bool) {
	for _, c := range s.costs {
		if c.name == name {
			c.values = append(c.values, v)
			return
		}
	}
	s.costs = append(s.costs, &cost{name, unit, []float64{v}, goal})
}

// print shows the series with a straight line through each cost.
func (s *series) print(x *extraRun) {
	rows := [][]string{{s.unit}}
	for _, v := range s.sizes {
		rows[0] = append(rows[0], fmt.Sprintf("%g", v))
	}
	rows[0] = append(rows[0], "one more costs", "R²")
	for _, c := range s.costs {
		row := []string{c.name + ", " + c.unit}
		for _, v := range c.values {
			row = append(row, fmt.Sprintf("%.4g", v))
		}
		slope, fit := report.Line(s.sizes[:len(c.values)], c.values)
		rows = append(rows, append(row, fmt.Sprintf("%.3g", slope), fmt.Sprintf("%.3f", fit)))
	}
	fmt.Fprintf(x.out, "\nWhat it costs when %s grows\n", s.what)
	report.Table(x.out, rows)
}

// goals compare the cost of a unit at the end with that at the beginning.
func (s *series) goals() (all []report.Goal) {
	for _, c := range s.costs {
		if !c.goal || len(c.values) != len(s.sizes) {
			continue
		}
		n := len(s.sizes) - 1
		all = append(all, report.Goal{
			Figure: growthOf(s.what, c.name), Against: growthAgainst, Limit: growthMost,
			Ours:  fmt.Sprintf("%.3g to %.3g %s", c.values[0], c.values[n], c.unit),
			Ratio: c.values[n] / c.values[0] / (s.sizes[n] / s.sizes[0]),
		})
	}
	return all
}

// growth doubles each of disk size, length of the history and number of disks four times.
func (x *extraRun) growth(ctx context.Context) (all []report.Goal, err error) {
	for _, f := range []func(context.Context) (*series, error){x.largerDisks, x.longerHistory, x.moreDisks} {
		s, err := f(ctx)
		if err != nil {
			return all, err
		}
		s.print(x)
		all = append(all, s.goals()...)
	}
	return all, nil
}

// largerDisks takes disks of 64 MiB to 1 GiB through everything.
func (x *extraRun) largerDisks(ctx context.Context) (*series, error) {
	s := &series{what: "a disk", unit: "MiB"}
	for size := int64(64); size <= 1024; size *= 2 {
		if err := x.oneDisk(ctx, s, size<<20); err != nil {
			return nil, fmt.Errorf("disk of %d MiB: %w", size, err)
		}
		say("growth: a disk of %d MiB is done", size)
	}
	return s, nil
}

func (x *extraRun) oneDisk(ctx context.Context, s *series, size int64) (err error) {
	r, err := rig.New(x.rig.Dir, x.log())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c, err := corpus.Load(ctx, filepath.Join(r.Dir, "corpus"), corpus.Options{Size: size, Seed: x.seed})
	if err != nil {
		return err
	}
	o, err := newOurs(ctx, r, x.bin, r.Dir)
	if err != nil {
		return err
	}
	if err := o.attach(ctx, c.Base); err != nil {
		return err
	}
	capture := "scan"
	if rig.Root() {
		capture = "auto"
	}
	u, stored, _, err := o.initial(ctx, capture)
	if err != nil {
		return err
	}
	server := o.server.RSS()
	if err := someChange(o.disk, size, 1024, x.seed); err != nil {
		return err
	}
	delta, p, err := o.next(ctx)
	if err != nil {
		return err
	}
	if err := o.stop(); err != nil {
		return err
	}
	restore, _, err := o.restore(ctx, p.ID)
	if err != nil {
		return err
	}
	first, err := o.firsts(ctx, p.ID)
	if err != nil {
		return err
	}
	s.sizes = append(s.sizes, float64(size>>20))
	s.add("initial", "s", u.Wall.Seconds(), true)
	s.add("initial, CPU", "s", u.CPU.Seconds(), false)
	s.add("4 MiB changed, to listed point", "s", delta, false)
	s.add("restore", "s", restore.Wall.Seconds(), true)
	s.add("first read", "s", first, false)
	s.add("stored", "MB", float64(stored)/1e6, false)
	s.add("memory of the appliance", "MiB", float64(server)/(1<<20), false)
	return nil
}

// someChange writes blocks of noise at random places.
func someChange(disk string, size, blocks int64, seed uint64) (err error) {
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	rnd, b := rand.New(rand.NewPCG(seed, uint64(size))), make([]byte, rig.Block)
	src := rand.NewChaCha8([32]byte{byte(seed)})
	for range blocks {
		src.Read(b) // never fails
		if _, err := f.WriteAt(b, rnd.Int64N(size/rig.Block)*rig.Block); err != nil {
			return err
		}
	}
	return f.Sync()
}

// next waits for a point of now and says how long that took.
func (o *ours) next(ctx context.Context) (seconds float64, p api.Point, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the change was not in a listed point in time"))
	defer cancel()
	began := time.Now()
	p, err = o.site.AwaitPoint(ctx, benchMachine, began, o.alive)
	return time.Since(began).Seconds(), p, err
}

// firsts is the median of a few cold first reads.
func (o *ours) firsts(ctx context.Context, point string) (float64, error) {
	var all []float64
	for range 5 {
		if rig.Root() {
			if err := rig.DropCaches(); err != nil {
				return 0, err
			}
		}
		_, _, took, err := o.first(ctx, point, 0)
		if err != nil {
			return 0, err
		}
		all = append(all, took.Seconds())
	}
	return report.Median(all), nil
}

// longerHistory lets one disk have 32 to 512 points with changes between them.
func (x *extraRun) longerHistory(ctx context.Context) (s *series, err error) {
	const size = 64 << 20
	r, err := rig.New(x.rig.Dir, x.log())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c, err := corpus.Load(ctx, filepath.Join(r.Dir, "corpus"), corpus.Options{Size: size, Seed: x.seed})
	if err != nil {
		return nil, err
	}
	o, err := newOurs(ctx, r, x.bin, r.Dir)
	if err != nil {
		return nil, err
	}
	if err := o.attach(ctx, c.Base); err != nil {
		return nil, err
	}
	capture := "scan"
	if rig.Root() {
		capture = "auto"
	}
	_, _, p, err := o.initial(ctx, capture)
	if err != nil {
		return nil, err
	}
	s = &series{what: "a history", unit: "points"}
	oldest, made := p.ID, 1
	for want := 32; want <= 512; want *= 2 {
		var took []float64
		for ; made < want; made++ {
			if err := someChange(o.disk, size, 16, uint64(made)); err != nil {
				return nil, err
			}
			t, q, err := o.next(ctx)
			if err != nil {
				return nil, err
			}
			p, took = q, append(took, t)
		}
		if err := x.atLength(ctx, o, s, oldest, p.ID, took[max(0, len(took)-16):]); err != nil {
			return nil, err
		}
		say("growth: %d points are done", want)
	}
	return s, o.stop()
}

// atLength looks at a history of some length.
func (x *extraRun) atLength(ctx context.Context, o *ours, s *series, oldest, newest string, took []float64) error {
	began := time.Now()
	points, err := o.site.API.Points(ctx, api.Query{Machine: benchMachine})
	if err != nil {
		return err
	}
	list := time.Since(began).Seconds()
	first, err := o.firsts(ctx, newest)
	if err != nil {
		return err
	}
	stored, err := peers.Bytes(product.Vault(o.site.Dir))
	if err != nil {
		return err
	}
	s.sizes = append(s.sizes, float64(len(points)))
	s.add("next point", "s", report.Median(took), true)
	s.add("first read", "s", first, true)
	s.add("list of all points", "s", list, false)
	s.add("stored", "MB", float64(stored)/1e6, false)
	s.add("memory of the appliance", "MiB", float64(o.server.RSS())/(1<<20), false)
	_, err = o.site.Vault.Point(ctx, oldest)
	return err
}

// moreDisks sends changes of 64 to 1024 disks through an appliance.
func (x *extraRun) moreDisks(ctx context.Context) (*series, error) {
	o := fanin.Options{Disks: []int{64, 128, 256, 512, 1024}, Machine: 4, Pace: 100, Limit: 5 * time.Minute, Bin: x.bin, Dir: x.rig.Dir, Log: x.log(), Say: say}
	r, err := fanin.Run(ctx, o)
	if err != nil {
		return nil, err
	}
	s := &series{what: "the number of disks", unit: "disks"}
	for _, row := range r.Rows {
		s.sizes = append(s.sizes, float64(row.Disks))
		s.add("round", "s", row.Round.Seconds(), true)
		s.add("round, CPU", "s", row.CPU.Seconds(), false)
		s.add("marker to listed point, p99", "s", row.P99.Seconds(), false)
		s.add("memory of the appliance", "MiB", float64(row.RSS)/(1<<20), false)
	}
	return s, nil
}
