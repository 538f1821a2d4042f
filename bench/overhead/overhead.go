package overhead

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
)

// Options of the trials.
type Options struct {
	Dir    string
	Size   int64
	Pairs  int           // of each kind of writing
	Each   time.Duration // of each run of fio
	Points int           // under pgbench; 0: not tried
	Bound  time.Duration // freeze limit of the agent under pgbench
	Guard  []string      // command that runs quiesce.GuardMain
	Log    *slog.Logger
	Say    func(format string, args ...any)
}

// Result is what was measured.
type Result struct {
	Writes []Write `json:"writes"`
	Stall  *Stall  `json:"stall,omitempty"`
}

// Write compares one kind of writing with and without tracking.
type Write struct {
	Name       string    `json:"name"`
	Ratios     []float64 `json:"ratios"` // of each pair, with by without
	Median     float64   `json:"median"`
	Floor      float64   `json:"floor"` // median ratio of pairs of runs both without: what noise does
	Events     uint64    `json:"events"`
	CPUPerMega float64   `json:"cpu_seconds_per_million_events"`
	Losses     uint64    `json:"losses"`
}

// kinds of writing: fio's options and the figure that counts.
var kinds = []struct{ name, options, figure string }{
	{"4 KiB random write", "--rw=randwrite --bs=4k --iodepth=32", "iops"},
	{"sequential write", "--rw=write --bs=1m --iodepth=4", "bw"},
}

// Run does both trials.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.Close(); e != nil && err == nil {
			err = fmt.Errorf("clean up: %w", e)
		}
	}()
	res = &Result{}
	for i, k := range kinds {
		file, err := r.File(fmt.Sprintf("disk%d.img", i), o.Size)
		if err != nil {
			return nil, err
		}
		dev, err := r.Loop(ctx, file)
		if err != nil {
			return nil, err
		}
		w, err := pairs(ctx, dev, k.name, k.options, k.figure, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.name, err)
		}
		res.Writes = append(res.Writes, *w)
	}
	if o.Points > 0 {
		if res.Stall, err = stall(ctx, r, o); err != nil {
			return nil, fmt.Errorf("stall: %w", err)
		}
	}
	return res, nil
}

// pairs runs fio in threes: without, with, without; in every other one the first two
// change places, so that neither is always the first.
func pairs(ctx context.Context, dev, name, options, figure string, o Options) (*Write, error) {
	w := &Write{Name: name}
	var floor []float64
	busy := time.Duration(0)
	if _, err := fio(ctx, dev, options, figure, o.Each); err != nil { // makes the blocks
		return nil, err
	}
	tracked := func() (float64, error) {
		f, st, err := with(ctx, dev, func() (float64, error) { return fio(ctx, dev, options, figure, o.Each) })
		w.Events += st.Events
		w.Losses += st.Losses
		busy += st.Busy
		return f, err
	}
	for i := range o.Pairs {
		var on, off, again float64
		var err error
		steps := []func() error{
			func() error { off, err = fio(ctx, dev, options, figure, o.Each); return err },
			func() error { on, err = tracked(); return err },
			func() error { again, err = fio(ctx, dev, options, figure, o.Each); return err },
		}
		if i%2 == 1 {
			steps[0], steps[1] = steps[1], steps[0]
		}
		for _, s := range steps {
			if err := s(); err != nil {
				return nil, err
			}
		}
		w.Ratios = append(w.Ratios, on/((off+again)/2))
		floor = append(floor, again/off)
		o.Say("%s: pair %d of %d: %.3f (noise %.3f)", name, i+1, o.Pairs, w.Ratios[i], floor[i])
	}
	w.Median, w.Floor = report.Median(w.Ratios), report.Median(floor)
	if w.Events > 0 {
		w.CPUPerMega = busy.Seconds() * 1e6 / float64(w.Events)
	}
	return w, nil
}

// with runs f while the disk is followed.
func with(ctx context.Context, dev string, f func() (float64, error)) (float64, trace.Stats, error) {
	d, err := disk.Open(dev)
	if err != nil {
		return 0, trace.Stats{}, err
	}
	defer d.Close()
	src, err := trace.New(d, trace.Options{})
	if err != nil {
		return 0, trace.Stats{}, err
	}
	if err := src.Start(ctx); err != nil {
		return 0, trace.Stats{}, err
	}
	defer src.Close()
	x, err := f()
	if err != nil {
		return 0, trace.Stats{}, err
	}
	if _, err := src.Take(ctx); err != nil {
		return 0, src.Stats(), err
	}
	return x, src.Stats(), nil
}

// fio writes to a device and returns what it did a second.
func fio(ctx context.Context, dev, options, figure string, each time.Duration) (float64, error) {
	argv := append([]string{"fio", "--name=w", "--filename=" + dev, "--direct=1", "--ioengine=libaio", "--thread=1", "--randrepeat=1",
		"--time_based=1", fmt.Sprintf("--runtime=%dms", each.Milliseconds()), "--output-format=json"}, strings.Fields(options)...)
	out, err := rig.Run(ctx, argv...)
	if err != nil {
		return 0, err
	}
	var j struct {
		Jobs []struct {
			Write map[string]any `json:"write"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil || len(j.Jobs) != 1 {
		return 0, fmt.Errorf("fio says what is not understood: %w", err)
	}
	x, _ := j.Jobs[0].Write[figure].(float64)
	if x <= 0 {
		return 0, fmt.Errorf("fio wrote nothing (%s is %v)", figure, j.Jobs[0].Write[figure])
	}
	return x, nil
}
