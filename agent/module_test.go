package agent

import (
	"log/slog"
	"testing"

	"go.uber.org/fx"
)

func TestModuleIsWiredCompletely(t *testing.T) {
	if err := fx.ValidateApp(fx.Supply(Default(), slog.Default()), Module, fx.NopLogger); err != nil {
		t.Fatal(err)
	}
}
