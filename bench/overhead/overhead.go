package overhead

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
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
	Each   time.Duration // of each window with or without tracking
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
	Low        float64   `json:"low"` // the true median lies within, 95 of 100 times
	High       float64   `json:"high"`
	Noise      []float64 `json:"noise"` // the same where nothing was switched on
	Floor      float64   `json:"floor"` // its median
	Events     uint64    `json:"events"`
	CPUPerMega float64   `json:"cpu_seconds_per_million_events"`
	Losses     uint64    `json:"losses"`
}

// kinds of writing and fio's options for them.
var kinds = []struct{ name, options string }{
	{"4 KiB random write", "--rw=randwrite --bs=4k --iodepth=32 --norandommap=1"},
	{"sequential write", "--rw=write --bs=1m --iodepth=4"},
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
		w, err := pairs(ctx, r, dev, k.name, k.options, o)
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

// pairs has one fio write all the time and switches tracking on and off under it:
// off, on, off, on, ... off. Each window with tracking is compared with the mean of the
// two beside it, so a machine that gets slower or faster over seconds favours neither.
// The same sum over windows without, each beside the two nearest without, says what
// noise does.
func pairs(ctx context.Context, r *rig.Rig, dev, name, options string, o Options) (*Write, error) {
	w := &Write{Name: name}
	limit := time.Duration(2*o.Pairs+20) * (o.Each + 5*time.Second)
	argv := append([]string{"fio", "--name=w", "--filename=" + dev, "--direct=1", "--ioengine=libaio", "--thread=1",
		"--time_based=1", fmt.Sprintf("--runtime=%d", int(limit.Seconds()))}, strings.Fields(options)...)
	writer, err := r.Start(rig.Command{Name: strings.ReplaceAll(name, " ", "-"), Argv: argv})
	if err != nil {
		return nil, err
	}
	defer func() { _ = writer.Kill() }()
	count := func() (uint64, error) {
		if err := writer.Alive(); err != nil {
			return 0, err
		}
		return written(dev)
	}
	warm, err := count()
	if err != nil {
		return nil, err
	}
	// The first pass makes the blocks of the file under the device.
	if err := rig.Poll(ctx, 20*time.Millisecond, func() (bool, error) {
		n, err := count()
		return int64(n-warm)*512 >= o.Size, err
	}); err != nil {
		return nil, fmt.Errorf("write the whole disk once: %w", err)
	}
	var off []float64
	plain := func() error {
		x, err := window(ctx, o.Each, count)
		off = append(off, x)
		return err
	}
	if err := plain(); err != nil {
		return nil, err
	}
	busy := time.Duration(0)
	for i := range o.Pairs {
		on, st, err := with(ctx, dev, func() (float64, error) { return window(ctx, o.Each, count) })
		if err != nil {
			return nil, err
		}
		w.Events, w.Losses, busy = w.Events+st.Events, w.Losses+st.Losses, busy+st.Busy
		if err := plain(); err != nil {
			return nil, err
		}
		w.Ratios = append(w.Ratios, on/((off[i]+off[i+1])/2))
		if n := i + 1; n%20 == 0 || n == o.Pairs {
			o.Say("%s: %d of %d pairs: %.3f", name, n, o.Pairs, report.Median(w.Ratios))
		}
	}
	w.Median = report.Median(w.Ratios)
	w.Low, w.High = report.MedianInterval(w.Ratios)
	for i := 1; i+1 < len(off); i++ {
		w.Noise = append(w.Noise, off[i]/((off[i-1]+off[i+1])/2))
	}
	w.Floor = report.Median(w.Noise)
	if w.Events > 0 {
		w.CPUPerMega = busy.Seconds() * 1e6 / float64(w.Events)
	}
	return w, nil
}

// window is how many bytes a second count grows by for a while.
func window(ctx context.Context, each time.Duration, count func() (uint64, error)) (float64, error) {
	// What was begun before, with the switch in between, is not this window's.
	if err := pause(ctx, each/10); err != nil {
		return 0, err
	}
	a, err := count()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := pause(ctx, each); err != nil {
		return 0, err
	}
	b, err := count()
	if err != nil {
		return 0, err
	}
	if b == a {
		return 0, fmt.Errorf("nothing was written for %v", each)
	}
	return float64(b-a) * 512 / time.Since(began).Seconds(), nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// written is how many sectors of 512 bytes the kernel has counted as written to a device
// (Documentation/block/stat.rst, the seventh figure).
func written(dev string) (uint64, error) {
	name := "/sys/class/block/" + filepath.Base(dev) + "/stat"
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b))
	if len(f) < 7 {
		return 0, fmt.Errorf("%s has %d figures, not 7 or more", name, len(f))
	}
	return strconv.ParseUint(f[6], 10, 64)
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
