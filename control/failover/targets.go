package failover

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/disk"
	"github.com/leeward-dr/leeward/control/target/qemu"
)

// FixMachine is the argument with which a program that has Targets must do fixup.Main: it is
// then the program of a helper that looks into a machine's disks.
const FixMachine = "fix-machine"

// The names of targets.
const (
	QEMU  = "qemu"
	Files = "disk"
	Cloud = "azure"
)

// Azure says how machines are brought up there.
type Azure struct {
	File   string       // with settings (azure.ReadPlace) for what a request does not say
	Config azure.Config // for tests; its place completes that of the file
}

// Targets returns the function that makes the targets this program has.
func Targets(log *slog.Logger, a Azure) func(Request, target.Progress) (target.Target, error) {
	return func(r Request, progress target.Progress) (target.Target, error) {
		switch r.Target {
		case QEMU:
			return qemu.New(qemu.Config{
				Hardware: qemu.Hardware(r.Options.Hardware), Open: r.Options.Network == Open, Log: log, Hydrate: r.Options.Hydrate == HydrateOn,
				Fixup: cmp.Or(qemu.Fixup(r.Options.Fixup), qemu.FixupAuto), Helper: qemu.Helper{Args: []string{FixMachine}},
				Bridge: r.Options.bridge(), Address: r.Options.Address,
			}), nil
		case Files:
			return disk.NewTarget(r.Options.Out, disk.Options{
				Format: disk.Format(r.Options.Format), Progress: progress,
				Libvirt: r.Options.Libvirt, Virtio: r.Options.Hardware == string(qemu.Virtio),
			}), nil
		case Cloud:
			place, err := a.Place(r.Options)
			if err != nil {
				return nil, err
			}
			c := a.Config
			c.Place, c.Isolated = place, r.Options.Network != Open
			c.Progress, c.Log, c.Instance, c.Fixer = progress, log, r.Options.Instance, nil
			if qemu.Fixup(r.Options.Fixup) != qemu.FixupOff {
				c.Fixer = a.Fixer(log)
			}
			return azure.New(c), nil
		}
		return nil, fmt.Errorf("%w %q: use qemu, azure or disk", ErrTarget, r.Target)
	}
}

// Place is where in Azure a machine is brought up: what o says, and what the file says else.
func (a Azure) Place(o Options) (azure.Place, error) {
	place, err := azure.ReadPlace(a.File)
	return o.Azure.Over(place).Over(a.Config.Place), err
}

// Fixer makes disks fit for Azure, and takes that back.
func (a Azure) Fixer(log *slog.Logger) azure.Fixer {
	if a.Config.Fixer != nil {
		return a.Config.Fixer
	}
	return qemu.New(qemu.Config{Log: log, Helper: qemu.Helper{Args: []string{FixMachine}}})
}

// Adopt takes over the machine whose target had dir as its run's directory: in Azure, or
// in a keeper. See Config.
func (a Azure) Adopt(log *slog.Logger, k Keeper) func(dir string) (target.Running, error) {
	return func(dir string) (target.Running, error) {
		c := a.Config
		c.Log = log
		r, err := azure.Adopt(c, dir)
		if errors.Is(err, fs.ErrNotExist) {
			return k.Adopt(dir)
		}
		if err != nil {
			return nil, err
		}
		return r, nil
	}
}
