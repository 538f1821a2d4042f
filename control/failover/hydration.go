package failover

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/hydrate"
	"github.com/leeward-dr/leeward/control/target/keeper"
)

// hydration says how much of a machine's disks is where it runs; nil if they are not copied.
func hydration(r target.Running) *hydrate.Status {
	h, ok := r.(interface {
		Hydration() (hydrate.Status, bool)
	})
	if !ok {
		return nil
	}
	s, ok := h.Hydration()
	if !ok {
		return nil
	}
	return &s
}

// lookAgain is how often a keeper is asked how far the copies are.
const lookAgain = 2 * time.Second

// watchHydration keeps the job of a machine in a keeper up to date about its copies, until
// they are whole or stop is called.
func (e *Engine) watchHydration(ctx context.Context, l *live) (stop func()) {
	m, ok := l.running.(*keeper.Machine)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(lookAgain)
		defer t.Stop()
		for {
			p := new(Protected)
			err := m.Do(ctx, DoTell, nil, p)
			if ctx.Err() != nil || err == nil && p.Hydration == nil {
				return
			}
			if err == nil && e.hydrated(l, *p.Hydration) {
				return
			}
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// hydrated takes in how far the copies are. Only the end of it is saved: until then it is for
// whoever watches.
func (e *Engine) hydrated(l *live, s hydrate.Status) (whole bool) {
	e.mu.Lock()
	was := l.job.Hydration
	e.mu.Unlock()
	if s.Whole {
		if was == nil || !was.Whole {
			e.update(l, func(j *Job) {
				j.Hydration = &s
				j.Revision++
				j.Stages = append(j.Stages, Stage{State: j.State, At: time.Now().UTC(), Detail: fmt.Sprintf("its disks are here, %d bytes, verified: the vault is not read any more", s.Done)})
			})
		}
		return true
	}
	if was != nil && *was == s {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	l.job.Hydration = &s
	l.job.Revision++
	close(e.changed)
	e.changed = make(chan struct{})
	return false
}
