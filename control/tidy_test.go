package control

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
)

// A vault that cannot be tidied is told of once, and loses nothing.
func TestUntidyVault(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.tidyEvery = 100 * time.Millisecond
	s, _ := l.start()
	at := l.vault.Write(t, web, "p1", "web", false, map[int]byte{1: 1})
	l.marker("p1", web, at)
	l.receipt(web, at)
	l.eventually("p1 is listed", func() bool { return s.state.listed("p1") })
	// A manifest that cannot be read may need anything of its disks.
	points, err := filepath.Glob(filepath.Join(strings.TrimPrefix(l.vault.URL, "dir://"), "points", "*", "*"))
	if err != nil || len(points) == 0 {
		t.Fatalf("points of %s: %v, %v", l.vault.URL, points, err)
	}
	if err := os.Chmod(points[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(points[0], []byte("not a point"), 0o600); err != nil {
		t.Fatal(err)
	}
	told := func() []api.Event {
		all, err := s.Events(t.Context(), api.Query{Kind: kindUntidy})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	l.eventually("an event tells of it", func() bool { return len(told()) > 0 })
	for range 3 {
		if _, err := s.tidyOnce(t.Context()); err == nil {
			t.Fatal("tidied in spite of a point that cannot be read")
		}
	}
	if all := told(); len(all) != 1 || all[0].Machine != "web" || all[0].Disk != "sda" || all[0].Try == "" {
		t.Errorf("told of it: %+v", all)
	}
	if !s.state.listed("p1") {
		t.Error("the point is forgotten")
	}
}
