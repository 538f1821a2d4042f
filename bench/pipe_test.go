package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/streams/bus"
)

// BenchmarkPipe copies an incompressible disk of 256 MiB from an agent to the vault
// of an appliance, both in this process, so that one profile shows the whole way:
//
//	go test ./bench -run '^$' -bench Pipe -benchtime 3x -cpuprofile cpu.prof
func BenchmarkPipe(b *testing.B) {
	const size = 256 << 20
	image := filepath.Join(b.TempDir(), "noise.img")
	if err := noise(image, size); err != nil {
		b.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		r, err := rig.New(b.TempDir(), product.Silent())
		if err != nil {
			b.Fatal(err)
		}
		site, err := product.RunHere(b.Context(), r, filepath.Join(r.Dir, "site"))
		if err != nil {
			b.Fatal(errors.Join(err, r.Close()))
		}
		b.StartTimer()
		err = copyOnce(b.Context(), site, image, self, filepath.Join(r.Dir, "agent"))
		b.StopTimer()
		if err := errors.Join(err, r.Close()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// copyOnce runs an agent until its first point is listed.
func copyOnce(ctx context.Context, site *product.Site, image, self, state string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg := agent.Default()
	cfg.Machine, cfg.Disks = benchMachine, []agent.DiskConfig{{Path: image, Name: benchDisk}}
	cfg.Capture, cfg.StateDir, cfg.GuardCommand = "scan", state, []string{self, "guard"}
	bs, err := bus.Connect(ctx, bus.Options{Name: "bench agent", Context: product.Context(site.Dir, "agent")})
	if err != nil {
		return err
	}
	defer bs.Close()
	a, err := agent.New(ctx, cfg, bs, product.Silent())
	if err != nil {
		return err
	}
	defer a.Close()
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run) }()
	_, err = site.AwaitPoint(ctx, benchMachine, time.Unix(0, 0), nil)
	stop()
	return errors.Join(err, <-ended)
}
