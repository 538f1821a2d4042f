package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/agent/hooks"
	"github.com/leeward-dr/leeward/streams/wire"
)

// AppConfig says what is told to applications and how often.
type AppConfig struct {
	Hooks       []hooks.Hook
	Interval    time.Duration // between application-consistent points
	PreTimeout  time.Duration // of each hook before the cut
	PostTimeout time.Duration // of each hook after it
	Hold        time.Duration // longest time that applications are held ready
	// KeeperCommand runs the hooks; default: this executable with "hook-keeper".
	KeeperCommand []string
}

func defaultApps() AppConfig {
	return AppConfig{Interval: time.Hour, PreTimeout: hooks.DefaultPreTimeout, PostTimeout: hooks.DefaultPostTimeout, Hold: hooks.DefaultHold}
}

func (c AppConfig) validate() error {
	switch {
	case len(c.Hooks) == 0:
		return nil
	case c.Interval < time.Second:
		return fmt.Errorf("app-interval is %v: use at least 1s", c.Interval)
	case c.PreTimeout < time.Second || c.PreTimeout > 10*time.Minute:
		return fmt.Errorf("hook-pre-timeout is %v: use 1s to 10m", c.PreTimeout)
	case c.PostTimeout < time.Second || c.PostTimeout > 10*time.Minute:
		return fmt.Errorf("hook-post-timeout is %v: use 1s to 10m", c.PostTimeout)
	case c.Hold < time.Second || c.Hold > 2*time.Minute:
		return fmt.Errorf("hook-hold is %v: use 1s to 2m", c.Hold)
	}
	return nil
}

// apps keeps track of application-consistent points.
type apps struct {
	next   time.Time // when the next one is due
	failed int       // in a row
	cuts   int       // failed though the applications were ready
}

// due says whether the point to be made now should be application-consistent.
func (a *Agent) due() bool {
	return len(a.cfg.Apps.Hooks) > 0 && a.appInterval() > 0 && !time.Now().Before(a.apps.next)
}

// cutReady is cut with the applications made ready around it, if that is due. It says
// what the cut is. What goes wrong with the applications costs the point its name,
// not its existence.
func (a *Agent) cutReady(ctx context.Context, cut func(context.Context) (*cutResult, error)) (*cutResult, wire.Consistency, error) {
	if !a.due() {
		c, err := cut(ctx)
		return c, wire.Crash, err
	}
	c := a.cfg.Apps
	began := time.Now()
	s, err := a.beginApps(ctx)
	if err != nil {
		a.notReady(ctx, err)
		r, err := cut(ctx)
		return r, wire.Crash, err
	}
	ready := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, c.Hold, errHeld)
	r, err := cut(limited)
	slow := context.Cause(limited)
	cancel()
	end := s.End()
	if end != nil {
		a.notReady(ctx, end)
	}
	if err != nil {
		// Holding applications again and again for cuts that fail would hurt them: the
		// next tries are without.
		if a.apps.cuts++; errors.Is(slow, errHeld) {
			a.notReady(ctx, errHeld)
		} else if a.apps.cuts >= attempts {
			a.notReady(ctx, err)
		}
		return r, wire.Crash, err
	}
	if end != nil {
		return r, wire.Crash, nil // in doubt it is promised as less
	}
	a.apps = apps{next: began.Add(a.appInterval())}
	a.log.Info("applications were ready for the cut", "hooks", names(c.Hooks), "before", ready.Sub(began).Seconds(), "held", time.Since(ready).Seconds())
	return r, wire.App, nil
}

// beginApps makes the applications ready for a cut.
func (a *Agent) beginApps(ctx context.Context) (*hooks.Session, error) {
	c := a.cfg.Apps
	return hooks.Begin(ctx, hooks.Options{
		Hooks: c.Hooks, Machine: a.cfg.Machine, Dir: a.cfg.StateDir, PreTimeout: c.PreTimeout,
		PostTimeout: c.PostTimeout, Hold: c.Hold, KeeperCommand: c.KeeperCommand,
	})
}

// errHeld means that the cut took longer than applications may be held.
var errHeld = errors.New("the cut took longer than applications may be held (--hook-hold)")

// notReady says that a point is not application-consistent, and when to try again.
func (a *Agent) notReady(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	a.apps.failed, a.apps.cuts = a.apps.failed+1, 0
	a.apps.next = time.Now().Add(min(max(a.appInterval(), time.Second), time.Minute*time.Duration(1<<min(a.apps.failed-1, 6))))
	sev := wire.Warning
	if errors.Is(err, hooks.ErrPost) || a.apps.failed >= 5 {
		sev = wire.Critical
	}
	a.log.Warn("no application-consistent point", "error", err, "in_a_row", a.apps.failed)
	a.event("app-hook", sev, "", fmt.Sprintf("no application-consistent point (%d in a row): %v", a.apps.failed, err),
		"run `leeward-agent hooks test` with the same --hook options on the machine; crash-consistent points go on")
}

func names(hs []hooks.Hook) string {
	var n []string
	for _, h := range hs {
		n = append(n, h.Name)
	}
	return strings.Join(n, ",")
}
