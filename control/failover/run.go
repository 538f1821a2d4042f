package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/keeper"
)

// run takes a job from its request to a verdict.
func (e *Engine) run(ctx context.Context, l *live, t target.Target) {
	start := time.Now()
	err := e.attempt(ctx, l, t, start)
	if err != nil && !e.leaves(l) {
		e.failed(l, err)
	}
	if err == nil {
		e.guard(ctx, l)
	}
}

// failed records why a job failed.
func (e *Engine) failed(l *live, err error) {
	e.update(l, func(j *Job) {
		if aerr := j.advance(Fail, time.Now().UTC(), err.Error()); aerr != nil {
			return // it was stopped meanwhile
		}
		j.Error, j.Code = err.Error(), code(err)
	})
}

// code sorts the errors of a job, in the words of package api.
func code(err error) string {
	switch {
	case errors.Is(err, ErrNoPoint):
		return "not_found"
	case errors.Is(err, ErrRefused):
		return "refused"
	}
	return "failed"
}

func (e *Engine) attempt(ctx context.Context, l *live, t target.Target, start time.Time) error {
	r := l.job.Request
	point, m, short, err := e.choose(ctx, r)
	if err != nil {
		return err
	}
	if short != "" {
		short = "; " + short
	}
	e.update(l, func(j *Job) {
		j.Point, j.PointTime, j.Consistency = point.ID, point.Time, point.Consistency
		e.note(j.advance(Done, time.Now().UTC(), fmt.Sprintf("point %s, %s-consistent, of %s%s", point.ID, point.Consistency, point.Time.Format(time.RFC3339), short)))
	})

	all, err := open(ctx, e.cfg.Vault, m)
	if err != nil {
		return err
	}
	l.disks = all
	tm := machine(point, m, all, r.Options)
	if err := t.Validate(ctx, tm); err != nil {
		return fmt.Errorf("target %s cannot bring up %s: %w", t.Name(), r.Machine, refused{err})
	}
	run := e.files.run(l.job.ID)
	if err := os.MkdirAll(run, 0o700); err != nil {
		return fmt.Errorf("make the run's directory: %w", err)
	}
	e.update(l, func(j *Job) {
		e.note(j.advance(Done, time.Now().UTC(), fmt.Sprintf("%d disks opened", len(all))))
	})

	running, err := t.Start(ctx, tm, run)
	if err != nil {
		return fmt.Errorf("start %s on target %s: %w", r.Machine, t.Name(), err)
	}
	l.running = running
	e.update(l, func(j *Job) { e.note(j.advance(Done, time.Now().UTC(), "")) })
	return e.prove(ctx, l, start)
}

// prove waits for proof of life and records what was seen, alive or not.
func (e *Engine) prove(ctx context.Context, l *live, start time.Time) error {
	res, err := l.running.Probe(ctx, l.job.Request.Options.probe())
	var seen *Result
	if res != nil {
		seen = resultOf(res)
		seen.VaultReadBytes, seen.RTOSeconds = l.disks.fetched()+res.Fetched, time.Since(start).Seconds()
	}
	switch {
	case err != nil:
		err = fmt.Errorf("no proof of life: %w", err)
	case seen == nil || !seen.Alive:
		err = errors.New("no proof of life within the time; see the serial log and the picture of the screen")
	}
	if err != nil {
		e.update(l, func(j *Job) { j.Result = seen })
		return err
	}
	e.update(l, func(j *Job) {
		j.Result = seen
		detail := "waits for cleanup"
		if j.Kind == RealFailover {
			detail = "" // it stays
		}
		e.note(j.advance(Done, time.Now().UTC(), detail))
	})
	return nil
}

// note logs an impossible step; the job stays where it is.
func (e *Engine) note(err error) {
	if err != nil {
		e.cfg.Log.Error("job state", "err", err)
	}
}

// choose returns the point that a request means, its machine, and what the choice is
// short of (see about).
func (e *Engine) choose(ctx context.Context, r Request) (*vault.Point, *vault.PointMachine, string, error) {
	if e.cfg.Settle != nil && cmp.Or(r.Point, Latest) == Latest {
		if err := e.cfg.Settle(ctx, r.Machine); err != nil {
			return nil, nil, "", fmt.Errorf("wait until what has arrived is processed: %w", err)
		}
	}
	all, err := e.cfg.Points(ctx)
	if err != nil {
		return nil, nil, "", fmt.Errorf("list the recovery points: %w", err)
	}
	p, err := Select(all, r.Machine, r.Point)
	if err != nil {
		return nil, nil, "", err
	}
	return p, member(p, r.Machine), about(all, r.Machine, p), nil
}

const (
	// stopTime bounds a target's Stop, which gives the guest its own time to power off.
	stopTime = 45 * time.Second
	// quickStop is all a guest gets when the server stops: its disks go anyway.
	quickStop = 10 * time.Second
	// remoteTime bounds the removal of a machine somewhere else.
	remoteTime = 30 * time.Minute
)

// halt ends a job's machine and closes its disks. It reports whether the job was
// one that a stop interrupts. An error says that something is left where the machine was,
// and that halt is to be called again.
func (e *Engine) halt(ctx context.Context, l *live, grace time.Duration) (bool, error) {
	if l.running == nil {
		l.running = e.left(l)
	}
	if l.running != nil {
		_, remote := l.running.(target.Remote)
		if remote {
			grace = max(grace, remoteTime)
		}
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if err := l.running.Stop(stop); err != nil {
			e.cfg.Log.Warn("stop machine", "job", l.job.ID, "err", err)
			if remote {
				return false, err
			}
		}
		l.running = nil
	}
	l.disks.Close()
	l.disks = nil
	e.mu.Lock()
	defer e.mu.Unlock()
	return l.job.State.Running() || l.job.State == Alive, nil
}

// left returns the machine that an earlier process left running, nil if there is none.
func (e *Engine) left(l *live) target.Running {
	if e.cfg.Adopt == nil {
		return nil
	}
	r, err := e.cfg.Adopt(e.files.run(l.job.ID))
	if err != nil {
		if !errors.Is(err, keeper.ErrGone) {
			e.cfg.Log.Warn("look for a machine that was left", "job", l.job.ID, "err", err)
		}
		return nil
	}
	return r
}

// adopt goes on with a job whose machine outlived the process that started it.
func (e *Engine) adopt(ctx context.Context, l *live, r target.Running) {
	l.running = r
	was := l.job.State
	e.update(l, func(j *Job) { e.note(j.advance(Adopt, time.Now().UTC(), "taken over by a new process")) })
	e.cfg.Log.Info("a machine that outlived control is taken over", "job", l.job.ID, "machine", l.job.Request.Machine, "state", was)
	if was != Alive {
		if err := e.prove(ctx, l, l.job.Started); err != nil {
			if !e.leaves(l) {
				e.failed(l, err)
			}
			return
		}
	}
	e.guard(ctx, l)
}

// MaxNotes is how many bytes people may note of a job.
const MaxNotes = 4 << 10

// Note keeps what people noted of a job, in place of what they did before. It stays in the
// job's line of history.
func (e *Engine) Note(id, notes string) (Job, error) {
	if len(notes) > MaxNotes {
		return Job{}, fmt.Errorf("%w: the notes have %d bytes, at most %d", ErrRequest, len(notes), MaxNotes)
	}
	e.mu.Lock()
	l := e.jobs[id]
	e.mu.Unlock()
	if l == nil {
		if _, err := e.find(id); err != nil {
			return Job{}, err
		}
		return Job{}, fmt.Errorf("%w: job %s is cleaned: note what is to be noted before, or with it", ErrRefused, id)
	}
	e.update(l, func(j *Job) {
		j.Notes, j.Updated = notes, time.Now().UTC()
		j.Revision++
	})
	return e.Job(id)
}

// Cleanup ends a job's machine, removes every trace of the run and leaves one line
// of history. Cleaning a cleaned job is no error.
func (e *Engine) Cleanup(ctx context.Context, id string) (Job, error) {
	e.mu.Lock()
	l := e.jobs[id]
	if l == nil {
		defer e.mu.Unlock()
		return e.find(id)
	}
	e.mu.Unlock()
	if l.cancel != nil {
		l.cancel() // a job that is still running is ended
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return Job{}, fmt.Errorf("end job %s: %w", id, ctx.Err())
	}
	l.cleanMu.Lock()
	defer l.cleanMu.Unlock()
	if j, err := e.Job(id); err != nil || j.State == Cleaned {
		return j, err
	}
	e.update(l, func(j *Job) { e.note(j.advance(Cleanup, time.Now().UTC(), "")) })
	if _, err := e.halt(ctx, l, stopTime); err != nil {
		e.update(l, func(j *Job) {
			e.note(j.advance(CleanFail, time.Now().UTC(), err.Error()))
			j.Error = err.Error()
		})
		j, _ := e.Job(id) // it was there just now
		return j, err
	}
	return e.forget(l)
}

func (e *Engine) forget(l *live) (Job, error) {
	e.mu.Lock()
	done := l.job.History()
	e.mu.Unlock()
	if err := done.advance(Done, time.Now().UTC(), ""); err != nil {
		return done, err
	}
	if err := e.files.clean(done); err != nil {
		e.update(l, func(j *Job) {
			e.note(j.advance(CleanFail, time.Now().UTC(), err.Error()))
			j.Error = err.Error()
		})
		return done, err
	}
	e.mu.Lock()
	delete(e.jobs, done.ID)
	e.past = append(e.past, done)
	if len(e.past) > maxHistory {
		e.past = e.past[len(e.past)-maxHistory:]
	}
	l.job = done
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
	if e.cfg.Changed != nil {
		e.cfg.Changed(done)
	}
	return done.clone(), nil
}

// refused marks an error as one of what was asked, not of doing it.
type refused struct{ error }

// Is makes it an ErrRefused.
func (r refused) Is(target error) bool { return target == ErrRefused }

// Unwrap returns the target's own error.
func (r refused) Unwrap() error { return r.error }
