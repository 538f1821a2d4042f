package agent

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// A filesystem that is mounted while a point is made is not frozen: what was caught is no
// point, and the next try freezes it.
func TestMountedWhileFrozen(t *testing.T) {
	disktest.NeedRoot(t, "sfdisk", "partx", "mkfs.ext4")
	dev := disktest.Loop(t, 4*someSize)
	parts := disktest.Partition(t, dev, 2)
	for _, p := range parts {
		disktest.Mkfs(t, p, "ext4")
	}
	disktest.Mount(t, parts[0])
	late := t.TempDir()
	t.Cleanup(func() { disktest.Unmount(t, late) })

	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	cfg := followed(t, DiskConfig{dev, "d"})
	cfg.FreezeLimit = 10 * time.Second // for mount
	var mu sync.Mutex
	var points []string
	cfg.AtCut = func(point string, _ func(context.Context) error) error {
		mu.Lock()
		defer mu.Unlock()
		if points = append(points, point); len(points) == 3 {
			disktest.Run(t, "mount", parts[1], late)
		}
		return nil
	}
	start(t, cfg, b)
	cut := func(i int) (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		if i >= len(points) {
			return "", false
		}
		return points[i], true
	}
	for _, i := range []int{0, 1, 3, 4} {
		until(t, "a point", func() bool {
			p, ok := cut(i)
			return ok && get(r, func() bool { _, is := r.cuts[p]; return is })
		})
	}
	if p, _ := cut(2); get(r, func() bool { _, is := r.cuts[p]; return is }) {
		t.Errorf("point %s was made though %s was mounted and not frozen", p, parts[1])
	}
}
