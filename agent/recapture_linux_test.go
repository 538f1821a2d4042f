package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// The policy may change how changes are found; nothing that is written meanwhile is missed,
// and the kernel records no longer than somebody reads it.
func TestPolicyChoosesTheDriver(t *testing.T) {
	disktest.NeedRoot(t)
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	d := DiskConfig{disktest.Loop(t, someSize), "d"}
	put(t, d.Path, 1, "before")
	told := events(t, b, "driver")
	cfg := followed(t, d)
	start(t, cfg, b)
	cut := func() {
		t.Helper()
		until(t, "a cut of the disk as it is", func() bool { return r.hasCut(now(t, d.Path)) })
	}
	driver := func() string {
		st, _, err := ReadStatus(cfg.StateDir)
		if err != nil || len(st.Disks) != 1 {
			return ""
		}
		return st.Disks[0].Driver
	}
	say := func(capture string) {
		t.Helper()
		text, err := (&markers.Settings{Machine: "m", Policy: "gold", PointInterval: 200 * time.Millisecond, Capture: capture}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Conn.Publish(streams.PolicySet("m"), text); err != nil {
			t.Fatal(err)
		}
	}
	cut()
	until(t, "its status says that it is traced", func() bool { return driver() == "trace" })
	if len(instancesOf(t, d.Path)) == 0 {
		t.Fatal("nothing records")
	}
	say("scan")
	until(t, "the scan driver", func() bool { return driver() == "scan" })
	until(t, "the kernel to record no longer", func() bool { return len(instancesOf(t, d.Path)) == 0 })
	put(t, d.Path, 2, "while it is scanned")
	cut()
	say("auto")
	until(t, "the trace driver", func() bool { return driver() == "trace" })
	put(t, d.Path, 3, "while it is traced again")
	cut()
	until(t, "a word on both", func() bool {
		return strings.Contains(told(), "followed by trace") && strings.Contains(told(), "followed by scan")
	})
}

// A disk that cannot be followed as the policy wants stays as it is, and somebody is told.
func TestPolicyWantsTheImpossible(t *testing.T) {
	b := streamstest.Start(t)
	path := image(t, 200) // a file: nothing traces it
	r := receive(t.Context(), t, b, "m", "d")
	told := events(t, b, "driver")
	cfg := config(t, path)
	cfg.Machine = "m"
	start(t, cfg, b)
	until(t, "the first cut", func() bool { return r.hasCut(sumOf(t, path)) })
	text, err := (&markers.Settings{Machine: "m", Policy: "gold", PointInterval: 200 * time.Millisecond, Capture: "trace"}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Conn.Publish(streams.PolicySet("m"), text); err != nil {
		t.Fatal(err)
	}
	until(t, "a word on it", func() bool { return strings.Contains(told(), "stays with hash scans") })
	change(t, path, 150, "it goes on")
	until(t, "a cut in spite of it", func() bool { return r.hasCut(sumOf(t, path)) })
}
