package qemu

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

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/fixup"
	"github.com/leeward-dr/leeward/control/target/hydrate"
	"github.com/leeward-dr/leeward/control/target/nbd"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

// Run is a machine that was brought up. It is a target.Running.
type Run struct {
	cfg      Config
	dir      string
	start    time.Time
	log      *slog.Logger
	overlays []*overlay.Overlay
	proc     *process
	mon      *monitor
	serial   *serial

	copies  []*hydrate.Copy // of the disks, if they are copied
	copying func()          // ends that; nil if it goes not on
	helper  helper
	disks   []string     // names
	fixed   fixup.Report // what was done to the disks

	stopNBD func() error
	wg      sync.WaitGroup // serial reader, watcher

	stopMu  sync.Mutex
	stopped bool
	stopErr error

	screenMu sync.Mutex // one picture at a time
	hostMu   sync.Mutex
	hostPort map[int]int // by port of the guest

	mu     sync.Mutex
	seen   seen
	poke   chan struct{} // has an element when seen changed
	over   chan struct{} // closed when the guest powered off or QEMU ended
	asked  bool          // QEMU was asked to end
	latest int64         // bytes the guest read, when last asked
}

// seen is what QEMU told of the guest.
type seen struct {
	off    bool   // the guest powered off
	why    string // as QEMU calls it
	resets int
	faults int // requests to a disk that failed
	paused bool
}

// Start brings m up.
func (t *Target) Start(ctx context.Context, m *target.Machine, dir string) (target.Running, error) {
	if err := t.Validate(ctx, m); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, why := t.accel.find(ctx, t.cfg.Binary)
	r, err := t.start(ctx, m, dir, a, why)
	if a.kvm && errors.Is(err, errEnded) && ctx.Err() == nil {
		// A trial is short: what the whole machine asks of KVM may be too much for it.
		t.accel.distrust(err.Error())
		t.cfg.Log.Warn("QEMU ended with KVM, the guest is started without", "machine", m.Name, "reason", err)
		r, err = t.start(ctx, m, dir, emulated, err.Error())
	}
	if err != nil {
		return nil, fmt.Errorf("bring up %s in QEMU: %w", m.Name, err)
	}
	return r, nil
}

// start brings m up with a; why says why that is not KVM.
func (t *Target) start(ctx context.Context, m *target.Machine, dir string, a accel, why string) (*Run, error) {
	r := t.newRun(m, dir, a)
	if !a.kvm {
		r.log.Info("no KVM: the guest is emulated and slow", "reason", why)
	}
	if err := r.bringUp(ctx, t, m, a); err != nil {
		return nil, errors.Join(err, r.release())
	}
	return r, nil
}

func (t *Target) newRun(m *target.Machine, dir string, a accel) *Run {
	r := &Run{
		cfg: t.cfg, dir: dir, start: time.Now(), log: t.cfg.Log.With("machine", m.Name), disks: names(m.Disks),
		hostPort: make(map[int]int), poke: make(chan struct{}, 1), over: make(chan struct{}),
	}
	r.serial = newSerial(r.start)
	r.helper = helper{cfg: t.cfg, accel: a, dir: dir, log: r.log}
	return r
}

func (r *Run) bringUp(ctx context.Context, t *Target, m *target.Machine, a accel) error {
	p, err := t.plan(m, a, r.dir)
	if err != nil {
		return err
	}
	if err := r.export(m.Disks, t.cfg.Hydrate); err != nil {
		return err
	}
	if err := r.fix(ctx, t, m); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(r.dir, serialFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if r.proc, err = r.launch(ctx, p); err != nil {
		log.Close()
		return err
	}
	r.wg.Go(func() {
		defer log.Close()
		r.serial.read(r.proc.serial, log)
	})
	r.mon = newMonitor(r.proc.qmp, r.event)
	r.wg.Go(r.watch)
	r.wg.Go(r.settle)
	for _, command := range []string{"qmp_capabilities", "cont"} {
		if err := r.mon.call(ctx, command, nil, nil); err != nil {
			if errors.Is(err, errGone) {
				r.proc.kill()
				err = r.proc.failure()
			}
			return err
		}
	}
	r.hydrate()
	if p.bridge != "" {
		r.announce(ctx)
	}
	return nil
}

// launch starts QEMU, with an end of the bridge's cable if the guest is on one.
func (r *Run) launch(ctx context.Context, p *plan) (*process, error) {
	if p.bridge == "" {
		return launch(r.cfg.Binary, p.args(), r.dir)
	}
	cable, err := attach(ctx, p.bridge)
	if err != nil {
		return nil, err
	}
	defer cable.Close() // QEMU has its own
	return launch(r.cfg.Binary, p.args(), r.dir, cable)
}

// announce tells the switches of a bridge's network where the guest's address is now, some
// times while it boots; they may still believe it elsewhere.
func (r *Run) announce(ctx context.Context) {
	how := map[string]any{"initial": 50, "max": 1000, "rounds": 10, "step": 100} // milliseconds
	if err := r.mon.call(ctx, "announce-self", how, nil); err != nil {
		r.log.Warn("the machine's address is not announced on its bridge", "err", err)
	}
}

// export serves the disks through overlays: those of an earlier run in this directory, with
// all that its guest had flushed, or new ones. With copied they are over copies, see hydrate.
func (r *Run) export(disks []target.Disk, copied bool) error {
	var configs []nbd.Config
	for i, d := range disks {
		var base overlay.Base = d
		if copied {
			c, err := hydrate.Open(d, filepath.Join(r.dir, exportName(i)+".copy"))
			if err != nil {
				return fmt.Errorf("disk %s: %w", d.Name(), err)
			}
			r.copies = append(r.copies, c)
			base = c
		}
		o, err := overlay.Open(base, filepath.Join(r.dir, exportName(i)+".overlay"))
		if err != nil {
			return fmt.Errorf("disk %s: %w", d.Name(), err)
		}
		r.overlays = append(r.overlays, o)
		configs = append(configs, nbd.Config{Name: exportName(i), Description: d.Name(), Export: o})
	}
	s, err := nbd.NewServer(r.log, configs...)
	if err != nil {
		return err
	}
	// An earlier run in this directory that was killed left it.
	if err := os.Remove(filepath.Join(r.dir, nbdSocket)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := nbd.Listen(r.dir, nbdSocket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	r.stopNBD = func() error {
		cancel()
		return <-served
	}
	return nil
}

// event takes in what QEMU tells; see monitor.
func (r *Run) event(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var data struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
		Action string `json:"action"`
	}
	if e.Data != nil && json.Unmarshal(e.Data, &data) != nil {
		return
	}
	switch e.Name {
	case "SHUTDOWN":
		if data.Guest {
			r.seen.off, r.seen.why = true, data.Reason
		}
	case "RESET":
		if data.Guest {
			r.seen.resets++
		}
	case "BLOCK_IO_ERROR":
		r.seen.faults++
		r.seen.paused = r.seen.paused || data.Action == "stop"
	case "RESUME":
		r.seen.paused = false
	default:
		return
	}
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

func (r *Run) now() seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// retryDisk is how long a guest whose disk failed stands still before it tries again.
const retryDisk = time.Second

// watch does what a guest's events call for, until QEMU has ended: one that powered
// off is looked at a last time and ended; one that stands still because its disk
// failed is let go on, so that a vault out of reach for a while costs it only time.
func (r *Run) watch() {
	var retry <-chan time.Time
	for {
		select {
		case <-r.proc.done:
			r.endOver()
			return
		case <-retry:
			retry = nil
			if err := r.mon.call(context.Background(), "cont", nil, nil); err != nil && !errors.Is(err, errGone) {
				r.log.Warn("resume guest", "err", err)
			}
			continue
		case <-r.poke:
		}
		s := r.now()
		if s.off {
			if _, err := r.picture(context.Background()); err != nil {
				r.log.Warn("last picture of the screen", "err", err)
			}
			r.bytesRead(context.Background())
			r.endOver()
			r.quit(context.Background())
			<-r.proc.done
			return
		}
		if s.paused && retry == nil {
			retry = time.After(retryDisk)
		}
	}
}

// endOver says that the guest is no more; only watch calls it, once.
func (r *Run) endOver() { close(r.over) }

// quit asks QEMU to end.
func (r *Run) quit(ctx context.Context) {
	r.mu.Lock()
	r.asked = true
	r.mu.Unlock()
	_ = r.mon.call(ctx, "quit", nil, nil) // it may end before it answers
}

// bytesRead returns how much the guest has read from its disks so far.
func (r *Run) bytesRead(ctx context.Context) int64 {
	n, err := r.mon.bytesRead(ctx, len(r.overlays))
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.latest = n
	}
	return r.latest
}

// Overlay returns the overlay of a disk, from 0: what the guest wrote, and how much
// of the point it needed. It is good until Stop.
func (r *Run) Overlay(disk int) *overlay.Overlay { return r.overlays[disk] }

// Wait blocks until QEMU has ended. It fails if nobody asked for that: neither the
// guest, by powering off, nor Stop.
func (r *Run) Wait(ctx context.Context) error {
	select {
	case <-r.proc.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.asked {
		return nil
	}
	return r.proc.failure()
}

// How Stop goes about it.
const (
	pressAgain = 5 * time.Second // a guest that boots does not notice the power button
	quitTime   = 5 * time.Second // for QEMU to end by itself
)

// Stop asks the guest to power off, for as long as Config says and ctx lasts, and then
// ends QEMU. It must be called, also when the guest powered off by itself; the second
// call returns what the first did.
func (r *Run) Stop(ctx context.Context) error {
	r.stopMu.Lock()
	defer r.stopMu.Unlock()
	if !r.stopped {
		r.powerOff(ctx)
		r.stopErr = r.release()
		r.stopped = true
	}
	return r.stopErr
}

// powerOff presses the power button until the guest has powered off or time is up.
func (r *Run) powerOff(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.PowerOff)
	defer cancel()
	again := time.NewTicker(pressAgain)
	defer again.Stop()
	for {
		if r.now().paused { // it cannot hear
			return
		}
		_ = r.mon.call(ctx, "system_powerdown", nil, nil) // waiting tells whether it worked
		select {
		case <-r.proc.done:
			return
		case <-ctx.Done():
			r.log.Warn("the guest does not power off; it is ended")
			return
		case <-again.C:
		}
	}
}

// release ends QEMU and everything that was started for it. What files it leaves are
// the run's record.
func (r *Run) release() error {
	if r.proc != nil {
		r.mu.Lock()
		r.asked = true
		r.mu.Unlock()
		if r.mon != nil {
			ctx, cancel := context.WithTimeout(context.Background(), quitTime)
			r.quit(ctx)
			select {
			case <-r.proc.done:
			case <-ctx.Done():
			}
			cancel()
		}
		r.proc.kill()
		r.proc.hangUp()
		if r.mon != nil {
			r.mon.close()
		}
		r.wg.Wait()
	}
	if r.copying != nil {
		r.copying()
	}
	var errs []error
	if r.stopNBD != nil {
		errs = append(errs, r.stopNBD())
	}
	for _, o := range r.overlays {
		errs = append(errs, o.Close())
	}
	for _, c := range r.copies {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
