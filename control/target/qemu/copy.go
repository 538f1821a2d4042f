package qemu

import (
	"context"
	"sync"

	"github.com/leeward-dr/leeward/control/target/hydrate"
)

// hydrate begins to copy the disks here, one after the other: the first is the one that the
// guest boots from.
func (r *Run) hydrate() {
	if len(r.copies) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i, c := range r.copies {
			if err := c.Run(ctx); err != nil {
				r.log.Error("a disk is not copied here; the machine reads it from the vault", "disk", r.disks[i], "err", err)
			} else if c.Status().Whole {
				r.log.Info("a disk is here as a whole: it is not read from the vault any more", "disk", r.disks[i], "bytes", c.Status().Done)
			}
		}
	})
	r.copying = func() {
		cancel()
		wg.Wait()
	}
}

// Hydration says how much of the disks is here; ok is false if they are not copied.
func (r *Run) Hydration() (s hydrate.Status, ok bool) {
	s.Whole = true
	for _, c := range r.copies {
		s = s.Add(c.Status())
	}
	return s, len(r.copies) > 0
}
