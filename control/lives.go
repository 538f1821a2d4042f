package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/book"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// worker does the work of a phase. It may be repeated after a crash of control. What it
// returns is filled into the event that reports it.
type worker func(ctx context.Context, l *life.Life) (life.Event, error)

// lives carries out the life cycles of machines. A step is written to the book before
// the work that it wants is begun, so whoever comes after a crash finds what to do.
type lives struct {
	s     *Service
	works map[life.Phase]worker

	mu      sync.Mutex
	all     map[string]*alive
	changed chan struct{} // closed and replaced at every step, and when an agent falls quiet
	stopped bool
	fences  map[string]*streams.Fence // as they stand in the bucket
	quiet   map[string]*markers.Quiet // what fenced agents said last
	// meetings are those of joint failovers, by their id.
	meetings map[string]*meeting
	// dies is for tests: control is killed here.
	dies func(where string, l *life.Life) bool
	wg   sync.WaitGroup
}

// alive is one machine's life in this process.
type alive struct {
	mu     sync.Mutex // held over a step: decide, keep, begin
	life   atomic.Pointer[life.Life]
	cancel context.CancelFunc // of the work on its way
	done   chan struct{}      // closed when that work has ended
}

func newLives(s *Service) *lives {
	v := &lives{s: s, all: map[string]*alive{}, changed: make(chan struct{}), fences: map[string]*streams.Fence{}, quiet: map[string]*markers.Quiet{}, meetings: map[string]*meeting{}}
	v.works = v.workers()
	return v
}

// load reads the lives that earlier processes have left. It begins nothing yet.
func (v *lives) load(ctx context.Context) error {
	all, err := book.List[life.Life](ctx, v.s.book, book.Life)
	if err != nil {
		return err
	}
	for _, e := range all {
		l := e.Value
		if l.Machine != e.Name || !l.Phase.Known() {
			return fmt.Errorf("the life of machine %s is damaged: it is of machine %q, in phase %q", e.Name, l.Machine, l.Phase)
		}
		v.of(l.Machine).life.Store(&l)
	}
	return v.loadFences(ctx)
}

// resume goes on with the work that earlier processes have left.
func (v *lives) resume() {
	for _, l := range v.list() {
		if !l.Phase.Working() {
			continue
		}
		v.s.log.Info("life cycle goes on", "machine", l.Machine, "phase", string(l.Phase))
		if _, err := v.step(l.Machine, life.Event{Kind: life.Begin}); err != nil {
			v.s.log.Error("life cycle cannot go on", "machine", l.Machine, "phase", string(l.Phase), "err", err)
		}
	}
}

// of returns the entry of a machine, made if need be.
func (v *lives) of(machine string) *alive {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.all[machine]
	if a == nil {
		a = &alive{}
		a.life.Store(life.New(machine))
		v.all[machine] = a
	}
	return a
}

// get returns where a machine stands. It is not to be changed.
func (v *lives) get(machine string) *life.Life {
	v.mu.Lock()
	a := v.all[machine]
	v.mu.Unlock()
	if a == nil {
		return life.New(machine)
	}
	return a.life.Load()
}

// list returns the lives of machines to which anything was ever done, by name.
func (v *lives) list() (all []*life.Life) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(v.all)) {
		if l := v.all[name].life.Load(); l.Attempt > 0 {
			all = append(all, l)
		}
	}
	return all
}

// step takes a machine through an event: decide, keep, then do.
func (v *lives) step(machine string, e life.Event) (*life.Life, error) {
	a := v.of(machine)
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.life.Load()
	next := was.Clone()
	e.At = time.Now().UTC()
	work, err := next.Step(e)
	if err != nil {
		return nil, api.Errorf(api.CodeRefused, "leeward failover show "+machine, "%w", err)
	}
	if next.Attempt == was.Attempt {
		return was, nil // a report that no longer counts
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(v.s.base), publishTime)
	defer cancel()
	if _, err := v.s.book.Put(ctx, book.Life, machine, next, cmp.Or(e.By, next.By), book.Any); err != nil {
		return nil, fmt.Errorf("keep that machine %s is %s: %w", machine, next.Phase, err) // what is not kept is not begun
	}
	if v.dies != nil && v.dies("kept", next) {
		return nil, errors.New("control was killed")
	}
	a.life.Store(next)
	if a.cancel != nil {
		a.cancel()
	}
	if work {
		v.begin(a, next)
	}
	if next.Phase != was.Phase || e.Kind == life.Fail {
		v.tell(next, e)
	}
	if next.Phase != was.Phase {
		v.s.guides.wake() // it may have left its group's points, or be back
	}
	v.mu.Lock()
	v.news()
	v.mu.Unlock()
	return next, nil
}

// news wakes whoever waits. The caller holds v.mu.
func (v *lives) news() {
	close(v.changed)
	v.changed = make(chan struct{})
}

// patienceLife is how long work that failed waits to be done again, at most.
const patienceLife = time.Minute

// begin does the work of a phase in the background, when what was on its way before has
// ended. The caller holds a.mu.
func (v *lives) begin(a *alive, l *life.Life) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stopped {
		return
	}
	ctx, cancel := context.WithCancel(v.s.base)
	before, done := a.done, make(chan struct{})
	a.cancel, a.done = cancel, done
	v.wg.Go(func() {
		defer close(done)
		defer cancel()
		if before != nil {
			<-before
		}
		if l.Failures > 0 && !pauseFor(ctx, min(time.Second<<min(l.Failures-1, 10), patienceLife)) {
			return
		}
		e, err := v.do(ctx, l)
		if ctx.Err() != nil || v.dies != nil && v.dies("done", l) {
			return // it was cancelled, or control stops: whoever comes next does it again
		}
		e.Kind, e.Attempt = life.Done, l.Attempt
		if err != nil {
			e.Kind, e.Text = life.Fail, err.Error()
		}
		for wait := time.Second; ; wait = min(2*wait, patienceLife) {
			_, err := v.step(l.Machine, e)
			if _, refused := errors.AsType[*api.Error](err); err == nil || refused {
				return
			}
			v.s.log.Error("cannot keep what became of a life cycle's work; trying again", "machine", l.Machine, "phase", string(l.Phase), "err", err)
			if !pauseFor(ctx, wait) {
				return
			}
		}
	})
}

func (v *lives) do(ctx context.Context, l *life.Life) (life.Event, error) {
	work := v.works[l.Phase]
	if work == nil {
		return life.Event{}, fmt.Errorf("this version cannot do %s", l.Phase)
	}
	return work(ctx, l)
}

// stop ends all work, without a word about it: the next process does it again.
func (v *lives) stop() {
	v.mu.Lock()
	v.stopped = true
	all := slices.Collect(maps.Values(v.all))
	v.mu.Unlock()
	for _, a := range all {
		a.mu.Lock()
		if a.cancel != nil {
			a.cancel()
		}
		a.mu.Unlock()
	}
	v.wg.Wait()
}

func pauseFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// kindLife is the kind of the events that tell of life cycles.
const kindLife = "failover"

// tell tells of a step.
func (v *lives) tell(l *life.Life, e life.Event) {
	v.s.log.Info("life cycle", "machine", l.Machine, "phase", string(l.Phase), "error", l.Error)
	out := &wire.Event{
		Time: e.At.UnixNano(), Machine: l.Machine, Kind: kindLife, Severity: wire.Info,
		What: fmt.Sprintf("machine %s is %s", l.Machine, l.Phase),
	}
	switch {
	case e.Kind == life.Fail:
		out.Severity, out.Try = wire.Warning, "leeward failover show "+l.Machine
		out.What = fmt.Sprintf("machine %s is %s: %s", l.Machine, l.Phase, e.Text)
	case e.By != "":
		out.What += ": " + e.By + " asked for " + string(e.Kind)
	}
	out.What = clip(out.What)
	v.s.publishTraced(v.s.base, fmt.Sprintf("life-%s-%d", l.Machine, l.Attempt), streams.Traceparent("life", l.Machine, string(l.Phase)), out)
}

// watch returns a machine's life as soon as its attempt is greater than after.
func (v *lives) watch(ctx context.Context, machine string, after uint64) (*life.Life, error) {
	for {
		v.mu.Lock()
		changed := v.changed
		v.mu.Unlock()
		l := v.get(machine)
		if l.Attempt > after {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return l, ctx.Err()
		case <-changed:
		}
	}
}
