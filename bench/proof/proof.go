package proof

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/report"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Options of a proof.
type Options struct {
	Points   int           // listed points wanted for each filesystem
	Size     int64         // bytes of the disk
	Rate     int64         // bytes a second that fio writes
	Interval time.Duration // between points
	Seed     uint64
	Mount    string        // options for mount
	Pgbench  bool          // a database under pgbench writes too
	Sabotage bool          // change one block behind the tracker's back
	Capture  string        // driver of the agent
	Guard    []string      // command that runs quiesce.GuardMain
	Dir      string        // where temporary directories are made; "": the system's
	Limit    time.Duration // the points of one filesystem must be there by then
	Keep     bool          // leave that directory behind
	Kills    int           // how often the agent is killed while it works, half of them while frozen
	Log      *slog.Logger
	Say      func(format string, args ...any) // progress, for people
}

// Bad is a point that is not what it promises.
type Bad struct {
	Point string `json:"point"`
	Why   string `json:"why"`
}

// Result is what was found on one filesystem.
type Result struct {
	FS        string        `json:"fs"`
	Skipped   string        `json:"skipped,omitempty"` // why it was not tried
	Listed    int           `json:"listed"`
	Equal     int           `json:"equal"`
	Bad       []Bad         `json:"bad,omitempty"`
	Unlisted  int           `json:"unlisted"`   // cut, and not listed when the run ended
	Aborted   int           `json:"aborted"`    // points that the agent gave up, with a reason
	Changed   float64       `json:"changed"`    // blocks that differ between two points, mean
	FreezeP50 time.Duration `json:"freeze_p50"` // without the time of the proof's own reading
	FreezeP99 time.Duration `json:"freeze_p99"`
	FreezeMax time.Duration `json:"freeze_max"`
	Reading   time.Duration `json:"reading"` // of the frozen device by the proof, median
	Seconds   float64       `json:"seconds"`
	Events    []string      `json:"events,omitempty"` // resyncs and the like
	Killed    *Killed       `json:"killed,omitempty"`
}

// Killed is what became of the agents that were killed.
type Killed struct {
	Kills    int           `json:"kills"`
	Frozen   int           `json:"frozen"`   // of these while everything was frozen
	ThawMax  time.Duration `json:"thaw_max"` // until all filesystems could be written to
	Late     int           `json:"late"`     // times that this took more than a second
	Resumed  int           `json:"resumed"`  // times that the next agent went on without comparing
	Compared int           `json:"compared"` // times that it compared the whole disk
}

// OK says whether every listed point was equal, and enough were listed.
func (r *Result) OK(points int) bool {
	return r.Skipped == "" && len(r.Bad) == 0 && r.Equal == r.Listed && r.Listed >= points && (r.Killed == nil || r.Killed.Late == 0)
}

// Run proves one filesystem.
func Run(ctx context.Context, fs string, o Options) (res *Result, err error) {
	if why := missing(fs, o); why != nil {
		return &Result{FS: fs, Skipped: why.Error()}, nil
	}
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
	t := &trial{o: o, fs: fs, rig: r, frozen: map[string]*cut{}, began: time.Now()}
	if err := t.disk(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", fs, err)
	}
	product.Forget(r, t.setup().StateDir)
	if t.plant, err = t.sow(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", fs, err)
	}
	if t.app, err = product.RunHere(ctx, r, filepath.Join(r.Dir, "site")); err != nil {
		return nil, fmt.Errorf("%s: start the appliance: %w", fs, err)
	}
	collect := t.collect
	if o.Kills > 0 {
		collect = t.collectKilled
	}
	if err := collect(ctx); errors.Is(err, errShort) {
		// What there is can still be compared; too few points fail the proof by number.
		o.Say("%s: %v", fs, err)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", fs, err)
	}
	return t.compare(ctx)
}

func reason(s string) error {
	if s == "" {
		return nil
	}
	return errors.New(s)
}

// Names within the bus and the vault.
const (
	machine = "proof"
	diskID  = "disk"
)

var errShort = errors.New("there were not enough points")

// trial is the proof of one filesystem.
type trial struct {
	o      Options
	fs     string
	rig    *rig.Rig
	began  time.Time
	file   string // under the loop device
	dev    string
	places []place
	plant  int64 // where in the file the block for sabotage lies
	app    *product.Site
	kills  Killed

	mu sync.Mutex
	// guarded by mu:
	frozen map[string]*cut
	last   *rig.Image
}

// cut is the disk as it was while it was frozen.
type cut struct {
	Image   *rig.Image
	Reading time.Duration
	changed int // blocks that differ from the cut before
}

// collect runs the load and the agent until there are enough points.
func (t *trial) collect(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.o.Limit, fmt.Errorf("%w after %v", errShort, t.o.Limit))
	defer cancel()
	a, err := t.startAgent(ctx)
	if err != nil {
		return err
	}
	defer a.stop()
	stop, err := t.startLoad(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	return t.enough(ctx, func() error {
		select {
		case err := <-a.ended:
			a.ended <- err
			return fmt.Errorf("the agent ended: %w", err)
		default:
			return nil
		}
	})
}

// collectKilled is collect with agents that are killed.
func (t *trial) collectKilled(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, t.o.Limit, fmt.Errorf("%w after %v", errShort, t.o.Limit))
	defer cancel()
	return t.massacre(ctx)
}

// enough waits until enough points are listed.
func (t *trial) enough(ctx context.Context, alive func() error) error {
	shown := 0
	return rig.Poll(ctx, 200*time.Millisecond, func() (bool, error) {
		if err := alive(); err != nil {
			return false, err
		}
		st, err := t.app.API.Status(ctx)
		if err != nil {
			return false, nil // a busy machine: the limit ends it
		}
		n := st.Points
		if n/10 > shown/10 {
			t.o.Say("%s: %d of %d points", t.fs, n, t.o.Points)
		}
		shown = n
		return n >= t.o.Points, nil
	})
}

// runningAgent is the agent in this process.
type runningAgent struct {
	ended  chan error // holds the error once it has ended
	cancel context.CancelFunc
	agent  *agent.Agent
}

func (t *trial) startAgent(ctx context.Context) (*runningAgent, error) {
	cfg := t.setup().config()
	cfg.AtCut = t.atCut
	b, err := bus.Connect(ctx, bus.Options{Name: "proof agent", Context: product.Context(t.app.Dir, "agent"), Log: t.o.Log})
	if err != nil {
		return nil, err
	}
	a, err := agent.New(ctx, cfg, b, t.o.Log)
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	run, cancel := context.WithCancel(ctx)
	ra := &runningAgent{ended: make(chan error, 1), cancel: cancel, agent: a}
	go func() {
		err := a.Run(run)
		a.Close()
		b.Close()
		ra.ended <- err
	}()
	return ra, nil
}

// setup is how the agent is set up, here or in another process.
type setup struct {
	Disk, StateDir, Capture string
	Interval                time.Duration
	Guard                   []string
}

func (t *trial) setup() setup {
	return setup{t.dev, filepath.Join(t.rig.Dir, "agent"), t.o.Capture, t.o.Interval, t.o.Guard}
}

func (s setup) config() agent.Config {
	cfg := agent.Default()
	cfg.Machine, cfg.Disks = machine, []agent.DiskConfig{{Path: s.Disk, Name: diskID}}
	cfg.Capture, cfg.Interval, cfg.StateDir, cfg.GuardCommand = s.Capture, s.Interval, s.StateDir, s.Guard
	// The proof reads the whole device inside the freeze, which no operator does.
	cfg.FreezeLimit, cfg.FreezeBytes = 10*time.Second, 256<<20
	return cfg
}

func (a *runningAgent) stop() {
	a.cancel()
	<-a.ended
}

// atCut reads the frozen device. The agent read it before, and a trim goes on under a freeze:
// what was discarded since then is not what the agent has read, and no fault. Such a cut is
// thrown away. Were it not known to the tracker, it would stay and be found unequal.
func (t *trial) atCut(point string, still func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 9*time.Second)
	defer cancel()
	began := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.o.Sabotage && len(t.frozen) == t.o.Points/2 {
		if err := t.spoil(); err != nil {
			return fmt.Errorf("sabotage: %w", err)
		}
	}
	m, err := rig.DeviceImage(ctx, t.dev)
	if err != nil {
		return fmt.Errorf("read the frozen device: %w", err)
	}
	if err := still(ctx); err != nil {
		return fmt.Errorf("since it was caught: %w", err)
	}
	c := &cut{Image: m, Reading: time.Since(began)}
	if t.last != nil {
		_, c.changed = m.Differ(t.last, 0)
	}
	t.frozen[point], t.last = c, m
	return nil
}

// compare restores every listed point and compares it with the frozen device.
func (t *trial) compare(ctx context.Context) (*Result, error) {
	res := &Result{FS: t.fs}
	if t.o.Kills > 0 {
		res.Killed = &t.kills
	}
	if err := t.unmount(); err != nil {
		return nil, err
	}
	points, damaged, err := t.app.Vault.Points(ctx, machine)
	if err != nil {
		return nil, err
	}
	for _, err := range damaged {
		res.Bad = append(res.Bad, Bad{"?", err.Error()})
	}
	if err := t.events(ctx, res); err != nil {
		return nil, err
	}
	var freeze, reading, changed []float64
	for i, p := range points {
		if (i+1)%25 == 0 {
			t.o.Say("%s: compared %d of %d points", t.fs, i+1, len(points))
		}
		res.Listed++
		why, c, err := t.check(ctx, p)
		if err != nil {
			return nil, err
		}
		if why != "" {
			res.Bad = append(res.Bad, Bad{p.ID, why})
			t.o.Say("%s: point %s: %s", t.fs, p.ID, why)
		} else {
			res.Equal++
		}
		if c != nil {
			freeze = append(freeze, (p.Frozen - c.Reading).Seconds())
			reading = append(reading, c.Reading.Seconds())
			changed = append(changed, float64(c.changed))
			delete(t.frozen, p.ID)
		}
	}
	res.Unlisted = len(t.frozen)
	if len(freeze) > 0 {
		at := func(x []float64, q float64) time.Duration { return time.Duration(report.Quantile(x, q) * 1e9) }
		res.FreezeP50, res.FreezeP99, res.FreezeMax = at(freeze, 0.5), at(freeze, 0.99), at(freeze, 1)
		res.Reading, res.Changed = at(reading, 0.5), report.Median(changed)
	}
	res.Seconds = time.Since(t.began).Seconds()
	return res, nil
}

// check restores one point; why says what is wrong with it.
func (t *trial) check(ctx context.Context, p *vault.Point) (why string, c *cut, err error) {
	c = t.frozen[p.ID]
	if c == nil {
		return "nobody cut it", nil, nil
	}
	if len(p.Machines) != 1 || len(p.Machines[0].Disks) != 1 {
		return "does not have one disk of one machine", c, nil
	}
	d := p.Machines[0].Disks[0]
	if !d.Frozen {
		return "was not frozen: " + d.Note, c, nil
	}
	out := filepath.Join(t.rig.Dir, "restored.img")
	defer os.Remove(out)
	err = product.Restore(ctx, t.app.Vault, vault.DiskID{Machine: machine, Disk: diskID}, d, out)
	if err != nil {
		return "cannot be restored: " + err.Error(), c, context.Cause(ctx)
	}
	got, err := rig.FileImage(ctx, out)
	if err != nil {
		return "", c, err
	}
	if got.SHA256 == c.Image.SHA256 {
		return "", c, nil
	}
	blocks, n := got.Differ(c.Image, 5)
	return fmt.Sprintf("differs from the frozen disk in %d blocks (of zeros there: %d), the first are %v (sha-256 %s, want %s)",
		n, c.Image.Zeros(got), blocks, short(got.SHA256), short(c.Image.SHA256)), c, nil
}

func short(h [sha256.Size]byte) string { return fmt.Sprintf("%x", h[:6]) }

// events takes note of what an operator would be told.
func (t *trial) events(ctx context.Context, res *Result) error {
	all, err := t.app.API.Events(ctx, api.Query{})
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	for _, e := range all {
		switch e.Kind {
		case "point-aborted":
			res.Aborted++
		case "resumed":
			t.kills.Resumed++
		case "resync":
			t.kills.Compared++
		}
		if e.Severity != "info" && len(res.Events) < 20 {
			res.Events = append(res.Events, e.Kind+": "+e.What)
		}
	}
	return nil
}
