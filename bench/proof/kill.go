package proof

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/agent"
	"github.com/leeward-dr/leeward/bench/product"
	"github.com/leeward-dr/leeward/bench/rig"
	"github.com/leeward-dr/leeward/streams/bus"
)

// order is what an agent in a process of its own is to do.
type order struct {
	Bus   string // context file
	Setup setup
	Cuts  string // directory for the images of the cuts
	DieAt int    // cut at which it kills itself while everything is frozen, 0: never
}

// AgentMain is the process that is killed. It protects, and leaves an image of each
// cut, until it dies.
func AgentMain(ctx context.Context, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cuts, cfg := 0, o.Setup.config()
	cfg.AtCut = func(point string, still func(context.Context) error) error {
		cuts++
		ctx, cancel := context.WithTimeout(context.Background(), 9*time.Second)
		defer cancel()
		if err := leaveImage(ctx, o, point); err != nil {
			return err
		}
		if cuts == o.DieAt {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return still(ctx)
	}
	conn, err := bus.Connect(ctx, bus.Options{Name: "proof agent", Context: o.Bus, Log: log})
	if err != nil {
		return err
	}
	defer conn.Close()
	a, err := agent.New(ctx, cfg, conn, log)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Run(ctx)
}

func leaveImage(ctx context.Context, o order, point string) error {
	began := time.Now()
	m, err := rig.DeviceImage(ctx, o.Setup.Disk)
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.Cuts, point+".new"))
	if err != nil {
		return err
	}
	err = errors.Join(gob.NewEncoder(f).Encode(cut{Image: m, Reading: time.Since(began)}), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(o.Cuts, point))
}

// readCuts reads what the killed agents have left.
func (t *trial) readCuts() error {
	entries, err := os.ReadDir(t.cutsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".new" {
			continue
		}
		f, err := os.Open(filepath.Join(t.cutsDir(), e.Name()))
		if err != nil {
			return err
		}
		c := new(cut)
		err = errors.Join(gob.NewDecoder(f).Decode(c), f.Close())
		if err != nil {
			return fmt.Errorf("image of cut %s: %w", e.Name(), err)
		}
		t.frozen[e.Name()] = c
	}
	return nil
}

// massacre runs agents and kills them: every other one while everything is frozen,
// the others at any moment. Then one is left alive until there are enough points.
func (t *trial) massacre(ctx context.Context) error {
	if err := os.MkdirAll(t.cutsDir(), 0o755); err != nil {
		return err
	}
	stop, err := t.startLoad(ctx)
	if err != nil {
		return err
	}
	rnd := rand.New(rand.NewPCG(t.o.Seed, 5))
	for err == nil && t.kills.Kills < t.o.Kills {
		err = t.killOne(ctx, rnd)
	}
	if err != nil {
		return errors.Join(err, stop())
	}
	last, err := t.spawn(0)
	if err == nil {
		err = t.enough(ctx, last.Alive)
		err = errors.Join(err, last.Stop(time.Minute))
	}
	return errors.Join(err, stop(), t.readCuts())
}

// spawn starts an agent that dies at a cut, if dieAt is not 0.
func (t *trial) spawn(dieAt int) (*rig.Process, error) {
	o := order{Bus: product.Context(t.app.Dir, "agent"), Setup: t.setup(), Cuts: t.cutsDir(), DieAt: dieAt}
	b, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(t.rig.Dir, "order.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		return nil, err
	}
	return t.rig.Start(rig.Command{Name: "agent", Argv: []string{t.o.Guard[0], "proof-agent", file}, Dir: t.rig.Dir})
}

func (t *trial) killOne(ctx context.Context, rnd *rand.Rand) error {
	dieAt := 0
	if rnd.IntN(2) == 0 {
		dieAt = 1 + rnd.IntN(3)
	}
	p, err := t.spawn(dieAt)
	if err != nil {
		return err
	}
	patience := time.Minute // for it to kill itself
	if dieAt == 0 {
		patience = time.Duration(rnd.Int64N(int64(3 * time.Second)))
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.Done():
	case <-timer.C:
		if dieAt != 0 {
			return errors.Join(fmt.Errorf("the agent did not come to its cut %d within %v; its last words: %s", dieAt, patience, p.Tail(3)), p.Kill())
		}
		if err := p.Kill(); err != nil {
			return err
		}
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), p.Kill())
	}
	if code := p.ExitCode(); code != -1 {
		if code == 1 && dieAt == 0 {
			return fmt.Errorf("the agent ended by itself: %s", p.Tail(3))
		}
		return fmt.Errorf("the agent ended with code %d: %s", code, p.Tail(3))
	}
	thaw, err := t.thawed(time.Now())
	if err != nil {
		return err
	}
	t.kills.Kills++
	if dieAt != 0 {
		t.kills.Frozen++
	}
	t.kills.ThawMax = max(t.kills.ThawMax, thaw)
	if thaw > time.Second {
		t.kills.Late++
	}
	if t.kills.Kills%10 == 0 {
		t.o.Say("%s: %d of %d kills, %d of them frozen, writable again after %v at most", t.fs, t.kills.Kills, t.o.Kills, t.kills.Frozen, t.kills.ThawMax.Round(time.Millisecond))
	}
	return nil
}

// thawed waits until every filesystem can be written to.
func (t *trial) thawed(since time.Time) (time.Duration, error) {
	errs := make([]error, len(t.places))
	var wg sync.WaitGroup
	for i, p := range t.places {
		wg.Go(func() { errs[i] = os.WriteFile(filepath.Join(p.dir, "probe"), []byte("x"), 0o600) })
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
		return time.Since(since), errors.Join(errs...)
	case <-time.After(20 * time.Second):
		return 0, errors.New("a filesystem stays frozen after the agent's death")
	}
}
