package qemu

import (
	"context"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// A machine that is brought up again in the directory of its run goes on from what it had
// written: this one counts its boots on its disk.
func TestBroughtUpAgain(t *testing.T) {
	m := mbr(t)
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), tinyTime)
	defer cancel()
	for _, boot := range []string{"1", "2", "3"} {
		running, err := New(Config{PowerOff: time.Second}).Start(ctx, m, dir)
		if err != nil {
			t.Fatal(err)
		}
		r := running.(*Run)
		defer r.Stop(ctx)
		probe(t, r, target.Probe{Serial: "HEARTBEAT .* boot=" + boot + " write=ok", Timeout: mbrTime})
		if err := r.Off(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Pause(ctx); err == nil {
			t.Error("a machine that is off was paused")
		}
		n := int64(0)
		r.Overlay(0).Changed(func(_, length int64, _ bool) bool { n += length; return true })
		if n == 0 {
			t.Error("the machine has written nothing, or it cannot be seen when it is off")
		}
		if err := r.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// A machine stands still while it is told to, and not for longer.
func TestPause(t *testing.T) {
	need(t)
	r, _ := start(t, Config{PowerOff: time.Second}, machine(targettest.Mem("sda", make([]byte, 1<<20))))
	ctx, cancel := context.WithTimeout(t.Context(), mbrTime)
	defer cancel()
	state := func() string {
		t.Helper()
		var s struct{ Status string }
		if err := r.mon.call(ctx, "query-status", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	resume, err := r.Pause(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if s := state(); s != "paused" {
		t.Errorf("a machine that stands still is %s", s)
	}
	for range 2 {
		if err := resume(); err != nil {
			t.Error(err)
		}
	}
	if s := state(); s != "running" {
		t.Errorf("a machine that goes on is %s", s)
	}
	short, done := context.WithCancel(ctx)
	if _, err := r.Pause(short); err != nil {
		t.Fatal(err)
	}
	if s := state(); s != "paused" {
		t.Errorf("a machine that stands still is %s", s)
	}
	done()
	targettest.WaitFor(t, mbrTime, "it goes on by itself", func() bool { return state() == "running" })
}
