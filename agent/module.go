package agent

import (
	"context"
	"log/slog"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/streams/bus"
)

// Module wires the agent role: bus, agent, and one run that ends with the
// application. It needs a Config and a *slog.Logger.
var Module = fx.Module("agent",
	fx.Provide(newBus, newAgent),
	fx.Invoke(run),
)

func newBus(lc fx.Lifecycle, cfg Config, log *slog.Logger) (*bus.Bus, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	o := cfg.Bus
	o.Name, o.Log = "leeward-agent "+cfg.Machine, log
	b, err := bus.Connect(context.Background(), o)
	if err != nil {
		return nil, err
	}
	lc.Append(fx.StopHook(b.Close))
	return b, nil
}

func newAgent(lc fx.Lifecycle, cfg Config, b *bus.Bus, log *slog.Logger) (*Agent, error) {
	a, err := New(context.Background(), cfg, b, log)
	if err != nil {
		return nil, err
	}
	lc.Append(fx.StopHook(a.Close))
	return a, nil
}

// run starts the agent's only goroutine and stops the application when it ends by
// itself.
func run(lc fx.Lifecycle, a *Agent, sd fx.Shutdowner, log *slog.Logger) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	lc.Append(fx.StartStopHook(func() {
		go func() {
			defer close(done)
			if err := a.Run(ctx); err != nil {
				log.Error("agent stops", "error", err)
				_ = sd.Shutdown(fx.ExitCode(1))
			}
		}()
	}, func() {
		cancel()
		<-done
	}))
}
