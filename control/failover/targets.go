package failover

import (
	"cmp"
	"fmt"
	"log/slog"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/disk"
	"github.com/leeward-dr/leeward/control/target/qemu"
)

// FixMachine is the argument with which a program that has Targets must do fixup.Main: it is
// then the program of a helper that looks into a machine's disks.
const FixMachine = "fix-machine"

// Targets returns the function that makes the targets this program has.
func Targets(log *slog.Logger) func(Request, target.Progress) (target.Target, error) {
	return func(r Request, progress target.Progress) (target.Target, error) {
		switch r.Target {
		case "qemu":
			return qemu.New(qemu.Config{
				Hardware: qemu.Hardware(r.Options.Hardware), Open: r.Options.Network == Open, Log: log, Hydrate: r.Options.Hydrate == HydrateOn,
				Fixup: cmp.Or(qemu.Fixup(r.Options.Fixup), qemu.FixupAuto), Helper: qemu.Helper{Args: []string{FixMachine}},
				Bridge: r.Options.bridge(), Address: r.Options.Address,
			}), nil
		case "disk":
			return disk.NewTarget(r.Options.Out, disk.Options{
				Format: disk.Format(r.Options.Format), Progress: progress,
				Libvirt: r.Options.Libvirt, Virtio: r.Options.Hardware == string(qemu.Virtio),
			}), nil
		}
		return nil, fmt.Errorf("%w %q: use qemu or disk", ErrTarget, r.Target)
	}
}
