package azure

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/fixup"
)

// Fixer changes a machine's disks so that it boots on hardware that it has never seen. It is
// a *qemu.Target.
type Fixer interface {
	// CanFit says what is missing here for that.
	CanFit(m *target.Machine) error
	// Fit does it on overlays in dir, once in the life of that directory.
	Fit(ctx context.Context, m *target.Machine, spec fixup.Spec, dir string) (*fixup.Fitted, error)
}

// fitDir, in a run's directory, holds what was changed of its disks.
const fitDir = "fixup"

// drivers are what a machine needs to see its disks and its network under Hyper-V. On sizes
// of both generations all disks are behind hv_storvsc.
var drivers = []string{"hv_vmbus", "hv_storvsc", "hv_netvsc", "sd_mod"}

// spec says what is to be changed of a machine. In a test its agent must not start.
func (cfg *Config) spec(p Place, machine string, isolated bool) fixup.Spec {
	s := fixup.Spec{Do: fixup.Fix, Drivers: drivers, Files: true}
	if p.AgentServer != "" && cfg.Instance != "" && !isolated {
		s.Agent = &fixup.Agent{Machine: machine, Instance: cfg.Instance, Server: p.AgentServer}
	}
	return s
}

// fit changes the machine's disks before the first byte of them is sent. What was sent must
// stay true: if the changes are lost later, they are not made anew.
func (r *Run) fit(ctx context.Context) (done func() error, err error) {
	if !r.b.now().Fix {
		return func() error { return nil }, nil
	}
	if r.cfg.Fixer == nil {
		return nil, errors.New("azure: the machine's disks were to be changed before they are sent, and nothing here can do that")
	}
	f, err := r.cfg.Fixer.Fit(ctx, &target.Machine{Name: r.b.Machine, Firmware: r.b.Firmware, Disks: r.disks}, r.cfg.spec(r.b.Place, r.b.Machine, r.b.Isolated), filepath.Join(r.b.dir, fitDir))
	if err != nil {
		return nil, err
	}
	if r.b.now().Fit && f.Fresh {
		return nil, errors.Join(fmt.Errorf("run %s in Azure has lost what was changed of its disks, and some of that may have been sent: clean it up", r.b.Run), f.Close())
	}
	if err := r.b.change(func(k *record) { k.Fit, k.Fixups = true, f.Changes }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for _, n := range f.Notes {
		r.note("left alone: %s", n)
	}
	for i, d := range f.Disks {
		r.disks[i] = d
	}
	return f.Close, nil
}

// Rehearse implements target.Rehearser.
func (t *Target) Rehearse(ctx context.Context, m *target.Machine, dir string) ([]string, error) {
	if t.cfg.Fixer == nil {
		return nil, nil
	}
	f, err := t.cfg.Fixer.Fit(ctx, m, t.cfg.spec(t.cfg.Place, m.Name, t.cfg.Isolated), dir)
	if err != nil {
		return nil, err
	}
	return append(f.Changes, f.Notes...), f.Close()
}

var _ target.Rehearser = (*Target)(nil)
