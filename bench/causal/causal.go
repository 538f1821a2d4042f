package causal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/policy"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Options of a trial.
type Options struct {
	Points  int  // wanted
	Alone   bool // each machine cuts for itself: then causes must be missing
	Size    int64
	Dir     string
	Keep    bool
	Limit   time.Duration // for the points
	Guard   []string
	Log     *slog.Logger
	Say     func(format string, args ...any)
	Settled func() // for tests: called when the load runs; may be nil
}

// Result of a trial.
type Result struct {
	Alone   bool          `json:"alone"`
	Skipped string        `json:"skipped,omitempty"`
	Points  int           `json:"points"`  // restored, both servers started from each
	Missing int           `json:"missing"` // of these: B has a row whose cause is not on A
	Worst   int           `json:"worst"`   // most such rows
	Rows    int           `json:"rows"`    // in the last one
	Frozen  time.Duration `json:"frozen"`  // median of the longest freezes
	Skew    time.Duration `json:"skew"`    // median
	Failed  int           `json:"failed"`  // barriers in a row without a point, at the end
	Seconds float64       `json:"seconds"`
}

// machines are A, where the cause is written, and B, where the effect is.
var machines = [2]string{"a", "b"}

const diskName = "data"

type trial struct {
	o    Options
	rig  *rig.Rig
	site *product.Site
	dbs  [2]*database
	devs [2]string
}

// Run makes points under load and looks at each.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	began := time.Now()
	if why := missing(); why != "" {
		return &Result{Alone: o.Alone, Skipped: why}, nil
	}
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	r.Keep = o.Keep
	if err := os.Chmod(r.Dir, 0o711); err != nil { // the database's user passes through
		return nil, err
	}
	t := &trial{o: o, rig: r}
	if t.site, err = product.RunHere(ctx, r, filepath.Join(r.Dir, "site")); err != nil {
		return nil, err
	}
	for i, m := range machines {
		if err := t.machine(ctx, i, m); err != nil {
			return nil, fmt.Errorf("machine %s: %w", m, err)
		}
	}
	pairs, err := t.collect(ctx)
	if err != nil {
		return nil, err
	}
	if res, err = t.look(ctx, pairs); err != nil {
		return nil, err
	}
	if !o.Alone {
		if g, err := t.site.API.Group(ctx, "shop"); err == nil {
			res.Failed = g.Failed
		}
	}
	res.Seconds = time.Since(began).Seconds()
	return res, nil
}

// machine makes a disk with a database.
func (t *trial) machine(ctx context.Context, i int, name string) error {
	file, err := t.rig.File(name+".img", t.o.Size)
	if err != nil {
		return err
	}
	if t.devs[i], err = t.rig.Loop(ctx, file); err != nil {
		return err
	}
	if err := rig.Mkfs(ctx, "ext4", t.devs[i]); err != nil {
		return err
	}
	dir, _, err := t.rig.Mount(ctx, "mnt-"+name, "ext4", t.devs[i], "")
	if err != nil {
		return err
	}
	t.dbs[i], err = t.start(ctx, "pg-"+name, dir, true)
	return err
}

// protect runs an agent until stop is called.
func (t *trial) protect(ctx context.Context, i int) (stop func() error, err error) {
	cfg := agent.Default()
	cfg.Machine, cfg.Disks = machines[i], []agent.DiskConfig{{Path: t.devs[i], Name: diskName}}
	cfg.Capture, cfg.Interval, cfg.StateDir = "trace", time.Second, filepath.Join(t.rig.Dir, "agent-"+machines[i])
	cfg.FreezeLimit, cfg.GuardCommand = 5*time.Second, t.o.Guard
	b, err := bus.Connect(ctx, bus.Options{Name: "causal agent " + machines[i], Context: product.Context(t.site.Dir, "agent"), Log: t.o.Log})
	if err != nil {
		return nil, err
	}
	a, err := agent.New(ctx, cfg, b, t.o.Log)
	if err != nil {
		b.Close()
		return nil, err
	}
	run, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		err := a.Run(run)
		a.Close()
		b.Close()
		ended <- err
	}()
	var once sync.Once
	stop = func() (err error) {
		once.Do(func() { cancel(); err = <-ended })
		return err
	}
	t.rig.Defer("stop agent "+machines[i], stop)
	return stop, nil
}

// pair is a point of A and one of B that an operator would take for the same time.
type pair [2]*vault.Point

// collect makes points under load, and stops everything that writes.
func (t *trial) collect(ctx context.Context) (pairs []pair, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.o.Limit, errors.New("there were not enough points in time"))
	defer cancel()
	for i := range machines {
		stop, err := t.protect(ctx, i)
		if err != nil {
			return nil, err
		}
		defer func() { _ = stop() }()
	}
	if !t.o.Alone {
		p := policy.New(policy.Default)
		p.PointInterval, p.FreezeLimit = policy.MinInterval, policy.Duration(5*time.Second)
		if _, err := t.site.API.ApplyPolicies(ctx, policy.Document{Policies: []policy.Policy{p}}); err != nil {
			return nil, err
		}
		if _, err := t.site.API.ChangeGroup(ctx, api.GroupChange{Group: "shop", Create: true, Add: machines[:]}); err != nil {
			return nil, err
		}
	}
	w, err := t.write()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.stop()) }()
	if t.o.Settled != nil {
		t.o.Settled()
	}
	for n := -1; ; {
		if err := w.err(); err != nil {
			return nil, err
		}
		all, _, err := t.site.Vault.Points(ctx, "")
		if err != nil {
			return nil, err
		}
		pairs = choose(all, t.o.Alone)
		if len(pairs) >= t.o.Points {
			return pairs[:t.o.Points], nil
		}
		if len(pairs) != n && len(pairs)%10 == 0 {
			n = len(pairs)
			t.o.Say("%d of %d points, %d rows", n, t.o.Points, w.rows())
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d points: %w", len(pairs), t.o.Points, context.Cause(ctx))
		}
	}
}

// choose pairs points: those of the group with themselves, those of machines alone
// with the newest of A at each point of B.
func choose(all []*vault.Point, alone bool) (pairs []pair) {
	slices.SortFunc(all, func(a, b *vault.Point) int { return a.Time.Compare(b.Time) })
	var a *vault.Point
	for _, p := range all {
		switch {
		case !alone && len(p.Machines) == 2:
			pairs = append(pairs, pair{p, p})
		case alone && p.Machines[0].Machine == machines[0]:
			a = p
		case alone && a != nil:
			pairs = append(pairs, pair{a, p})
		}
	}
	return pairs
}

// look restores every pair, starts both servers and compares.
func (t *trial) look(ctx context.Context, pairs []pair) (*Result, error) {
	res := &Result{Alone: t.o.Alone}
	var frozen, skew []time.Duration
	for n, p := range pairs {
		var rows [2]int
		var errs [2]error
		var wg sync.WaitGroup
		for i := range machines {
			wg.Go(func() { rows[i], errs[i] = t.restored(ctx, i, p[i]) })
		}
		wg.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("point %s and %s: %w", p[0].ID, p[1].ID, err)
		}
		res.Points++
		res.Rows = rows[0]
		if lost := rows[1] - rows[0]; lost > 0 {
			res.Missing++
			res.Worst = max(res.Worst, lost)
			if !t.o.Alone {
				t.o.Say("point %s: B has %d rows, A only %d", p[0].ID, rows[1], rows[0])
			}
		}
		frozen, skew = append(frozen, p[0].Frozen), append(skew, p[0].Skew)
		if (n+1)%10 == 0 {
			t.o.Say("%d of %d points looked at, %d with causes missing", n+1, len(pairs), res.Missing)
		}
	}
	slices.Sort(frozen)
	slices.Sort(skew)
	if len(frozen) > 0 {
		res.Frozen, res.Skew = frozen[len(frozen)/2], skew[len(skew)/2]
	}
	return res, nil
}

// restored counts the rows of a machine's point.
func (t *trial) restored(ctx context.Context, i int, p *vault.Point) (rows int, err error) {
	k := slices.IndexFunc(p.Machines, func(m vault.PointMachine) bool { return m.Machine == machines[i] })
	file := filepath.Join(t.rig.Dir, "restored-"+machines[i]+".img")
	defer os.Remove(file)
	if err := product.Restore(ctx, t.site.Vault, vault.DiskID{Machine: machines[i], Disk: diskName}, p.Machines[k].Disks[0], file); err != nil {
		return 0, err
	}
	dir := filepath.Join(t.rig.Dir, "look-"+machines[i])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	if _, err := rig.Run(ctx, "mount", "-t", "ext4", "-o", "loop", file, dir); err != nil {
		return 0, err
	}
	defer func() {
		_, e := rig.Run(context.WithoutCancel(ctx), "umount", dir)
		err = errors.Join(err, e)
	}()
	db, err := t.start(ctx, "look-pg-"+machines[i], dir, false)
	if err != nil {
		return 0, err
	}
	rows, err = db.count(ctx)
	return rows, errors.Join(err, db.stop())
}
