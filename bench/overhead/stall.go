package overhead

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Stall is how long writers stood still under pgbench.
type Stall struct {
	Points  int           `json:"points"`
	Aborted int           `json:"aborted"` // points given up, thawed in time
	P50     time.Duration `json:"p50"`
	P99     time.Duration `json:"p99"`
	Max     time.Duration `json:"max"`
	Bound   time.Duration `json:"bound"`
}

const machine = "overhead"

// stall takes points of a disk with a database under pgbench.
func stall(ctx context.Context, r *rig.Rig, o Options) (*Stall, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute+time.Duration(o.Points)*2*time.Second, errors.New("there were not enough points"))
	defer cancel()
	dev, db, err := database(ctx, r, o.Size)
	if err != nil {
		return nil, err
	}
	site, err := product.RunHere(ctx, r, filepath.Join(r.Dir, "site"))
	if err != nil {
		return nil, err
	}
	cfg := agent.Default()
	cfg.Machine, cfg.Disks = machine, []agent.DiskConfig{{Path: dev, Name: "disk"}}
	cfg.Capture, cfg.Interval, cfg.FreezeLimit = "trace", 300*time.Millisecond, o.Bound
	cfg.StateDir, cfg.GuardCommand = filepath.Join(r.Dir, "agent"), o.Guard
	b, err := bus.Connect(ctx, bus.Options{Name: "overhead agent", Context: product.Context(site.Dir, "agent"), Log: o.Log})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	a, err := agent.New(ctx, cfg, b, o.Log)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(run) }()
	defer func() { stop(); <-ended }()
	began := time.Now()
	clients, err := db.Bench(r, 4)
	if err != nil {
		return nil, err
	}
	defer func() { _ = clients.Kill() }()
	var points []api.Point
	err = rig.Poll(ctx, 500*time.Millisecond, func() (bool, error) {
		if err := clients.Alive(); err != nil {
			return false, err
		}
		all, err := site.API.Points(ctx, api.Query{Machine: machine, Since: began})
		if err == nil {
			points = all
		}
		return len(points) >= o.Points, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w (%d of %d)", err, len(points), o.Points)
	}
	s := &Stall{Points: len(points), Bound: o.Bound}
	var held []float64
	for _, p := range points {
		held = append(held, p.FrozenSeconds)
	}
	at := func(q float64) time.Duration { return time.Duration(report.Quantile(held, q) * 1e9) }
	s.P50, s.P99, s.Max = at(0.5), at(0.99), at(1)
	events, err := site.API.Events(ctx, api.Query{})
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Kind == "point-aborted" {
			s.Aborted++
		}
	}
	return s, nil
}

// database makes a disk with a filesystem and a database filled by pgbench.
func database(ctx context.Context, r *rig.Rig, size int64) (dev string, db *load.Postgres, err error) {
	if why := load.NoPostgres(); why != "" {
		return "", nil, errors.New(why)
	}
	file, err := r.File("pg.img", size)
	if err != nil {
		return "", nil, err
	}
	if dev, err = r.Loop(ctx, file); err != nil {
		return "", nil, err
	}
	if err := rig.Mkfs(ctx, "ext4", dev); err != nil {
		return "", nil, err
	}
	dir, _, err := r.Mount(ctx, "pg", "ext4", dev, "")
	if err != nil {
		return "", nil, err
	}
	db, err = load.StartPostgres(ctx, r, dir)
	return dev, db, err
}
