package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/profile"
)

type profileFlags struct {
	duration, every time.Duration
	capture, output string
	question        profile.Question
}

func profileCommand() *cobra.Command {
	f := &profileFlags{question: profile.Asked()}
	c := &cobra.Command{
		Use:   "profile [--duration 1h] PATH …",
		Short: "Record how much changes on disks, and say what replicating them would take",
		Long: "Follows the disks for a while without replicating anything, then prints the bandwidth, the vault space\n" +
			"and the RPO to expect at several link speeds. Interrupting it prints what was recorded so far.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, paths []string) error { return f.run(c.Context(), paths) },
	}
	s := c.Flags()
	s.DurationVar(&f.duration, "duration", time.Hour, "how long to record")
	s.DurationVar(&f.every, "every", 5*time.Second, "length of an interval, as between recovery points")
	s.StringVar(&f.capture, "capture", "auto", "how changes are found: auto, trace or scan (which reads the whole disk in each interval)")
	s.DurationVar(&f.question.Retention, "retention", f.question.Retention, "how long points are kept")
	s.Float64SliceVar(&f.question.Links, "link", f.question.Links, "link speeds in `Mbit` a second")
	s.StringVarP(&f.output, "output", "o", "table", "table or json")
	return c
}

func (f *profileFlags) run(ctx context.Context, paths []string) error {
	switch {
	case f.output != "table" && f.output != "json":
		return usage{fmt.Errorf("output is %q: use table or json", f.output)}
	case f.every < 100*time.Millisecond || f.duration < f.every || f.duration > 31*24*time.Hour:
		return usage{errors.New("duration must be at least every and at most 31 days, every at least 100ms")}
	case f.capture != "auto" && f.capture != "trace" && f.capture != "scan":
		return usage{fmt.Errorf("capture is %q: use auto, trace or scan", f.capture)}
	}
	f.question.Interval = f.every
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	begun := time.Now()
	disks, err := f.record(ctx, paths)
	if err != nil {
		return err
	}
	r := profile.Sum(disks, begun, f.question)
	if f.output == "json" {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	return r.Draw(os.Stdout)
}

// record follows all disks at the same time; one that fails ends the others.
func (f *profileFlags) record(ctx context.Context, paths []string) ([]*profile.Disk, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	disks, errs := make([]*profile.Disk, len(paths)), make([]error, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			if disks[i], errs[i] = f.one(ctx, path); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	return disks, errors.Join(errs...)
}

func (f *profileFlags) one(ctx context.Context, path string) (*profile.Disk, error) {
	dev, err := disk.Open(path)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	src, err := f.source(ctx, dev)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	o := profile.Options{Duration: f.duration, Every: f.every, Seed: uint64(time.Now().UnixNano())}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		began := time.Now()
		o.Tell = func(d *profile.Disk) {
			s := d.Samples[len(d.Samples)-1]
			fmt.Fprintf(os.Stderr, "\x1b[K%s  %v of %v  %.1f MiB/s\r", path, time.Since(began).Round(time.Second), f.duration, float64(s.Changed)/s.Seconds/(1<<20))
		}
	}
	return profile.Record(ctx, dev, src, o)
}

func (f *profileFlags) source(ctx context.Context, dev *disk.Disk) (capture.Source, error) {
	if f.capture != "scan" {
		src, err := trace.New(dev, trace.Options{})
		if err == nil {
			if err = src.Start(ctx); err == nil {
				return src, nil
			}
			_ = src.Close()
		}
		if f.capture == "trace" || !errors.Is(err, capture.ErrUnsupported) {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "leeward-agent: %v; the whole disk is read in each interval instead\n", err)
	}
	src, err := scan.New(dev, scan.Options{}, nil)
	if err != nil {
		return nil, err
	}
	return src, src.Start(ctx)
}
