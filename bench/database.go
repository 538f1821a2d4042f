package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
)

const (
	rpoFigure = "RPO p99 under pgbench, a point every 1 s"
	tpsFigure = "pgbench TPS, a point every 5 s"
	rpoFor    = time.Minute
	tpsPairs  = 6
	tpsFor    = 15 * time.Second
	pgClients = 4
	pgDisk    = 768 << 20
)

var databaseExtra = extra{
	name: "database", run: (*extraRun).database,
	figures: []report.Goal{
		{Figure: rpoFigure, Against: "2 s", Limit: 1},
		{Figure: tpsFigure, Against: "no agent on the disk", Limit: 0.95, AtLeast: true},
	},
}

// pgDiskOn is a database on a disk of its own.
type pgDiskOn struct {
	dev string
	db  *load.Postgres
}

// database measures how old what is safe is while a database is written to, and what
// that costs the database.
func (x *extraRun) database(ctx context.Context) ([]report.Goal, error) {
	if why := load.NoPostgres(); why != "" {
		return nil, errors.New(why)
	}
	if why := rig.Missing("ext4"); why != "" {
		return nil, errors.New(why)
	}
	protected, err := x.newDatabase(ctx, "protected")
	if err != nil {
		return nil, err
	}
	alone, err := x.newDatabase(ctx, "alone")
	if err != nil {
		return nil, err
	}
	o, err := newOurs(ctx, x.rig, x.bin, x.rig.Dir)
	if err != nil {
		return nil, err
	}
	o.disk, o.interval = protected.dev, time.Second
	if _, _, _, err := o.initial(ctx, "auto"); err != nil {
		return nil, err
	}
	rpo, err := x.rpo(ctx, o, protected)
	if err != nil {
		return nil, err
	}
	if err := o.agent.Stop(patience); err != nil {
		return []report.Goal{rpo}, err
	}
	o.interval = 5 * time.Second
	if _, _, _, err := o.initial(ctx, "auto"); err != nil {
		return []report.Goal{rpo}, err
	}
	tps, err := x.tps(ctx, protected, alone)
	if err != nil {
		return []report.Goal{rpo}, err
	}
	return []report.Goal{rpo, tps}, errors.Join(o.stop(), protected.db.Stop(), alone.db.Stop())
}

func (x *extraRun) newDatabase(ctx context.Context, name string) (d *pgDiskOn, err error) {
	d = &pgDiskOn{}
	file, err := x.rig.File(name+".img", pgDisk)
	if err != nil {
		return nil, err
	}
	if d.dev, err = x.rig.Loop(ctx, file); err != nil {
		return nil, err
	}
	if err := rig.Mkfs(ctx, "ext4", d.dev); err != nil {
		return nil, err
	}
	dir, _, err := x.rig.Mount(ctx, name, "ext4", d.dev, "")
	if err != nil {
		return nil, err
	}
	d.db, err = load.StartPostgres(ctx, x.rig, dir)
	return d, err
}

// rpo asks of every transaction how long after its commit a point that has it was listed.
func (x *extraRun) rpo(ctx context.Context, o *ours, d *pgDiskOn) (report.Goal, error) {
	began := time.Now()
	b, err := d.db.Measure(ctx, x.rig, "rpo", pgClients, rpoFor)
	if err != nil {
		return report.Goal{}, err
	}
	var last time.Time
	for _, t := range b.Commits {
		if t.After(last) {
			last = t
		}
	}
	wait, cancel := context.WithTimeoutCause(ctx, patience, errors.New("the last commit was in no listed point in time"))
	defer cancel()
	if _, err := o.site.AwaitPoint(wait, benchMachine, last, o.alive); err != nil {
		return report.Goal{}, err
	}
	points, err := o.site.API.Points(ctx, api.Query{Machine: benchMachine, Since: began.Add(-time.Minute)})
	if err != nil {
		return report.Goal{}, err
	}
	ages, err := safeAfter(b.Commits, points)
	if err != nil {
		return report.Goal{}, err
	}
	at := func(q float64) float64 { return report.Quantile(ages, q) }
	fmt.Fprintf(x.out, "\nFrom commit to listed point: %d transactions of pgbench in %v, %.0f a second, %d points\n", len(ages), rpoFor, b.TPS, len(points))
	between, until := slowestPoints(points)
	report.Table(x.out, [][]string{
		{"p50", "p99", "max", "longest between two cuts", "longest from cut to list"},
		{fmt.Sprintf("%.2f s", at(0.5)), fmt.Sprintf("%.2f s", at(0.99)), fmt.Sprintf("%.2f s", at(1)), fmt.Sprintf("%.2f s", between.Seconds()), fmt.Sprintf("%.2f s", until.Seconds())},
	})
	return report.Goal{Figure: rpoFigure, Ours: fmt.Sprintf("%.2f s (p50 %.2f, max %.2f)", at(0.99), at(0.5), at(1)), Against: "2 s", Limit: 1, Ratio: at(0.99) / 2}, nil
}

// safeAfter says for every commit how many seconds later the first point that was cut
// after it was listed.
func safeAfter(commits []time.Time, points []api.Point) (ages []float64, err error) {
	points = slices.Clone(points)
	slices.SortFunc(points, func(a, b api.Point) int { return a.Time.Compare(b.Time) })
	// A point that is listed before an older one covers what that covers.
	listed := make([]time.Time, len(points))
	for i := len(points) - 1; i >= 0; i-- {
		listed[i] = points[i].Listed
		if i+1 < len(points) && listed[i+1].Before(listed[i]) {
			listed[i] = listed[i+1]
		}
	}
	for _, t := range commits {
		i, _ := slices.BinarySearchFunc(points, t, func(p api.Point, t time.Time) int { return p.Time.Compare(t) })
		if i == len(points) {
			return nil, fmt.Errorf("the commit at %s is in no listed point", t.Format(time.RFC3339Nano))
		}
		ages = append(ages, listed[i].Sub(t).Seconds())
	}
	if len(ages) == 0 {
		return nil, errors.New("pgbench committed nothing")
	}
	return ages, nil
}

// slowestPoints says whether it was the agent or the rest that took long, if anything did.
func slowestPoints(points []api.Point) (between, until time.Duration) {
	points = slices.Clone(points)
	slices.SortFunc(points, func(a, b api.Point) int { return a.Time.Compare(b.Time) })
	for i, p := range points {
		until = max(until, p.Listed.Sub(p.Time))
		if i > 0 {
			between = max(between, p.Time.Sub(points[i-1].Time))
		}
	}
	return between, until
}

// tps lets pgbench write to a disk that is protected and to one that is not, in turn. The
// appliance has to share the two cores with the database.
func (x *extraRun) tps(ctx context.Context, protected, alone *pgDiskOn) (report.Goal, error) {
	var with, without, ratios []float64
	for i := range tpsPairs {
		var pair [2]float64
		for k := range pair {
			which := (i + k) % 2 // who is first changes
			d := []*pgDiskOn{protected, alone}[which]
			b, err := d.db.Measure(ctx, x.rig, fmt.Sprintf("tps-%d-%d", i, which), pgClients, tpsFor)
			if err != nil {
				return report.Goal{}, err
			}
			pair[which] = b.TPS
		}
		with, without, ratios = append(with, pair[0]), append(without, pair[1]), append(ratios, pair[0]/pair[1])
	}
	fmt.Fprintf(x.out, "\npgbench for %v in turn on a disk with a point every 5 s and on one without an agent, appliance on the same cores\n", tpsFor)
	report.Table(x.out, [][]string{
		{"pairs", "with", "without", "ratio of the pairs", "(min-max)"},
		{fmt.Sprint(tpsPairs), fmt.Sprintf("%.0f", report.Median(with)), fmt.Sprintf("%.0f", report.Median(without)),
			fmt.Sprintf("%.3f", report.Median(ratios)), fmt.Sprintf("(%.3f-%.3f)", slices.Min(ratios), slices.Max(ratios))},
	})
	return report.Goal{
		Figure: tpsFigure, Ours: fmt.Sprintf("%.0f", report.Median(with)), Against: fmt.Sprintf("no agent on the disk %.0f", report.Median(without)),
		Ratio: report.Median(ratios), Limit: 0.95, AtLeast: true,
	}, nil
}
