package main

import (
	"fmt"
	"math"

	"github.com/leeward-dr/leeward/bench/limits"
	"github.com/leeward-dr/leeward/bench/peers"
	"github.com/leeward-dr/leeward/bench/report"
)

func wall(s report.Sample) float64   { return s.Wall }
func cpu(s report.Sample) float64    { return s.CPU }
func stored(s report.Sample) float64 { return float64(s.Stored) }
func rss(s report.Sample) float64    { return float64(s.RSS) }

// rateSample makes a sample of a rate, so that it has a row beside the others.
func rateSample(l limits.Limit, n int64, run int) report.Sample {
	return report.Sample{Tool: l.Name, Step: stepPipe, Run: run, Wall: float64(n) / l.Rate, Note: "plain publish and consume, messages of the same size"}
}

// peerNames are the tools that may stand in "best of".
var (
	everyPeer     = []string{"restic", "borg", "qemu-img", peers.Bitmap}
	encryptedPeer = []string{"restic", "borg", "zstd | openssl"}
	readers       = []string{"restic", "borg", "qemu-img"} // who read everything to find what changed
)

// best finds the peer with the least of something in a step.
func (c *contest) best(step string, of []string, get func(report.Sample) float64) (name string, figure float64) {
	figure = math.NaN()
	for _, t := range of {
		if x := c.res.Take(t, step, get); !math.IsNaN(x) && (math.IsNaN(figure) || x < figure) {
			name, figure = t, x
		}
	}
	return name, figure
}

// goal compares a figure of ours with one of a peer.
func (c *contest) goal(figure, step, format string, scale float64, get func(report.Sample) float64, against []string, limit float64) report.Goal {
	return c.compare(figure, step, step, format, scale, get, against, limit)
}

func (c *contest) compare(figure, step, theirs, format string, scale float64, get func(report.Sample) float64, against []string, limit float64) report.Goal {
	g := report.Goal{Figure: figure, Limit: limit, Ours: "-", Against: "-"}
	mine := c.res.Take(leeward, step, get)
	name, other := c.best(theirs, against, get)
	if !math.IsNaN(mine) {
		g.Ours = fmt.Sprintf(format, mine*scale)
	}
	if !math.IsNaN(other) {
		g.Against = name + " " + fmt.Sprintf(format, other*scale)
	}
	switch {
	case math.IsNaN(mine):
		g.Why = c.res.Why(leeward, step)
	case math.IsNaN(other) && len(against) == 1:
		g.Why = against[0] + " " + c.res.Why(against[0], theirs)
	case math.IsNaN(other):
		g.Why = "no peer was measured"
	default:
		g.Ratio = mine / other
	}
	return g
}

// goals lists the goals with this run's figures.
func (c *contest) goals() []report.Goal {
	perGiB := float64(1<<30) / float64(c.corpus.NonZero)
	all := []report.Goal{
		c.goal("initial replication, wall", stepInitial, "%.1f s", 1, wall, everyPeer, 0.9),
		c.goal("initial replication, wall", stepInitial, "%.1f s", 1, wall, []string{"restic"}, 0.5),
		c.goal("initial, CPU s per GiB not zero", stepInitial, "%.1f", perGiB, cpu, []string{"borg"}, 1.3),
		c.goal("initial, CPU s per GiB not zero", stepInitial, "%.1f", perGiB, cpu, []string{"restic"}, 1),
	}
	for _, p := range c.percents {
		all = append(all, c.deltaGoals(p)...)
	}
	all = append(all, c.compare(fmt.Sprintf("delta %g %%, not tracked", c.percents[0]), stepScan, stepDelta(c.percents[0]), "%.2f s", 1, wall, readers, 0.9),
		c.goal("stored bytes, initial", stepInitial, "%.0f MB", 1e-6, stored, everyPeer, 1))
	for _, p := range c.percents {
		all = append(all, c.goal("stored bytes, "+stepDelta(p), stepDelta(p), "%.1f MB", 1e-6, stored, everyPeer, 1))
	}
	return append(all,
		c.goal("restore to raw", stepRestore, "%.1f s", 1, wall, encryptedPeer, 0.8),
		c.restoreLimit(),
		c.firstGoal(),
		c.goal("cold first 4 KiB of a point", stepFirst, "%.3f s", 1, wall, []string{"qemu-img"}, 1),
		c.goal("cold first 4 KiB of a point", stepFirst, "%.3f s", 1, wall, []string{"restic"}, 1),
		c.pipeGoal(), c.memoryGoal())
}

// deltaGoals are those of a tracked delta: against who tracks too, and who reads
// everything.
func (c *contest) deltaGoals(percent float64) []report.Goal {
	figure, step, limit := stepDelta(percent)+", tracked: changes stop to listed point", stepDelta(percent), 0.9
	if percent >= 5 {
		limit = 0.7 // the more there is to do, the less its beginning counts
	}
	return []report.Goal{
		c.goal(figure, step, "%.2f s", 1, wall, []string{peers.Bitmap}, limit),
		c.goal(figure, step, "%.2f s", 1, wall, []string{"borg"}, 0.07),
		c.goal(figure, step, "%.2f s", 1, wall, []string{"restic"}, 0.07),
	}
}

// firstGoal is a figure of its own: 45 ms, as the fastest peer was seen to take.
func (c *contest) firstGoal() report.Goal {
	const most = 0.045
	g := report.Goal{Figure: "cold first 4 KiB of a point", Limit: 1, Ours: "-", Against: "45 ms"}
	mine := c.res.Take(leeward, stepFirst, wall)
	if math.IsNaN(mine) {
		g.Why = c.res.Why(leeward, stepFirst)
		return g
	}
	g.Ours, g.Ratio = fmt.Sprintf("%.0f ms", mine*1e3), mine/most
	return g
}

// restoreLimit compares restore with writing the same bytes to the disk.
func (c *contest) restoreLimit() report.Goal {
	g := report.Goal{Figure: "restore to raw", Limit: 1.2, Ours: "-", Against: "-"}
	mine := c.res.Take(leeward, stepRestore, wall)
	switch l := c.limit(limits.DiskWrite); {
	case math.IsNaN(mine):
		g.Why = c.res.Why(leeward, stepRestore)
	case l.Rate == 0:
		g.Why = "the disk's write rate was not taken: " + l.Why
	default:
		least := float64(c.corpus.NonZero) / l.Rate
		g.Ours, g.Against, g.Ratio = fmt.Sprintf("%.1f s", mine), fmt.Sprintf("disk write + fsync %.1f s", least), mine/least
	}
	return g
}

func (c *contest) limit(name string) limits.Limit {
	for _, l := range c.limits {
		if l.Name == name {
			return l
		}
	}
	return limits.Limit{Why: "was not measured"}
}

// pipeGoal compares rates, so that more is better.
func (c *contest) pipeGoal() report.Goal {
	g := report.Goal{Figure: "pipe, incompressible, agent to vault", Limit: 0.7, AtLeast: true, Ours: "-", Against: "-"}
	mine, plain := c.res.Take(leeward, stepPipe, wall), c.res.Take(limits.JetStream, stepPipe, wall)
	switch {
	case math.IsNaN(mine):
		g.Why = c.res.Why(leeward, stepPipe)
	case math.IsNaN(plain):
		g.Why = c.res.Why(limits.JetStream, stepPipe)
	default:
		rate := func(s float64) string { return fmt.Sprintf("%.0f MB/s", float64(c.noise)/s/1e6) }
		g.Ours, g.Against, g.Ratio = rate(mine), "plain JetStream "+rate(plain), plain/mine
	}
	return g
}

// memoryGoal is the one goal with a figure of its own: 400 MiB for an appliance at
// full speed, broker included.
func (c *contest) memoryGoal() report.Goal {
	const most = 400 << 20
	g := report.Goal{Figure: "memory of the appliance at full speed", Limit: 1, Ours: "-", Against: "400 MiB"}
	mine := math.Max(c.res.Take(leeward, stepInitial, rss), c.res.Take(leeward, stepPipe, rss))
	if math.IsNaN(mine) {
		g.Why = c.res.Why(leeward, stepInitial)
		return g
	}
	g.Ours, g.Ratio = fmt.Sprintf("%.0f MiB", mine/(1<<20)), mine/most
	return g
}
