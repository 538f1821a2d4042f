package appliance

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/fx"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
)

func TestWiring(t *testing.T) {
	t.Parallel()
	c := Default()
	c.Dir = t.TempDir()
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	if err := fx.ValidateApp(options(c, "1.0.0", slog.New(slog.DiscardHandler), &opened{})); err != nil {
		t.Fatal(err)
	}
}

func config(t *testing.T, dir string) Config {
	t.Helper()
	c := Default()
	c.Dir, c.Listen = dir, "127.0.0.1:-1"
	if err := c.fill(); err != nil {
		t.Fatal(err)
	}
	return c
}

// The vault is made once, and no other is taken for it.
func TestOpenVault(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := config(t, t.TempDir())
	v, err := openVault(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(c.KeyFile); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", st.Mode(), err)
	}
	again, err := openVault(ctx, c)
	if err != nil || again.ID() != v.ID() {
		t.Fatalf("opened again: %v", err)
	}

	refused := func(what, want string, code api.Code) {
		t.Helper()
		_, err := openVault(ctx, c)
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Code != code || !strings.Contains(e.Message, want) || e.Try == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	store := filepath.Join(c.Dir, "vault")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.Rename(store, store+".away"))
	refused("the store is gone", "that this appliance fills is not in", api.CodeRefused)
	check(os.Mkdir(store, 0o700))
	refused("its disk is not mounted", "that this appliance fills is not in", api.CodeRefused)
	if left, err := os.ReadDir(store); err != nil || len(left) != 0 {
		t.Errorf("something was made where the vault is missing: %v", left)
	}
	check(os.Remove(store))
	st, err := vault.OpenStore(c.Vault, true)
	check(err)
	key, err := vault.KeyFromFile(c.KeyFile)
	check(err)
	_, err = vault.Create(ctx, st, key)
	check(err)
	refused("another vault is there", "this appliance fills", api.CodeRefused)
	check(os.RemoveAll(store))
	check(os.Rename(store+".away", store))
	check(os.Rename(c.KeyFile, c.KeyFile+".away"))
	refused("the key is gone", "is gone", api.CodeNotAuthorised)
	check(os.WriteFile(c.KeyFile, []byte("another\n"), 0o600))
	if _, err := openVault(ctx, c); !errors.Is(err, vault.ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	check(os.Rename(c.KeyFile+".away", c.KeyFile))
	if _, err := openVault(ctx, c); err != nil {
		t.Errorf("everything is back: %v", err)
	}
}

// A start that is killed between its steps can be finished by the next one.
func TestFirstStartInterrupted(t *testing.T) {
	t.Parallel()
	c := config(t, t.TempDir())
	if err := MakeKey(c.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := MakeKey(c.KeyFile); !errors.Is(err, os.ErrExist) {
		t.Errorf("a key was overwritten: %v", err)
	}
	v, err := openVault(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.Dir, recordFile)); err != nil {
		t.Fatal(err)
	}
	again, err := openVault(t.Context(), c)
	if err != nil || again.ID() != v.ID() {
		t.Errorf("without the record: %v", err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, recordFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openVault(t.Context(), c); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("damaged record: %v", err)
	}
}

func TestTwoInOneDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	startHere(t, dir)
	err := Run(t.Context(), config(t, dir), "1.0.0", io.Discard, t.Output())
	if err == nil || !strings.Contains(err.Error(), "in use by another appliance") {
		t.Errorf("a second appliance: %v", err)
	}
}

// What cannot start leaves nothing running and can be started after the repair.
func TestFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stop := startHere(t, dir)
	stop()
	key := filepath.Join(dir, "keys", "vault.key")
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), config(t, dir), "1.0.0", io.Discard, t.Output()); !errors.Is(err, vault.ErrWrongKey) {
		t.Fatalf("wrong key: %v", err)
	}
	if err := os.WriteFile(key, good, 0o600); err != nil {
		t.Fatal(err)
	}
	startHere(t, dir) // the lock and the server are free again
}

// startHere runs an appliance in this process until stop or the end of the test.
func startHere(t *testing.T, dir string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	up, end := make(chan struct{}), make(chan error, 1)
	go func() { end <- Run(ctx, config(t, dir), "1.0.0", &signalWriter{up: up}, t.Output()) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-end; err != nil {
			t.Errorf("the appliance ended: %v", err)
		}
	}
	select {
	case <-up:
	case err := <-end:
		stopped = true
		t.Fatalf("the appliance did not start: %v", err)
	}
	t.Cleanup(stop)
	return stop
}

// signalWriter closes up at the first write: the summary is written when all runs.
type signalWriter struct {
	up   chan struct{}
	done bool
}

func (w *signalWriter) Write(p []byte) (int, error) {
	if !w.done {
		w.done = true
		close(w.up)
	}
	return len(p), nil
}
