package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// The control of an appliance has the role, takes it back from another that took it,
// and leaves it when it stops.
func TestTurn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stop := startHere(t, dir)
	b := connect(t, dir, "admin")
	defer b.Close()
	h := bus.ThisProcess("another")
	_, err := bus.AcquireRole(t.Context(), b.JS, control.Role, h, bus.LeaseOptions{})
	held, ok := errors.AsType[*bus.HeldError](err)
	if !ok {
		t.Fatalf("another control became active beside the appliance's: %v", err)
	}
	l, err := bus.AcquireRole(t.Context(), b.JS, control.Role, h, bus.LeaseOptions{TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.Lost():
	case <-time.After(patience):
		t.Fatal("the appliance does not take the role back")
	}
	kv, err := b.JS.KeyValue(t.Context(), streams.Roles)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), control.Role)
	var now bus.Holder
	if err != nil || json.Unmarshal(e.Value(), &now) != nil || now.Instance != held.Holder.Instance {
		t.Errorf("the role is held by %+v, %v; want %s", now, err, held.Holder.Instance)
	}
	if err := l.Release(context.Background()); err != nil {
		t.Error(err)
	}
	stop()
	startHere(t, dir) // and is not kept waiting
}
