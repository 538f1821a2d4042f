package control

import (
	"log/slog"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/streams/bus"
)

// Module provides the control role and its API. It needs a Config, a *bus.Bus
// with the streams made, a *vault.Vault and a *slog.Logger.
var Module = fx.Module("control",
	fx.Provide(
		fx.Annotate(New, fx.OnStart((*Service).Start), fx.OnStop((*Service).Stop)),
		fx.Annotate(serve, fx.OnStop((*api.Server).Stop)),
	),
	fx.Invoke(func(*api.Server) {}),
)

func serve(cfg Config, b *bus.Bus, s *Service, log *slog.Logger) (*api.Server, error) {
	return api.Serve(b.Conn, s, cfg.Version, log)
}
