package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/streams/wire"
)

// source chooses the capture driver of a disk and starts it.
func (a *Agent) source(ctx context.Context, dev *disk.Disk, name string) (capture.Source, error) {
	if err := a.checkSpool(dev); err != nil {
		return nil, err
	}
	want := a.capture()
	if want != "scan" {
		src, err := a.trace(ctx, dev, name)
		if err == nil || want == "trace" || !errors.Is(err, capture.ErrUnsupported) {
			return src, err
		}
		a.event("driver", wire.Warning, name, fmt.Sprintf("disk %s is followed by hash scans: %v", name, err), "")
		a.log.Warn("no change tracking, scanning instead", "disk", name, "reason", err)
	}
	src, err := scan.New(dev, a.cfg.scanOptions(), nil)
	if err != nil {
		return nil, err
	}
	if err := src.Start(ctx); err != nil {
		return nil, fmt.Errorf("follow disk %s: %w", name, err)
	}
	return src, nil
}

func (a *Agent) trace(ctx context.Context, dev *disk.Disk, name string) (capture.Source, error) {
	if err := trace.Probe(dev); err != nil {
		return nil, err
	}
	src, err := trace.New(dev, trace.Options{Keep: a.keep})
	if err != nil {
		return nil, err
	}
	if err := src.Start(ctx); err != nil {
		src.Close()
		return nil, fmt.Errorf("follow disk %s: %w", name, err)
	}
	return src, nil
}

// keepDir is where sources may keep records. A record is memory that is written to
// without asking: on a filesystem of a protected disk each mark would be a change of
// that disk, and would wait for ever in a freeze.
func (a *Agent) keepDir(disks []DiskConfig) string {
	m, on, err := disk.FilesystemOf(a.cfg.StateDir)
	if err != nil {
		a.log.Warn("tracking ends with this process", "reason", err)
		return ""
	}
	if !on {
		return a.cfg.StateDir
	}
	for _, d := range disks {
		dev, err := disk.Open(d.Path)
		if err != nil {
			continue // protect says so
		}
		u, err := disk.Inspect(dev)
		_ = dev.Close()
		if err != nil || slices.ContainsFunc(u.Mounts, func(x disk.Mount) bool { return x.Path == m.Path }) {
			a.log.Warn("tracking ends with this process: the state directory is on a protected disk", "state_dir", a.cfg.StateDir, "disk", d.Name, "mount", m.Path)
			return ""
		}
	}
	return a.cfg.StateDir
}

// newFreezer starts the guard.
func (a *Agent) newFreezer() (*quiesce.Freezer, error) {
	f, err := quiesce.New(quiesce.Options{GuardCommand: a.cfg.GuardCommand, Bound: a.cfg.FreezeLimit, Avoid: a.cfg.writesTo()})
	if err != nil {
		return nil, fmt.Errorf("start the freeze guard: %w", err)
	}
	a.onClose(func() {
		if err := f.Close(); err != nil {
			a.log.Debug("stop the freeze guard", "error", err)
		}
	})
	return f, nil
}
