package consumers

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

func TestModuleIsComplete(t *testing.T) {
	outside := fx.Provide(
		func() *bus.Bus { return nil },
		func() *vault.Vault { return nil },
		func() *slog.Logger { return nil },
		Default,
	)
	if err := fx.ValidateApp(Module, outside); err != nil {
		t.Fatal(err)
	}
	if err := fx.ValidateApp(Module); err == nil {
		t.Fatal("the module does not say what it needs")
	}
}

func TestModuleStartsAndStops(t *testing.T) {
	b := streamstest.Start(t)
	st, err := vault.OpenStore(t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	v, err := vault.Create(ctx, st, vault.KeyFromPassphrase("correct horse battery staple"))
	if err != nil {
		t.Fatal(err)
	}
	app := fx.New(Module, fx.NopLogger, fx.Supply(b, v, Default(), slog.New(slog.DiscardHandler)))
	if err := app.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if m, err := b.Conn.RequestWithContext(ctx, "leeward.process.stats", nil); err != nil || len(m.Data) == 0 {
		t.Errorf("the server does not answer: %v", err)
	}
	if err := app.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	bad := Default()
	bad.Workers = 0
	if err := fx.New(Module, fx.NopLogger, fx.Supply(b, v, bad, slog.New(slog.DiscardHandler))).Err(); err == nil {
		t.Error("a server with no workers was built")
	}
}
