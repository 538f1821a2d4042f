package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.uber.org/fx"
	"go.uber.org/fx/fxevent"

	"github.com/leeward-dr/leeward/consumers"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

const (
	startTime = 2 * time.Minute // JetStream may have much to recover
	stopTime  = time.Minute
)

// options wires the appliance. What must run before others can be made (server,
// connection, vault) is started by its constructor; opened undoes that if a later
// constructor fails.
func options(c Config, version string, log *slog.Logger, o *opened) fx.Option {
	return fx.Options(
		fx.StartTimeout(startTime), fx.StopTimeout(stopTime),
		fx.WithLogger(func() fxevent.Logger {
			l := &fxevent.SlogLogger{Logger: log}
			l.UseLogLevel(slog.LevelDebug)
			l.UseErrorLevel(slog.LevelDebug) // the operator gets the cause alone, on the last line
			return l
		}),
		fx.Supply(c, log, o, &auditor{log: log}, consumers.Default(), controlConfig(c, version)),
		fx.Provide(newServer, newBus, newVault, newConsole),
		fx.Module("process", fx.Decorate(processBus), consumers.Module),
		control.Module,
		fx.Invoke(func(*console.Server) {}),
	)
}

func controlConfig(c Config, version string) control.Config {
	cc := control.Default()
	cc.Dir, cc.Version, cc.Health.RPO = c.Dir, version, c.RPO
	cc.Keeper = failover.Keeper{Command: c.Keeper, Vault: c.Vault, KeyFile: c.KeyFile, Bus: embed.ContextFile(c.Dir, embed.Control)}
	if c.tune != nil {
		c.tune(&cc)
	}
	return cc
}

// opened holds what constructors have started, in their order.
type opened struct{ close []func(context.Context) error }

func (o *opened) add(lc fx.Lifecycle, stop func(context.Context) error) {
	o.close = append(o.close, stop)
	lc.Append(fx.StopHook(stop))
}

// undo stops what was started when the application could not be made.
func (o *opened) undo() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	var err error
	for _, stop := range slices.Backward(o.close) {
		err = errors.Join(err, stop(ctx))
	}
	return err
}

func newServer(lc fx.Lifecycle, c Config, a *auditor, log *slog.Logger, o *opened) (*embed.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	e := c.server()
	e.Log, e.Refused = log, a.tell
	s, err := embed.Start(ctx, e)
	if err != nil {
		return nil, err
	}
	o.add(lc, s.Stop)
	return s, nil
}

func newBus(lc fx.Lifecycle, c Config, s *embed.Server, log *slog.Logger, o *opened) (*bus.Bus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	b, err := s.Connect(ctx, embed.Control)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded server: %w", err)
	}
	o.add(lc, func(context.Context) error { b.Close(); return nil })
	sc := s.Streams()
	if c.ChangesBytes != 0 {
		sc.ChangesBytes = c.ChangesBytes
	}
	if err := streams.Ensure(ctx, b.JS, sc); err != nil {
		return nil, err
	}
	return b, takeTurn(ctx, lc, b, log, o)
}

// processBus is the process server's own connection: it may do less than control.
func processBus(lc fx.Lifecycle, s *embed.Server, _ *bus.Bus, o *opened) (*bus.Bus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	b, err := s.Connect(ctx, embed.Process)
	if err != nil {
		return nil, fmt.Errorf("connect the process server to the embedded server: %w", err)
	}
	o.add(lc, func(context.Context) error { b.Close(); return nil })
	return b, nil
}

// newVault depends on nothing of the bus, but comes after it: a vault is made only
// when the rest can run.
func newVault(c Config, _ *bus.Bus) (*vault.Vault, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	return openVault(ctx, c)
}
