package failover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/control/target/keeper"
)

// offFile, in a run's directory, says that the machine was ended on its way home: it must
// not be started again but by DoAgain.
const offFile = "off"

// revivals is how often a machine is started again in the life of an engine. One that
// needs more is broken.
const revivals = 3

// revivable says whether a machine whose keeper has died is to be started again from what
// it had put on its disks: it was failed over, nobody has ended it, and it had come up.
func (e *Engine) revivable(j *Job) bool {
	if j.Kind != RealFailover || j.Point == "" || j.Request.Target != QEMU || j.State != Alive && j.State != Probing {
		return false
	}
	run := e.files.run(j.ID)
	_, off := os.Stat(filepath.Join(run, offFile))
	_, there := os.Stat(run)
	return errors.Is(off, os.ErrNotExist) && there == nil
}

// guard looks after a machine in a keeper until ctx ends. When the keeper dies, by accident
// or with its host, a machine that was failed over is started again; a test is over. Also one
// that was adopted may have been about to die: a process that was killed holds its lock until
// it is gone.
func (e *Engine) guard(ctx context.Context, l *live) {
	for range revivals {
		if _, kept := l.running.(*keeper.Machine); !kept {
			return
		}
		if l.job.Kind != RealFailover {
			if err := l.running.Wait(ctx); ctx.Err() == nil && errors.Is(err, keeper.ErrGone) {
				e.died(l)
			}
			return
		}
		hush := e.watchHydration(ctx, l)
		err := l.running.Wait(ctx)
		hush()
		if ctx.Err() != nil || !errors.Is(err, keeper.ErrGone) || !e.revivable(&l.job) {
			return
		}
		if !e.revive(ctx, l, keeperDied) {
			return
		}
	}
}

// died takes note that a machine is gone with its keeper, and nobody starts it again.
func (e *Engine) died(l *live) {
	const why = "its keeper died, and the machine with it"
	e.cfg.Log.Warn("a machine is gone", "job", l.job.ID, "machine", l.job.Request.Machine, "why", why)
	l.disks.Close()
	l.disks, l.running = nil, nil
	e.update(l, func(j *Job) {
		if err := j.advance(Restart, time.Now().UTC(), why); err == nil {
			j.Error = cmp.Or(j.Error, why)
		}
	})
}

const keeperDied = "its keeper died: it is started again from what it had put on its disks"

// revive starts a job's machine again in its directory, and says whether it lives.
func (e *Engine) revive(ctx context.Context, l *live, why string) bool {
	e.cfg.Log.Warn("a machine is started again", "job", l.job.ID, "machine", l.job.Request.Machine, "why", why)
	l.disks.Close()
	l.disks, l.running = nil, nil
	e.update(l, func(j *Job) {
		e.note(j.advance(Revive, time.Now().UTC(), why))
		j.Ended, j.Error, j.Code = time.Time{}, "", ""
	})
	err := e.again(ctx, l)
	if err != nil && (e.leaves(l) || why != keeperDied && e.base.Err() != nil) {
		return false // this process ends; the next one sees to it
	}
	if err != nil {
		e.failed(l, fmt.Errorf("start the machine again: %w", err))
	}
	if e.cfg.Revived != nil && why == keeperDied {
		e.mu.Lock()
		j := l.job.clone()
		e.mu.Unlock()
		e.cfg.Revived(j, err)
	}
	return err == nil
}

func (e *Engine) again(ctx context.Context, l *live) error {
	begin := time.Now()
	r := l.job.Request
	r.Point = l.job.Point
	p, m, _, err := e.choose(ctx, r)
	if err != nil {
		return err
	}
	t, err := e.cfg.Target(r, func(what string, done, total int64) { e.progress(l, what, done, total) })
	if err != nil {
		return err
	}
	if l.disks, err = open(ctx, e.cfg.Vault, m); err != nil {
		return err
	}
	l.running, err = t.Start(ctx, machine(p, m, l.disks, r.Options), e.files.run(l.job.ID))
	if err != nil {
		return err
	}
	e.update(l, func(j *Job) { e.note(j.advance(Done, time.Now().UTC(), "")) })
	return e.prove(ctx, l, begin)
}
