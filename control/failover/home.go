package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/reverse"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/hydrate"
	"github.com/leeward-dr/leeward/control/target/keeper"
	"github.com/leeward-dr/leeward/control/target/overlay"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// What a machine in a keeper can do beside running, see keeper.Machine.Do. All may be
// asked for twice.
const (
	DoProtect   = "protect"   // Protection → Protected: publish what it changes
	DoTell      = "tell"      // → Protected
	DoUnprotect = "unprotect" // stop publishing
	DoFinal     = "final"     // → Protected: end the guest and cut the last point
	DoAgain     = "again"     // undo final: start the guest from what it had written
)

// Protection says how a machine is re-protected.
type Protection struct {
	Bus      string        `json:"bus"` // file with the context for the bus
	Server   string        `json:"server,omitempty"`
	Holder   string        `json:"holder"` // who the fence lets write
	Group    string        `json:"group,omitempty"`
	Facts    wire.Facts    `json:"facts"`
	Interval time.Duration `json:"interval,omitempty"`
	Pool     streams.Pool  `json:"pool,omitempty"` // whose process servers handle what it writes
}

// Protected is how the re-protection of a machine goes.
type Protected struct {
	reverse.Status
	On    bool   `json:"on"`    // it is published
	Off   bool   `json:"off"`   // the guest was ended by DoFinal
	Ended string `json:"ended"` // why publishing ended by itself, "" if it did not

	Hydration *hydrate.Status `json:"hydration,omitempty"` // nil: the disks stay in the vault
}

// Copy returns the machine that a job keeps. It wraps keeper.ErrGone if there is none, or
// none with a process of its own.
func (e *Engine) Copy(job string) (*keeper.Machine, error) { return keeper.Adopt(e.files.run(job)) }

// leading is a target in a keeper whose machines can be led home.
type leading struct {
	target.Target
	vault *vault.Vault
	all   disks
	log   *slog.Logger
	// connect is bus.Connect, but in tests.
	connect func(context.Context, bus.Options) (*bus.Bus, error)
}

// Start implements target.Target.
func (t leading) Start(ctx context.Context, m *target.Machine, dir string) (target.Running, error) {
	r, err := t.Target.Start(ctx, m, dir)
	if err != nil {
		return nil, err
	}
	l := &led{leading: t, machine: m, dir: dir, running: r}
	l.life, l.end = context.WithCancel(context.WithoutCancel(ctx))
	l.wg.Go(l.resume)
	return l, nil
}

// guest is what a machine must be to be led home. *qemu.Run is one.
type guest interface {
	target.Running
	Pause(ctx context.Context) (resume func() error, err error)
	Off(ctx context.Context) error
	Overlay(disk int) *overlay.Overlay
}

// led is a machine in a keeper.
type led struct {
	leading
	machine *target.Machine
	dir     string

	mu      sync.Mutex // held while something is done with it
	running target.Running
	off     bool
	how     *Protection // how it is, or was, published

	exporting *exporting // nil: it is not published

	life context.Context // until Stop
	end  context.CancelFunc
	wg   sync.WaitGroup
}

// protectFile, in a run's directory, holds the Protection of a machine that is published:
// a keeper that takes the place of one that died goes on with that.
const protectFile = "protect.json"

// resumeAgain is how long to wait before it is tried again.
const resumeAgain = 2 * time.Second

// resume publishes again what an earlier keeper had published.
func (l *led) resume() {
	b, err := os.ReadFile(filepath.Join(l.dir, protectFile))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	p := new(Protection)
	if err == nil {
		err = json.Unmarshal(b, p)
	}
	if err != nil {
		l.log.Error("how the machine was re-protected cannot be read: re-protect it again", "machine", l.machine.Name, "err", err)
		return
	}
	for l.life.Err() == nil {
		l.mu.Lock()
		err := l.protect(l.life, p)
		l.mu.Unlock()
		if err == nil {
			return
		}
		l.log.Warn("the machine cannot be re-protected yet", "machine", l.machine.Name, "err", err)
		t := time.NewTimer(resumeAgain)
		select {
		case <-t.C:
		case <-l.life.Done():
			t.Stop()
		}
	}
}

// exporting is an exporter that runs.
type exporting struct {
	e      *reverse.Exporter
	bus    *bus.Bus
	cancel context.CancelFunc
	done   chan struct{}
	err    error // after done
}

func (x *exporting) stop() {
	x.cancel()
	<-x.done
	x.bus.Close()
}

func (l *led) now() target.Running {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running
}

// Probe implements target.Running. It adds how much the disks fetched: in a keeper nobody
// else knows.
func (l *led) Probe(ctx context.Context, p target.Probe) (*target.Result, error) {
	res, err := l.now().Probe(ctx, p)
	if res != nil {
		res.Fetched = l.all.fetched()
	}
	return res, err
}

// Wait implements target.Running.
func (l *led) Wait(ctx context.Context) error { return l.now().Wait(ctx) }

// Stop implements target.Running.
func (l *led) Stop(ctx context.Context) error {
	l.end()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unprotect()
	return l.running.Stop(ctx)
}

// Do implements keeper.Doer.
func (l *led) Do(ctx context.Context, what string, in json.RawMessage) (json.RawMessage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	switch what {
	case DoTell:
	case DoProtect:
		p := new(Protection)
		if err = json.Unmarshal(in, p); err == nil {
			err = l.protect(ctx, p)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(l.dir, protectFile), in, 0o600)
		}
	case DoUnprotect:
		if err = os.Remove(filepath.Join(l.dir, protectFile)); errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		l.unprotect()
	case DoFinal:
		err = l.final(ctx)
	case DoAgain:
		err = l.again(ctx)
	default:
		err = fmt.Errorf("a machine cannot %q", what)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(l.tell())
}

func (l *led) tell() *Protected {
	p := &Protected{Off: l.off, Hydration: hydration(l.running)}
	if x := l.exporting; x != nil {
		p.On, p.Status = true, x.e.Status()
		select {
		case <-x.done:
			if x.err != nil {
				p.On, p.Ended = false, x.err.Error()
			}
		default:
		}
	}
	return p
}

// protect begins to publish, unless that goes on already.
func (l *led) protect(ctx context.Context, p *Protection) error {
	if l.exporting != nil {
		if now := l.tell(); now.Ended == "" && l.how.Holder == p.Holder {
			return nil
		}
		l.unprotect()
	}
	g, ok := l.running.(guest)
	if !ok {
		return fmt.Errorf("a machine on target %s cannot be re-protected", l.Name())
	}
	c := reverse.Config{
		Machine: l.machine.Name, Group: p.Group, Holder: p.Holder, Facts: p.Facts, Interval: p.Interval, Pool: p.Pool, Pause: g.Pause, Log: l.log,
	}
	for i, d := range l.all {
		c.Disks = append(c.Disks, reverse.Disk{Name: d.name, Base: d.at, Overlay: g.Overlay(i)})
	}
	b, err := l.connect(ctx, bus.Options{Name: "leeward re-protection of " + l.machine.Name, Context: p.Bus, URL: p.Server, Log: l.log})
	if err != nil {
		return err
	}
	e, err := reverse.New(c, b, l.vault)
	if err != nil {
		b.Close()
		return err
	}
	// It goes on when the question is answered.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	x := &exporting{e: e, bus: b, cancel: cancel, done: make(chan struct{})}
	l.exporting, l.how = x, p
	go func() {
		defer close(x.done)
		if x.err = e.Run(ctx); x.err != nil {
			l.log.Error("the machine is not re-protected any more", "machine", l.machine.Name, "err", x.err)
		}
	}()
	return nil
}

func (l *led) unprotect() {
	if l.exporting != nil {
		l.exporting.stop()
		l.exporting = nil
	}
}

// final ends the guest and cuts the last point.
func (l *led) final(ctx context.Context) error {
	g, ok := l.running.(guest)
	if !ok || l.exporting == nil {
		return errors.New("the machine is not re-protected: nothing leads home")
	}
	if l.off && l.exporting.e.Status().Final {
		return nil
	}
	if !l.off {
		// Before anything: whatever happens to this process, the guest must not be started
		// again when its disks are on the way home.
		if err := os.WriteFile(filepath.Join(l.dir, offFile), nil, 0o600); err != nil {
			return err
		}
		if err := g.Off(ctx); err != nil {
			return err
		}
		l.off = true
	}
	if err := l.unfix(ctx); err != nil {
		return err
	}
	_, err := l.exporting.e.Final(ctx)
	return err
}

// unfix takes back what the machine's disks were changed for the hardware here: it must not
// go home with them. The guest is off.
func (l *led) unfix(ctx context.Context) error {
	u, ok := l.running.(interface {
		Unfix(ctx context.Context) (done []string, err error)
	})
	if !ok {
		return nil
	}
	done, err := u.Unfix(ctx)
	if err != nil {
		return fmt.Errorf("the machine would go home with what was changed for this hardware: %w", err)
	}
	for _, d := range done {
		l.log.Info("taken back before the machine goes home", "machine", l.machine.Name, "what", d)
	}
	return nil
}

// again starts the guest from what it had written, and publishes it as before.
func (l *led) again(ctx context.Context) error {
	if !l.off {
		return nil
	}
	l.unprotect()
	if err := l.running.Stop(ctx); err != nil {
		l.log.Warn("end what is left of a machine that is off", "machine", l.machine.Name, "err", err)
	}
	// The machine outlives the question.
	r, err := l.Target.Start(context.WithoutCancel(ctx), l.machine, l.dir)
	if err != nil {
		return err
	}
	l.running, l.off = r, false
	if err := os.Remove(filepath.Join(l.dir, offFile)); err != nil {
		return err
	}
	if l.how == nil {
		return nil
	}
	return l.protect(ctx, l.how)
}
