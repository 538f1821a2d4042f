package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// A group's application-consistent point: the hooks are done around the cut, and once
// more when the barrier comes to nothing.
func TestGroupTellsApplications(t *testing.T) {
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m1", "d")
	path, diary := image(t, 200), filepath.Join(t.TempDir(), "diary")
	cfg := config(t, path)
	cfg.Machine, cfg.Interval = "m1", time.Hour
	cfg.Apps.Hooks, cfg.Apps.Interval = script("echo $1 >> "+diary), time.Hour
	start(t, cfg, b)
	until(t, "the first cut", func() bool { return get(r, func() bool { return len(r.apps) == 1 }) })
	p := shop("apps")
	p.Members, p.Consistency = p.Members[:1], wire.App
	until(t, "an application-consistent point", func() bool {
		_, err := markers.Lead(t.Context(), b.Conn, b.JS, p)
		return err == nil
	})
	until(t, "its cut", func() bool { return get(r, func() bool { return len(r.apps) == 2 }) })
	p.Members, p.Patience.Close = []string{"m1", "m2"}, time.Second
	p.Patience.Call = time.Second
	if _, err := markers.Lead(t.Context(), b.Conn, b.JS, p); err == nil {
		t.Fatal("a point without a member")
	}
	got, err := os.ReadFile(diary)
	if err != nil || string(got) != "pre\npost\npre\npost\n" {
		t.Errorf("the hooks did %q, %v", got, err)
	}
}
