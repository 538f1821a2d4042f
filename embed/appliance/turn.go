package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// turnWait bounds a word with the bucket of roles.
const turnWait = 10 * time.Second

// takeTurn makes this appliance's control the active one and keeps it that, until
// the application stops. Other controls on the appliance's bus (leeward control) work
// while it is down, and make room when it is up: whoever has the streams decides.
func takeTurn(ctx context.Context, lc fx.Lifecycle, b *bus.Bus, log *slog.Logger, o *opened) error {
	h := bus.ThisProcess(strings.ToLower(rand.Text()))
	l, err := bus.AcquireRole(ctx, b.JS, control.Role, h, bus.LeaseOptions{Log: log})
	if held, ok := errors.AsType[*bus.HeldError](err); ok {
		log.Warn("another control was active, this one takes over", "host", held.Holder.Host, "pid", held.Holder.PID)
		if l, err = bus.AcquireRole(ctx, b.JS, control.Role, h, bus.LeaseOptions{TakeOver: true, Log: log}); err == nil {
			// It notices when it renews what it has lost, and needs a moment to stop.
			err = pauseFor(ctx, streams.LeaseTTL/3+time.Second)
		}
	}
	if err != nil {
		return fmt.Errorf("become the active control: %w", err)
	}
	keep, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keepTurn(keep, b, l, h, log)
	}()
	o.add(lc, func(context.Context) error {
		stop()
		<-done
		return nil
	})
	return nil
}

// keepTurn takes the role again when it is lost: when the bus did not answer for too
// long, or somebody took it meanwhile.
func keepTurn(ctx context.Context, b *bus.Bus, l *bus.Lease, h bus.Holder, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			rctx, cancel := context.WithTimeout(context.Background(), turnWait)
			defer cancel()
			if err := l.Release(rctx); err != nil {
				log.Debug("the role of control was not given back", "err", err)
			}
			return
		case <-l.Lost():
		}
		for ctx.Err() == nil {
			actx, cancel := context.WithTimeout(ctx, turnWait)
			again, err := bus.AcquireRole(actx, b.JS, control.Role, h, bus.LeaseOptions{TakeOver: true, Log: log})
			cancel()
			if err == nil {
				l = again
				break
			}
			log.Warn("cannot become the active control again, trying on", "err", err)
			_ = pauseFor(ctx, time.Second) // ctx is looked at next
		}
		if ctx.Err() != nil {
			return
		}
	}
}

func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
