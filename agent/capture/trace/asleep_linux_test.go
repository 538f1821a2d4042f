package trace_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/capture/trace"
)

// A machine that was suspended may have written what nobody recorded: the disk must be
// compared, once.
func TestAsleep(t *testing.T) {
	r := newRig(t, trace.Options{})
	r.write(0, 4096)
	r.takes(0)
	r.src.Asleep(100 * time.Millisecond) // clocks are not read at one instant
	r.takes()
	r.write(0, 4096)
	r.src.Asleep(3 * time.Second)
	_, err := r.src.Take(context.Background())
	r.lost(err, "suspended for 3s")
	r.src.Asleep(5 * time.Second)
	r.lost(r.audit(), "suspended for 2s")
}

// Neither is what the process before had recorded taken over.
func TestAsleepWhileNoAgentRan(t *testing.T) {
	k := newKept(t, trace.Options{})
	k.takes()
	k.settle()
	if err := k.src.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		slept time.Duration
		word  string
	}{{0, ""}, {time.Hour, "suspended for 1h0m0s"}, {time.Hour, ""}} {
		var err error
		if k.src, err = trace.New(k.dev, k.opt); err != nil {
			t.Fatal(err)
		}
		k.src.Asleep(c.slept)
		if err := k.src.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.src.Resumed(); (err == nil) != (c.word == "") || err != nil && !strings.Contains(err.Error(), c.word) {
			t.Errorf("slept %v: %v", c.slept, err)
		}
		k.takes()
		k.settle() // what is recorded from here on can be taken over
		if err := k.src.Close(); err != nil {
			t.Fatal(err)
		}
	}
	k.open()
	if err := k.src.Resumed(); err != nil && !strings.Contains(err.Error(), "suspended") {
		t.Error(err)
	}
}
