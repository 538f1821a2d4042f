package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/bench/corpus"
	"github.com/leeward-dr/leeward/bench/peers"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
)

// A month of days on which 1 % changes, on a disk that is small enough for those who
// read all of it every day.
const (
	historyDays = 30
	historySize = 256 << 20
)

const historyFigure = "stored bytes after 30 points of 1 %"

var historyExtra = extra{
	name: "history", run: (*extraRun).history,
	figures: []report.Goal{{Figure: historyFigure, Against: "best peer", Limit: 1}},
}

// history lets everybody keep a month of days.
func (x *extraRun) history(ctx context.Context) ([]report.Goal, error) {
	c, err := corpus.Load(ctx, filepath.Join(x.rig.Dir, "corpus"), corpus.Options{Size: historySize, Seed: x.seed})
	if err != nil {
		return nil, err
	}
	place := peers.Place{Dir: filepath.Join(x.rig.Dir, "peers"), Source: filepath.Join(x.rig.Dir, "src", "disk.img")}
	if err := os.MkdirAll(filepath.Dir(place.Source), 0o755); err != nil {
		return nil, err
	}
	var all []*monthly
	for _, t := range peers.All(place) {
		if t.Missing() == "" && (x.only == nil || x.only[t.Name()]) {
			all = append(all, &monthly{tool: t})
		}
	}
	defer func() {
		for _, m := range all {
			if y, ok := m.tool.(io.Closer); ok {
				_ = y.Close() // it only ends a process of ours
			}
		}
	}()
	o, err := newOurs(ctx, x.rig, x.bin, x.rig.Dir)
	if err != nil {
		return nil, err
	}
	if err := x.month(ctx, c, place, o, all); err != nil {
		return nil, err
	}
	mine, err := peers.Bytes(product.Vault(o.site.Dir))
	if err != nil {
		return nil, err
	}
	return x.kept(mine, all), o.stop()
}

// monthly is a peer on its way through the month.
type monthly struct {
	tool peers.Tool
	err  error
}

// month goes through the days with everybody side by side.
func (x *extraRun) month(ctx context.Context, c *corpus.Corpus, place peers.Place, o *ours, all []*monthly) error {
	if _, err := rig.Run(ctx, "cp", "--sparse=always", c.Base, place.Source); err != nil {
		return err
	}
	if err := o.attach(ctx, c.Base); err != nil {
		return err
	}
	capture := "scan"
	if rig.Root() {
		capture = "auto"
	}
	if _, _, _, err := o.initial(ctx, capture); err != nil {
		return err
	}
	for _, m := range all {
		if m.err = m.tool.Init(ctx); m.err == nil {
			_, m.err = m.tool.Backup(ctx, 1)
		}
	}
	for day := range historyDays {
		// The day before stays until the change is known.
		next := place.Source + ".next"
		if _, err := rig.Run(ctx, "cp", "--sparse=always", place.Source, next); err != nil {
			return err
		}
		if err := corpus.Change(ctx, next, 1, x.seed, uint64(day)+2); err != nil {
			return err
		}
		blocks, err := corpus.Differences(ctx, place.Source, next)
		if err != nil {
			return err
		}
		if err := os.Rename(next, place.Source); err != nil {
			return err
		}
		if _, _, _, _, err := o.delta(ctx, place.Source, blocks); err != nil {
			return fmt.Errorf("day %d: %w", day+2, err)
		}
		for _, m := range all {
			if f, ok := m.tool.(peers.Follower); m.err == nil && ok {
				m.err = f.Change(ctx, place.Source, blocks)
			}
			if m.err == nil {
				_, m.err = m.tool.Backup(ctx, day+2)
			}
		}
		if day%10 == 9 {
			say("history: day %d of %d", day+1, historyDays)
		}
	}
	return nil
}

// kept compares what everybody has stored.
func (x *extraRun) kept(mine int64, all []*monthly) []report.Goal {
	mb := func(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
	g := report.Goal{Figure: historyFigure, Limit: 1, Ours: mb(mine), Against: "-", Why: "no peer was measured"}
	rows := [][]string{{"tool", "stored MB", "note"}, {leeward, fmt.Sprintf("%.1f", float64(mine)/1e6), "with every point that came by between the days"}}
	var best int64
	for _, m := range all {
		n, err := peers.Stored(m.tool)
		if err = errors.Join(m.err, err); err != nil {
			rows = append(rows, []string{m.tool.Name(), "-", "no figure: " + err.Error()})
			continue
		}
		rows = append(rows, []string{m.tool.Name(), fmt.Sprintf("%.1f", float64(n)/1e6), m.tool.Note()})
		if best == 0 || n < best {
			best, g.Against, g.Ratio, g.Why = n, m.tool.Name()+" "+mb(n), float64(mine)/float64(n), ""
		}
	}
	fmt.Fprintf(x.out, "\nStored after %d points of 1 %% on a disk of %d MiB\n", historyDays, int64(historySize)>>20)
	report.Table(x.out, rows)
	return []report.Goal{g}
}
