package main

import (
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/leeward-dr/leeward/agent"
)

// progress shows long work: one line redrawn on a terminal, a log line every ten
// seconds elsewhere.
type progress struct {
	log *slog.Logger

	mu sync.Mutex
	// guarded by mu:
	disks map[string]*track
}

type track struct {
	phase string
	began time.Time
	shown time.Time
}

func (p *progress) tell(x agent.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.disks == nil {
		p.disks = map[string]*track{}
	}
	t := p.disks[x.Disk]
	now := time.Now()
	if t == nil || t.phase != x.Phase {
		t = &track{phase: x.Phase, began: now}
		p.disks[x.Disk] = t
	}
	if x.Phase == "round" || x.Phase == "point" {
		return
	}
	tty := term.IsTerminal(int(os.Stderr.Fd()))
	every := 10 * time.Second
	if tty {
		every = 200 * time.Millisecond
	}
	last := x.Total > 0 && x.Done >= x.Total
	if now.Sub(t.shown) < every && !last {
		return
	}
	t.shown = now
	if x.Total == 0 {
		p.log.Info(x.Phase, "disk", x.Disk, "what", x.Text)
		return
	}
	rate := float64(x.Done) / max(now.Sub(t.began).Seconds(), 0.001)
	if !tty {
		p.log.Info(x.Phase, "disk", x.Disk, "percent", 100*x.Done/x.Total, "bytes", x.Done, "of", x.Total, "bytes_per_second", int64(rate))
		return
	}
	eta := time.Duration(float64(x.Total-x.Done) / max(rate, 1) * float64(time.Second)).Round(time.Second)
	end := "\r"
	if last {
		end = "\n"
	}
	fmt.Fprintf(os.Stderr, "\x1b[K%s  %s %3d%%  %d MiB of %d MiB  %.0f MiB/s  ETA %v%s", x.Disk, x.Phase, 100*x.Done/x.Total, x.Done>>20, x.Total>>20, rate/(1<<20), eta, end)
}
