package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Homeward says what is to be led home.
type Homeward struct {
	Machine string
	Job     string            // that keeps the copy
	Point   string            // that the copy began with
	Holder  string            // instance that may write the machine's disks meanwhile
	Disks   map[string]string // failback: disk → path on this host
}

// Home leads a machine that was failed over back: see package failover. Everything it
// does may be done again after a crash of control, and is ended with ctx.
type Home interface {
	// Reprotect sends what the copy changes to the vault, from now on, and returns when
	// there is a point of it.
	Reprotect(ctx context.Context, h Homeward) error
	// Unprotect ends that. The copy runs on.
	Unprotect(ctx context.Context, h Homeward) error
	// Return makes a final point with the copy stopped, and writes it onto the disks at
	// home, until they hold it.
	Return(ctx context.Context, h Homeward) error
	// Stay undoes what Return did to the copy: it runs again, and is protected.
	Stay(ctx context.Context, h Homeward) error
	// Settle lets go of what Reprotect and Return hold: the machine lives at home.
	Settle(ctx context.Context, h Homeward) error
}

var errNoHome = errors.New("no way home is configured here")

const (
	hookTime  = 10 * time.Minute // for a command of the operator
	finalTime = 10 * time.Minute // for a final point to be in the vault
	// finalTries is how often a final point is tried: the agent may be busy with another.
	finalTries = 5
	// stillTime is for how long the agent cuts no points of its own after a final one: time
	// for that to reach the vault. If it takes longer the failover is given up, not wrong.
	stillTime = time.Minute
)

func (v *lives) workers() map[life.Phase]worker {
	home := func(do func(Home, context.Context, Homeward) error) worker {
		return func(ctx context.Context, l *life.Life) (life.Event, error) {
			if v.s.home == nil {
				return life.Event{}, errNoHome
			}
			return life.Event{}, do(v.s.home, ctx, homeward(l))
		}
	}
	return map[life.Phase]worker{
		life.Checking: v.check, life.Draining: v.drain, life.Fencing: v.fence, life.Stopping: v.shutdown, life.Bringing: v.bring,
		life.Changing: v.end, life.Ending: v.end, life.Releasing: v.release,
		life.Reprotecting: v.reprotect, life.Unprotecting: v.unprotect, life.Returning: home(Home.Return), life.Staying: home(Home.Stay),
		life.Settling: v.settleHome, life.Completing: v.unprotect, life.Disabling: v.disable,
	}
}

func holder(l *life.Life) string {
	h := fmt.Sprintf("copy-%d-%s", l.Generation, l.Machine)
	return h[:min(len(h), streams.MaxName)]
}

func homeward(l *life.Life) Homeward {
	return Homeward{Machine: l.Machine, Job: l.Job, Point: l.Point, Holder: holder(l), Disks: l.Order.Home}
}

// orderOf is what to bring up for l, at its point.
func orderOf(l *life.Life) failover.Request {
	r := failover.Request{
		ID: fmt.Sprintf("life/%s/%d/%d", l.Machine, l.Generation, l.Attempt), Machine: l.Machine, Point: cmp.Or(l.Point, l.Order.Point),
		Target: cmp.Or(l.Order.Target, "qemu"), Options: l.Order.Options,
	}
	if r.Target == failover.Cloud {
		r.Options.Instance = holder(l)
		r.Options.Network = cmp.Or(r.Options.Network, failover.Open) // so that this is what is validated
	}
	return r
}

// check chooses the point and makes sure that it can be brought up.
func (v *lives) check(ctx context.Context, l *life.Life) (life.Event, error) {
	if l.Order.Planned && !v.s.online(l.Machine) {
		return life.Event{}, fmt.Errorf("no agent of machine %s is there to make a final point: fail over without --planned", l.Machine)
	}
	r := orderOf(l)
	var err error
	if r.Point, err = v.s.named(ctx, l.Machine, r.Point); err != nil {
		return life.Event{}, err
	}
	k, err := v.s.engine.Validate(ctx, r)
	if err != nil {
		return life.Event{}, err
	}
	return life.Event{Point: k.Point.ID, Text: fmt.Sprintf("point %s of %s", k.Point.ID, k.Point.Time.UTC().Format(time.RFC3339))}, nil
}

// quiesce stops the machine's applications, if a command was given for that.
func (v *lives) quiesce(ctx context.Context, l *life.Life) error {
	if l.Order.Quiesce == "" {
		return nil
	}
	said, err := hook(ctx, l, "quiesce", l.Order.Quiesce)
	if err != nil {
		return fmt.Errorf("the command that stops the applications failed: %w", err)
	}
	if said != "" {
		v.s.log.Info("applications were stopped", "machine", l.Machine, "said", said)
	}
	return nil
}

// drain makes the final point of a planned failover and waits until it is whole.
func (v *lives) drain(ctx context.Context, l *life.Life) (life.Event, error) {
	if l.Order.Together != nil {
		return v.drainTogether(ctx, l)
	}
	if err := v.quiesce(ctx, l); err != nil {
		return life.Event{}, err
	}
	id, err := v.finalPoint(ctx, l.Machine, []string{l.Machine})
	return life.Event{Point: id, Text: "final point " + id}, err
}

// finalPoint has machines cut together, and waits until the vault has the point.
func (v *lives) finalPoint(ctx context.Context, group string, members []string) (string, error) {
	var m *wire.Marker
	for n := 0; m == nil; n++ {
		var err error
		m, err = markers.Lead(ctx, v.s.bus.Conn, v.s.bus.JS, markers.Plan{
			ID: markers.NewID(rand.Text()), Group: group, Members: members, Consistency: wire.Crash,
			Limit: 10 * time.Second, Every: stillTime / 2, Patience: markers.DefaultPatience, // the agent's own limit is shorter
		})
		if _, failed := errors.AsType[*markers.Failure](err); err != nil && (!failed || n+1 >= finalTries || !pauseFor(ctx, 2*time.Second)) {
			return "", fmt.Errorf("no final point: %w", err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, finalTime, fmt.Errorf("the final point %s is not in the vault after %v: see that a process server runs", m.ID, finalTime))
	defer cancel()
	return m.ID, poll(ctx, func() (bool, error) {
		v.s.decider.recheck()
		return v.s.state.listed(m.ID), nil
	})
}

// hook runs a command of the operator.
func hook(ctx context.Context, l *life.Life, stage, command string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, hookTime, fmt.Errorf("not done within %v", hookTime))
	defer cancel()
	said, err := script(ctx, &plan.Run{Plan: l.Machine, ID: fmt.Sprintf("%s-%d", l.Machine, l.Generation), Mode: plan.Failover},
		&plan.Task{Stage: stage}, &plan.Script{Run: command})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return said, err
}

// fence keeps the source out. Of a planned failover it finds out what the source changed
// after the final point, and refuses to go on if that is too much.
func (v *lives) fence(ctx context.Context, l *life.Life) (life.Event, error) {
	if err := v.setFence(ctx, streams.Fence{
		Machine: l.Machine, Generation: l.Generation, Since: time.Now().UTC(),
		Why: fmt.Sprintf("machine %s was failed over to point %s by %s", l.Machine, l.Point, cmp.Or(l.By, "an operator")),
	}); err != nil || !l.Order.Planned {
		return life.Event{}, err
	}
	var loss uint64
	var err error
	if l.Order.Together != nil {
		loss, err = v.fenceTogether(ctx, l)
	} else {
		loss, err = v.lossOf(ctx, l)
	}
	if err != nil {
		return life.Event{}, err
	}
	return life.Event{Loss: &loss, Text: fmt.Sprintf("%d bytes changed after the final point", loss)}, nil
}

// lossOf returns how many bytes the fenced source of a planned failover changed after the
// final point. It is an error if that is more than the operator allows.
func (v *lives) lossOf(ctx context.Context, l *life.Life) (uint64, error) {
	loss, err := v.untilQuiet(ctx, l.Machine)
	if err != nil {
		return 0, err
	}
	if err := v.s.settle(ctx, l.Machine); err != nil {
		return 0, err
	}
	if err := v.nothingBehind(ctx, l); err != nil {
		return 0, err
	}
	if loss > l.Order.MaxLoss {
		return 0, fmt.Errorf("%d bytes changed on the source after the final point, at most %d are allowed: stop what writes there, or allow more with --max-loss",
			loss, l.Order.MaxLoss)
	}
	return loss, nil
}

// nothingBehind makes sure that the vault holds nothing of the machine behind its point.
func (v *lives) nothingBehind(ctx context.Context, l *life.Life) error {
	p, err := v.s.vault.Point(ctx, l.Point)
	if err != nil {
		return err
	}
	for _, k := range pointMachine(p, l.Machine).Disks {
		id := vault.DiskID{Machine: l.Machine, Disk: k.Disk}
		w, err := v.s.vault.OpenDisk(ctx, id)
		if err != nil {
			return err
		}
		if at := w.Head().Position; at != k.At {
			return fmt.Errorf("disk %s was changed after the final point: the vault holds it up to %s, the point up to %s: stop what writes there and try again", id, at, k.At)
		}
	}
	return nil
}

// shutdown turns the source off. If that fails the failover goes on: the source is fenced.
func (v *lives) shutdown(ctx context.Context, l *life.Life) (life.Event, error) {
	said, err := hook(ctx, l, "shutdown", l.Order.Shutdown)
	if err != nil {
		return life.Event{}, fmt.Errorf("the source was not shut down, only fenced: %w", err)
	}
	return life.Event{Text: said}, nil
}

// copies returns the jobs that keep copies of a machine, or what is left of them. A job
// whose record is damaged is known by its id alone.
func (v *lives) copies(l *life.Life) []failover.Job {
	return slices.DeleteFunc(v.s.engine.Jobs(), func(j failover.Job) bool {
		return j.State == failover.Cleaned || j.ID != l.Job && (j.Kind != failover.RealFailover || j.Request.Machine != l.Machine)
	})
}

// bring brings the machine up. A job that an earlier process began for it is taken for
// this one.
func (v *lives) bring(ctx context.Context, l *life.Life) (life.Event, error) {
	var j failover.Job
	for _, c := range v.copies(l) {
		if j.ID == "" && c.Request.Point == l.Point && (c.State.Running() || c.State == failover.Alive) {
			j = c
			continue
		}
		if _, err := v.s.engine.Cleanup(ctx, c.ID); err != nil {
			return life.Event{}, fmt.Errorf("remove what is left of job %s: %w", c.ID, err)
		}
	}
	var err error
	if j.ID == "" {
		if j, err = v.s.engine.Failover(orderOf(l)); err != nil {
			return life.Event{}, err
		}
	}
	for j.State.Running() {
		if j, err = v.s.engine.Watch(ctx, j.ID, j.Revision); err != nil {
			return life.Event{Job: j.ID}, fmt.Errorf("job %s: %w", j.ID, err)
		}
	}
	if j.State != failover.Alive {
		return life.Event{Job: j.ID}, fmt.Errorf("job %s is %s: %s", j.ID, j.State, j.Error)
	}
	return life.Event{Job: j.ID, Text: "job " + j.ID}, nil
}

// end ends the copy and removes what it wrote.
func (v *lives) end(ctx context.Context, l *life.Life) (life.Event, error) {
	for _, c := range v.copies(l) {
		if _, err := v.s.engine.Cleanup(ctx, c.ID); err != nil {
			return life.Event{}, fmt.Errorf("end job %s: %w", c.ID, err)
		}
	}
	return life.Event{}, nil
}

// release lets the source write again.
func (v *lives) release(ctx context.Context, l *life.Life) (life.Event, error) {
	if left := v.copies(l); len(left) > 0 { // it cannot be, and must never be
		return life.Event{}, fmt.Errorf("job %s still keeps a copy of machine %s", left[0].ID, l.Machine)
	}
	return life.Event{}, v.dropFence(ctx, l.Machine)
}

// reprotect lets the copy write the machine's disks in the vault.
func (v *lives) reprotect(ctx context.Context, l *life.Life) (life.Event, error) {
	if v.s.home == nil {
		return life.Event{}, errNoHome
	}
	f := v.fenceFor(l)
	f.Holder = holder(l)
	if err := v.setFence(ctx, f); err != nil {
		return life.Event{}, err
	}
	return life.Event{}, v.s.home.Reprotect(ctx, homeward(l))
}

// fenceFor returns the fence that a machine has, or one like it.
func (v *lives) fenceFor(l *life.Life) streams.Fence {
	if f := v.fenceOf(l.Machine); f != nil && f.Generation == l.Generation {
		return *f
	}
	return streams.Fence{Machine: l.Machine, Generation: l.Generation, Since: time.Now().UTC(), Why: fmt.Sprintf("machine %s is %s", l.Machine, l.Phase)}
}

// unprotect ends what reprotect began; then nobody writes the machine's disks.
func (v *lives) unprotect(ctx context.Context, l *life.Life) (life.Event, error) {
	if v.s.home != nil {
		if err := v.s.home.Unprotect(ctx, homeward(l)); err != nil {
			return life.Event{}, err
		}
	}
	f := v.fenceFor(l)
	f.Holder = ""
	return life.Event{}, v.setFence(ctx, f)
}

// settleHome ends the copy, and lets the source write again.
func (v *lives) settleHome(ctx context.Context, l *life.Life) (life.Event, error) {
	if v.s.home != nil {
		if err := v.s.home.Settle(ctx, homeward(l)); err != nil {
			return life.Event{}, err
		}
	}
	if _, err := v.end(ctx, l); err != nil {
		return life.Event{}, err
	}
	return v.release(ctx, l)
}

// disable keeps the agent from writing, and drops the machine's own points if asked to.
func (v *lives) disable(ctx context.Context, l *life.Life) (life.Event, error) {
	f := v.fenceFor(l)
	f.Holder, f.Why = "", fmt.Sprintf("replication of machine %s was disabled by %s", l.Machine, cmp.Or(l.By, "an operator"))
	if err := v.setFence(ctx, f); err != nil || !l.Order.DropHistory {
		return life.Event{}, err
	}
	n, err := v.s.dropPoints(ctx, l.Machine)
	return life.Event{Text: fmt.Sprintf("%d points removed", n)}, err
}
