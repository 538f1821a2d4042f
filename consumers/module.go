package consumers

import (
	"log/slog"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers/process"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Module runs a process server that owns all partitions. It needs a *bus.Bus whose
// streams exist, an open *vault.Vault, a Config and a *slog.Logger. Stopping the
// application commits and acknowledges what the server has taken.
var Module = fx.Module("consumers",
	fx.Provide(newServer),
	fx.Invoke(func(*process.Server) {}),
)

func newServer(lc fx.Lifecycle, b *bus.Bus, v *vault.Vault, c Config, log *slog.Logger) (*process.Server, error) {
	// A process server creates and reads; to prune is another's right.
	v, err := v.AppendOnly()
	if err != nil {
		return nil, err
	}
	s, err := process.New(b, v, c, process.Options{Log: log})
	if err != nil {
		return nil, err
	}
	lc.Append(fx.Hook{OnStart: s.Start, OnStop: s.Stop})
	return s, nil
}
