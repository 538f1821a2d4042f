package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func tellFence(t *testing.T, b *bus.Bus, why string, number uint64) {
	t.Helper()
	m, err := (&markers.Settings{Machine: "m", Policy: "p", Fenced: why, Fence: number}).Encode()
	if err == nil {
		err = b.Conn.Publish(streams.PolicySet("m"), m)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A fenced agent publishes nothing, says what it has not sent, and why it is silent; when
// the fence is gone it goes on, and nothing that was written meanwhile is missing.
func TestFencedAgentIsQuiet(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	asks, err := b.Conn.SubscribeSync(streams.PolicyAsks)
	if err != nil {
		t.Fatal(err)
	}
	path := image(t, 3000)
	cfg := config(t, path)
	start(t, cfg, b)
	until(t, "a point", func() bool { return r.hasCut(sumOf(t, path)) })

	tellFence(t, b, "it was failed over", 3)
	quiet := nextQuiet(t, asks)
	if quiet.Fence != 3 || quiet.Machine != "m" || quiet.Bytes != 0 || quiet.Error != "" {
		t.Errorf("it says %+v", quiet)
	}
	until(t, "its status says why", func() bool {
		st, running, err := ReadStatus(cfg.StateDir)
		return err == nil && running && st.Fenced == "it was failed over"
	})
	// What it had published before may still be on its way to the receiver.
	until(t, "all that was sent to be taken", func() bool {
		s, err := b.JS.Stream(t.Context(), streams.Changes)
		return err == nil && s.CachedInfo().State.Msgs == 0
	})
	opens, cuts := get(r, func() int { return len(r.opens) }), get(r, func() int { return len(r.cuts) })
	change(t, path, 7, "written behind the fence")
	change(t, path, 2000, "and this")
	tellFence(t, b, "it was failed over again", 4) // another fence: it looks at its disks again
	if quiet = nextQuiet(t, asks); quiet.Fence != 4 || quiet.Bytes != 2*wire.BlockSize {
		t.Errorf("it says %+v", quiet)
	}
	if o, c := get(r, func() int { return len(r.opens) }), get(r, func() int { return len(r.cuts) }); o != opens || c != cuts {
		t.Errorf("behind the fence it opened %d epochs and cut %d points", o-opens, c-cuts)
	}

	tellFence(t, b, "", 0)
	until(t, "a point of what was written", func() bool { return r.hasCut(sumOf(t, path)) })
	until(t, "its status", func() bool { st, _, err := ReadStatus(cfg.StateDir); return err == nil && st.Fenced == "" })
	if why := get(r, func() string { return r.opens[len(r.opens)-1].Reason }); !strings.Contains(why, "fence") {
		t.Errorf("the epoch was opened for: %s", why)
	}
}

// An agent that is started while its machine is fenced falls quiet as soon as it is told,
// though nobody answers its open.
func TestAgentStartsFenced(t *testing.T) {
	b := streamstest.Start(t)
	asks, err := b.Conn.SubscribeSync(streams.PolicyAsks)
	if err != nil {
		t.Fatal(err)
	}
	path := image(t, 300)
	start(t, config(t, path), b)
	if m, err := asks.NextMsg(time.Minute); err != nil || len(m.Data) != 0 {
		t.Fatalf("it does not ask for its policy: %v", err)
	}
	tellFence(t, b, "it is not to be protected", 1)
	if q := nextQuiet(t, asks); q.Fence != 1 {
		t.Errorf("it says %+v", q)
	}
}

func nextQuiet(t *testing.T, asks *nats.Subscription) *markers.Quiet {
	t.Helper()
	for {
		m, err := asks.NextMsg(time.Minute)
		if err != nil {
			t.Fatalf("it does not say that it is quiet: %v", err)
		}
		if q, err := markers.DecodeQuiet(m.Data); err == nil { // else it asks, or says how it is
			return q
		}
	}
}

// In a copy of the machine an agent writes only while a fence names it: not before it has
// heard of one, not under another's, and not when there is none any more.
func TestFenceHolder(t *testing.T) {
	var f fence
	if f.copied("copy-3-web"); f.why() == "" {
		t.Error("a copy may write before it has heard anything")
	}
	for _, c := range []struct {
		fenced, holder string
		shut           bool
	}{{"it was failed over", "", true}, {"it was failed over", "copy-3-web", false}, {"it was failed over", "copy-4-web", true}, {"", "", true}} {
		f.hear(&markers.Settings{Machine: "web", Fenced: c.fenced, Fence: 3, FenceHolder: c.holder})
		if got := f.why() != ""; got != c.shut {
			t.Errorf("%+v: shut %v", c, got)
		}
	}
	var home fence
	home.hear(&markers.Settings{Machine: "web", Fenced: "it was failed over", Fence: 3, FenceHolder: "copy-3-web"})
	if home.why() == "" {
		t.Error("the agent at home may write while a copy does")
	}
	if home.hear(&markers.Settings{Machine: "web"}); home.why() != "" {
		t.Error("the agent at home may not write when there is no fence")
	}
}
