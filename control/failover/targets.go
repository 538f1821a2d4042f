package failover

import (
	"fmt"
	"log/slog"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/disk"
	"github.com/leeward-dr/leeward/control/target/qemu"
)

// Targets returns the function that makes the targets this program has.
func Targets(log *slog.Logger) func(Request, target.Progress) (target.Target, error) {
	return func(r Request, progress target.Progress) (target.Target, error) {
		switch r.Target {
		case "qemu":
			return qemu.New(qemu.Config{Hardware: qemu.Hardware(r.Options.Hardware), Open: r.Options.Network == Open, Log: log}), nil
		case "disk":
			return disk.NewTarget(r.Options.Out, disk.Options{Format: disk.Format(r.Options.Format), Progress: progress}), nil
		}
		return nil, fmt.Errorf("%w %q: use qemu or disk", ErrTarget, r.Target)
	}
}
