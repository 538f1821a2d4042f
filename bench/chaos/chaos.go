package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/bench/load"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/control/api"
)

// Options of a run.
type Options struct {
	Kills    int
	For      time.Duration // instead of Kills: disturb for so long, and take samples
	Size     int64         // bytes of the disk
	Rate     int64         // bytes a second that fio writes
	Interval time.Duration // between points
	Recovery time.Duration // a new point must be listed so long after a kill
	Every    int           // of the listed points every so many are restored, beside those around kills
	Seed     uint64
	Sabotage bool // damage the vault before it is looked at: the run must then fail
	Bin      product.Binaries
	Dir      string
	Keep     bool // leave that directory behind
	Log      *slog.Logger
	Say      func(format string, args ...any)
}

// Kill is one of them.
type Kill struct {
	At       time.Time     `json:"at"`
	Victim   string        `json:"victim"`
	After    time.Duration `json:"after"`    // how long the programs had run undisturbed
	Recovery time.Duration `json:"recovery"` // until a point was listed whose cut came after the kill
}

// Result is what was found.
type Result struct {
	Skipped  string        `json:"skipped,omitempty"`
	Seed     uint64        `json:"seed"`
	Kills    []Kill        `json:"kills"`
	Listed   int           `json:"listed"`  // points
	Checked  int           `json:"checked"` // restored, mounted, and their records counted
	Records  int           `json:"records"` // written and synced in all
	Stall    time.Duration `json:"stall"`   // the longest that the writer of the records ever waited
	Resyncs  int           `json:"resyncs"` // of the whole disk, said in events
	Ends     []string      `json:"ends"`    // of programs when nobody had asked for it
	Bad      []string      `json:"bad"`     // broken promises
	Seconds  float64       `json:"seconds"`
	Problems []string      `json:"problems,omitempty"` // that vault check found
	Samples  []Sample      `json:"samples,omitempty"`  // of a soak
	Spared   time.Duration `json:"spared,omitempty"`   // into a soak: from then on the agent is neither killed nor upgraded
}

// OK says whether all kills were made and no promise was broken.
func (r *Result) OK(kills int) bool {
	return r.Skipped == "" && len(r.Kills) == kills && len(r.Bad) == 0 && r.Checked > 0
}

// Names within the bus and the vault.
const (
	machine = "chaos"
	diskID  = "disk"
)

// trial is one run.
type trial struct {
	o         Options
	rig       *rig.Rig
	rnd       *rand.Rand
	res       *Result
	dev, dir  string
	unmount   func() error
	appliance *rig.Keeper
	agent     *rig.Keeper
	site      *product.Site
	ledger    *load.Ledger
	manage    string          // address of the appliance's management port, in a soak
	seen      map[string]bool // points that control has ever listed
	around    map[string]bool // the last before and the first after each kill
}

// Run kills, and looks.
func Run(ctx context.Context, o Options) (res *Result, err error) {
	if why := errors.Join(reason(rig.Missing("ext4")), reason(load.Missing())); why != nil {
		return &Result{Skipped: why.Error()}, nil
	}
	began := time.Now()
	r, err := rig.New(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := r.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("clean up: %w", e))
		}
	}()
	r.Keep = o.Keep
	o.Say("working in %s", r.Dir)
	t := &trial{
		o: o, rig: r, rnd: rand.New(rand.NewPCG(o.Seed, 11)), res: &Result{Seed: o.Seed, Kills: []Kill{}, Ends: []string{}, Bad: []string{}},
		seen: map[string]bool{}, around: map[string]bool{},
	}
	if err := t.start(ctx); err != nil {
		return nil, err
	}
	if err := t.havoc(ctx); err != nil {
		return nil, err
	}
	if err := t.look(ctx); err != nil {
		return nil, err
	}
	t.res.Seconds = time.Since(began).Seconds()
	return t.res, nil
}

func reason(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

// start makes the disk and starts both programs.
func (t *trial) start(ctx context.Context) (err error) {
	file, err := t.rig.File("disk.img", t.o.Size)
	if err != nil {
		return err
	}
	if t.dev, err = t.rig.Loop(ctx, file); err != nil {
		return err
	}
	if err := rig.Mkfs(ctx, "ext4", t.dev); err != nil {
		return err
	}
	if t.dir, t.unmount, err = t.rig.Mount(ctx, "mnt", "ext4", t.dev, ""); err != nil {
		return err
	}
	at, err := product.FreeAddress()
	if err != nil {
		return err
	}
	dir := filepath.Join(t.rig.Dir, "site")
	up := t.o.Bin.Up(dir, at)
	if t.o.For > 0 {
		if t.manage, err = product.FreeAddress(); err != nil {
			return err
		}
		up.Argv = append(up.Argv, "--manage", t.manage, "--changes-bytes", fmt.Sprint(64<<20))
	}
	if t.appliance, err = rig.Keep(t.rig, up); err != nil {
		return err
	}
	if t.site, err = product.Connect(ctx, dir, t.appliance.Alive); err != nil {
		return err
	}
	t.rig.Defer("disconnect", func() error { t.site.Close(); return nil })
	product.Forget(t.rig, filepath.Join(t.rig.Dir, "agent"))
	t.agent, err = rig.Keep(t.rig, t.o.Bin.Protect(product.Protection{
		Site: dir, Machine: machine, Disk: t.dev, Name: diskID, Capture: "trace", Interval: t.o.Interval,
		// A busy machine with little memory must be frozen too, or there is no point to
		// look at; how long that takes is another bench's question.
		FreezeLimit: 5 * time.Second, FreezeBytes: 64 << 20, StateDir: filepath.Join(t.rig.Dir, "agent"),
	}))
	if err != nil {
		return err
	}
	_, err = t.await(ctx, time.Time{})
	return err
}

func (t *trial) alive() error { return errors.Join(t.appliance.Alive(), t.agent.Alive()) }

// await waits for a point whose cut is after a time.
func (t *trial) await(ctx context.Context, after time.Time) (api.Point, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.o.Recovery, fmt.Errorf("no new point was listed within %v", t.o.Recovery))
	defer cancel()
	return t.site.AwaitPoint(ctx, machine, after, t.alive)
}

// havoc writes and kills.
func (t *trial) havoc(ctx context.Context) (err error) {
	fio, err := load.StartFio(t.rig, "fio", t.dir, t.o.Size/3, t.o.Rate, t.o.Seed)
	if err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	t.ledger = &load.Ledger{Dir: t.dir, Seed: t.o.Seed, Pause: 5 * time.Millisecond}
	churn := &load.Churn{Dir: t.dir, Room: t.o.Size / 8, Seed: t.o.Seed, Pause: 50 * time.Millisecond, Trim: 5 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- t.ledger.Run(writing) }()
	go func() { ended <- churn.Run(writing) }()
	if t.o.For > 0 {
		err = t.soak(ctx, t.manage)
	}
	for i := 0; t.o.For == 0 && i < t.o.Kills && err == nil; i++ {
		err = t.killOne(ctx, i)
	}
	if err == nil {
		err = fio.Alive()
	}
	stop()
	return errors.Join(err, fio.Kill(), <-ended, <-ended)
}

// killOne waits a random while, kills, and waits until the next point is listed.
func (t *trial) killOne(ctx context.Context, i int) error {
	k := Kill{After: time.Duration(t.rnd.Int64N(int64(2500 * time.Millisecond))), Victim: []string{"agent", "appliance", "both"}[t.rnd.IntN(3)]}
	timer := time.NewTimer(k.After)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	k.At = time.Now()
	var err error
	if k.Victim != "appliance" {
		err = t.agent.Kill()
	}
	if k.Victim != "agent" {
		err = errors.Join(err, t.appliance.Kill())
	}
	if err != nil {
		return err
	}
	p, err := t.await(ctx, k.At)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.bad("after kill %d (%s): %v; the agent's last words: %s; the appliance's: %s", i+1, k.Victim, err, t.agent.Words(), t.appliance.Words())
		return fmt.Errorf("kill %d (%s): %w", i+1, k.Victim, err)
	}
	k.Recovery = time.Since(k.At)
	t.res.Kills = append(t.res.Kills, k)
	t.o.Say("kill %d of %d: %s after %v, a new point %v later", i+1, t.o.Kills, k.Victim, k.After.Round(time.Millisecond), k.Recovery.Round(time.Millisecond))
	return t.note(ctx, p)
}

// note remembers what is listed now, and which points lie around the last kill.
func (t *trial) note(ctx context.Context, p api.Point) error {
	all, err := t.site.API.Points(ctx, api.Query{Machine: machine})
	if err != nil {
		return fmt.Errorf("list points: %w", err)
	}
	t.around[p.ID] = true
	for i, x := range all {
		t.seen[x.ID] = true
		if x.ID == p.ID && i > 0 {
			t.around[all[i-1].ID] = true
		}
	}
	return nil
}

func (t *trial) bad(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	t.res.Bad = append(t.res.Bad, s)
	t.o.Say("BAD: %s", s)
}
