package failover

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/keeper"
)

// Errors of the engine, for errors.Is.
var (
	ErrNoJob   = errors.New("no such job")
	ErrRefused = errors.New("refused")
	ErrTarget  = errors.New("unknown target")
	ErrRequest = errors.New("request refused")
)

// Config is what an engine needs.
type Config struct {
	Dir   string // where jobs are kept; made if absent
	Vault *vault.Vault
	// Points lists the recovery points; nil reads them from the vault.
	Points func(ctx context.Context) ([]*vault.Point, error)
	// Settle returns when everything of a machine that had arrived when it was called
	// is processed; nil if there is nothing to wait for.
	Settle func(ctx context.Context, machine string) error
	// Target makes the target of a request. It wraps ErrTarget if it knows none of
	// that name.
	Target func(r Request, p target.Progress) (target.Target, error)
	// Adopt takes over the machine whose target had dir as the run's directory, if it
	// outlived the process that started it; it wraps keeper.ErrGone if not. nil:
	// machines end with their process.
	Adopt func(dir string) (target.Running, error)
	// Changed is called after every change of a job's state; may be nil.
	Changed func(Job)
	// Revived is called when a machine that was failed over has ended with its keeper and was
	// started again, or could not be; may be nil.
	Revived func(j Job, err error)
	Log     *slog.Logger
}

// Engine carries out jobs. Its methods may be called from many goroutines.
type Engine struct {
	cfg   Config
	files files

	base   context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	jobs    map[string]*live
	past    []Job         // cleaned, oldest first
	changed chan struct{} // closed and replaced at every change
	stopped bool
}

// live is a job that is not cleaned.
type live struct {
	job     Job
	cancel  context.CancelFunc
	done    chan struct{} // closed when the goroutine that runs it has ended
	running target.Running
	disks   disks
	cleanMu sync.Mutex // one cleanup at a time
}

// New loads the jobs below cfg.Dir. Those that ran when the process before ended go on
// if their machine outlived it; the others are interrupted.
func New(cfg Config) (*Engine, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Points == nil {
		cfg.Points = func(ctx context.Context) ([]*vault.Point, error) {
			all, _, err := cfg.Vault.Points(ctx, "")
			return all, err
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of jobs: %w", err)
	}
	e := &Engine{cfg: cfg, files: files{cfg.Dir}, jobs: map[string]*live{}, changed: make(chan struct{})}
	e.base, e.cancel = context.WithCancel(context.Background())
	left, _ := filepath.Glob(filepath.Join(cfg.Dir, rehearsals+"*")) // of a process that was killed
	for _, d := range left {
		if err := os.RemoveAll(d); err != nil {
			return nil, fmt.Errorf("remove what a rehearsal left: %w", err)
		}
	}
	jobs, past, damaged, err := e.files.load()
	if err != nil {
		return nil, err
	}
	e.past = past
	for _, id := range damaged {
		jobs = append(jobs, Job{ID: id, Kind: kindOf(id), State: Validating, Error: "its " + jobFile + " is missing or damaged"})
	}
	for i := range jobs {
		j := &jobs[i]
		was := j.State
		if _, err := Step(was, Adopt); err == nil {
			l := &live{job: *j, done: make(chan struct{})}
			r := e.left(l)
			if far, ok := r.(target.Remote); ok && far.Unfinished() {
				e.goOn(l, func(ctx context.Context) { e.revive(ctx, l, "a new process goes on with it") })
				continue
			}
			if r != nil {
				e.goOn(l, func(ctx context.Context) { e.adopt(ctx, l, r) })
				continue
			}
		}
		if cfg.Adopt != nil && e.revivable(j) {
			l := &live{job: *j, done: make(chan struct{})}
			e.goOn(l, func(ctx context.Context) {
				if e.revive(ctx, l, keeperDied) {
					e.guard(ctx, l)
				}
			})
			continue
		}
		if err := j.advance(Restart, time.Now().UTC(), "the process that ran it ended"); err != nil {
			return nil, err
		}
		if j.State == Interrupted && was != Interrupted {
			j.Error = cmp.Or(j.Error, fmt.Sprintf("the process ended while the job was %s", was))
			j.Directory = e.files.job(j.ID)
			if err := e.files.save(j); err != nil {
				return nil, err
			}
			cfg.Log.Warn("job was interrupted", "job", j.ID, "machine", j.Request.Machine, "state", was)
		}
		e.jobs[j.ID] = &live{job: *j, done: closed()}
	}
	return e, nil
}

// goOn lets a job of an earlier process go on in the background.
func (e *Engine) goOn(l *live, how func(context.Context)) {
	ctx, cancel := context.WithCancel(e.base)
	l.cancel = cancel
	e.jobs[l.job.ID] = l
	e.wg.Go(func() {
		defer close(l.done)
		how(ctx)
	})
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

const realPrefix = "fo-"

func newID(kind string) string {
	var b [4]byte
	rand.Read(b[:])
	prefix := map[string]string{TestFailover: "tf-", RealFailover: realPrefix}[kind]
	return prefix + hex.EncodeToString(b[:]) // short: sockets below the job's directory have short paths
}

// kindOf tells the kind of a job whose record is damaged.
func kindOf(id string) string {
	if strings.HasPrefix(id, realPrefix) {
		return RealFailover
	}
	return TestFailover
}

// Test starts a test failover and returns its job at once. A request with an id
// that was seen before returns the job of that request.
func (e *Engine) Test(r Request) (Job, error) {
	if n := r.Options.Network; n != "" && n != Isolated {
		return Job{}, fmt.Errorf("%w: a test is isolated: a copy of a machine that runs must not reach the network", ErrRequest)
	}
	if r.Target == Cloud && r.Options.Port != 0 {
		return Job{}, fmt.Errorf("%w: nothing reaches port %d of a machine that is tested in isolation in Azure: prove its life by a serial line", ErrRequest, r.Options.Port)
	}
	return e.start(TestFailover, r)
}

// Failover starts a job that brings a machine up instead of the one it is a copy of,
// and returns it at once. That nobody else is that machine any more is the caller's to
// see to. The machine is kept when the engine stops, if keepers keep machines.
func (e *Engine) Failover(r Request) (Job, error) {
	r.Options.Network = cmp.Or(r.Options.Network, Open)
	r.Options.Hydrate = cmp.Or(r.Options.Hydrate, HydrateOn)
	return e.start(RealFailover, r)
}

func (e *Engine) start(kind string, r Request) (Job, error) {
	if err := r.Validate(); err != nil {
		return Job{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	l := &live{done: make(chan struct{})}
	t, err := e.cfg.Target(r, func(what string, done, total int64) { e.progress(l, what, done, total) })
	if err != nil {
		return Job{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if j, ok := e.byRequest(r.ID); ok {
		return j, nil
	}
	if e.stopped {
		return Job{}, fmt.Errorf("%w: the server is stopping", ErrRefused)
	}
	now := time.Now().UTC()
	l.job = Job{ID: newID(kind), Kind: kind, Request: r, State: Validating, Started: now, Updated: now, Revision: 1,
		Stages: []Stage{{State: Validating, At: now}}}
	l.job.Directory = e.files.job(l.job.ID)
	if err := e.files.save(&l.job); err != nil {
		return Job{}, err
	}
	ctx, cancel := context.WithCancel(e.base)
	l.cancel = cancel
	e.jobs[l.job.ID] = l
	e.wg.Add(1)
	go func() {
		defer e.wg.Done()
		defer close(l.done)
		e.run(ctx, l, t)
	}()
	return l.job.clone(), nil
}

func (e *Engine) byRequest(id string) (Job, bool) {
	if id == "" {
		return Job{}, false
	}
	for _, l := range e.jobs {
		if l.job.Request.ID == id {
			return l.job.clone(), true
		}
	}
	for _, j := range e.past {
		if j.Request.ID == id {
			return j.clone(), true
		}
	}
	return Job{}, false
}

// Jobs lists all jobs, the oldest first: those that wait or run, and the cleaned
// ones that the history still has.
func (e *Engine) Jobs() []Job {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Job
	for _, j := range e.past {
		all = append(all, j.clone())
	}
	for _, l := range e.jobs {
		all = append(all, l.job.clone())
	}
	slices.SortStableFunc(all, func(a, b Job) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// Job returns one job. It wraps ErrNoJob.
func (e *Engine) Job(id string) (Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.find(id)
}

func (e *Engine) find(id string) (Job, error) {
	if l := e.jobs[id]; l != nil {
		return l.job.clone(), nil
	}
	for _, j := range slices.Backward(e.past) {
		if j.ID == id {
			return j.clone(), nil
		}
	}
	return Job{}, fmt.Errorf("%w: %s", ErrNoJob, id)
}

// Watch returns the job as soon as its revision is greater than after.
func (e *Engine) Watch(ctx context.Context, id string, after uint64) (Job, error) {
	for {
		e.mu.Lock()
		j, err := e.find(id)
		changed := e.changed
		e.mu.Unlock()
		if err != nil || j.Revision > after {
			return j, err
		}
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-changed:
		}
	}
}

// update changes a job under the lock, saves it and tells whoever watches. A job
// that cannot be saved goes on: losing the record is worse than a stale one only
// for a crash that follows, and the machine that was asked for comes up.
func (e *Engine) update(l *live, change func(*Job)) {
	e.mu.Lock()
	change(&l.job)
	j := l.job.clone()
	err := e.files.save(&l.job)
	close(e.changed)
	e.changed = make(chan struct{})
	e.mu.Unlock()
	if err != nil {
		e.cfg.Log.Error("cannot save job", "job", j.ID, "err", err)
	}
	e.cfg.Log.Info("job", "job", j.ID, "machine", j.Request.Machine, "state", string(j.State))
	if e.cfg.Changed != nil {
		e.cfg.Changed(j)
	}
}

// progress is not saved: it is only for whoever watches.
func (e *Engine) progress(l *live, what string, done, total int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	l.job.Progress = &Progress{What: what, Done: done, Total: total}
	l.job.Revision++
	close(e.changed)
	e.changed = make(chan struct{})
}

// Stop ends the machines of test failovers and waits. Their jobs are interrupted. Those
// that were failed over stay with their keepers, for the next engine.
func (e *Engine) Stop(ctx context.Context) error {
	e.mu.Lock()
	e.stopped = true
	var all []*live
	for _, l := range e.jobs {
		all = append(all, l)
	}
	e.mu.Unlock()
	e.cancel()
	errs := make([]error, len(all))
	var stopping sync.WaitGroup
	for i, l := range all {
		stopping.Go(func() { errs[i] = e.stop(ctx, l) })
	}
	stopping.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	e.wg.Wait()
	return nil
}

// stop ends one job for Stop.
func (e *Engine) stop(ctx context.Context, l *live) error {
	select {
	case <-l.done:
	case <-ctx.Done():
		return fmt.Errorf("stop job %s: %w", l.job.ID, ctx.Err())
	}
	l.cleanMu.Lock()
	defer l.cleanMu.Unlock()
	if l.running == nil { // what is left of it somewhere else stays, whatever its state
		if r, ok := e.left(l).(target.Remote); ok {
			l.running = r
		}
	}
	if e.leaves(l) {
		if r, ok := l.running.(target.Remote); ok {
			r.Leave() // it reads the disks
		}
		l.disks.Close()
		l.disks = nil
		return nil
	}
	interrupted, err := e.halt(ctx, l, quickStop)
	if err != nil {
		return err
	}
	if interrupted {
		e.update(l, func(j *Job) {
			if err := j.advance(Restart, time.Now().UTC(), "the server was stopped"); err == nil {
				j.Error = cmp.Or(j.Error, "the server was stopped")
			}
		})
	}
	return nil
}

// leaves says whether a job's machine is left to its keeper, or where it is, when the
// engine stops.
func (e *Engine) leaves(l *live) bool {
	if e.base.Err() == nil {
		return false
	}
	switch l.running.(type) {
	case *keeper.Machine:
		return l.job.Kind == RealFailover
	case target.Remote:
		return true
	}
	return false
}
