package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/leeward-dr/leeward/consumers/mastertarget"
	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/target/keeper"
	"github.com/leeward-dr/leeward/streams/wire"
)

// wayHome is Home for machines in keepers and disks on this host.
type wayHome struct{ s *Service }

var _ Home = wayHome{}

const (
	precopies = 4 // rounds of copying before the machine is stopped, at most
	// nearEnough is how many bytes may be left to be copied while the machine is off.
	nearEnough = 64 << 20
)

// ask asks the keeper of a copy for something.
func (w wayHome) ask(ctx context.Context, h Homeward, what string, in any) (*failover.Protected, error) {
	m, err := w.s.engine.Copy(h.Job)
	if err != nil {
		return nil, fmt.Errorf("the copy of machine %s: %w", h.Machine, err)
	}
	p := new(failover.Protected)
	if err := m.Do(ctx, what, in, p); err != nil {
		return nil, fmt.Errorf("the copy of machine %s: %w", h.Machine, err)
	}
	return p, nil
}

// Reprotect implements Home.
func (w wayHome) Reprotect(ctx context.Context, h Homeward) error {
	if w.s.cfg.Keeper.Bus == "" {
		return errNoHome
	}
	p, err := w.s.vault.Point(ctx, h.Point)
	if err != nil {
		return err
	}
	k := pointMachine(p, h.Machine)
	if k.Machine == "" {
		return fmt.Errorf("point %s has no machine %s", h.Point, h.Machine)
	}
	how := failover.Protection{
		Bus: w.s.cfg.Keeper.Bus, Server: w.s.cfg.Keeper.Server, Holder: h.Holder,
		Facts: wire.Facts{Host: k.Host, CPUs: k.CPUs, Memory: k.Memory, Firmware: k.Firmware, OS: k.OS, Kernel: k.Kernel, NICs: k.NICs},
	}
	if _, err := w.ask(ctx, h, failover.DoProtect, how); err != nil {
		return err
	}
	first := ""
	return poll(ctx, func() (bool, error) {
		now, err := w.ask(ctx, h, failover.DoTell, nil)
		switch {
		case err != nil:
			return false, err
		case now.Ended != "":
			return false, errors.New(now.Ended)
		case first == "":
			first = now.Point
		}
		w.s.decider.recheck()
		return first != "" && w.s.state.listed(first), nil
	})
}

// Unprotect implements Home. A copy that is gone publishes nothing.
func (w wayHome) Unprotect(ctx context.Context, h Homeward) error {
	_, err := w.ask(ctx, h, failover.DoUnprotect, nil)
	if errors.Is(err, keeper.ErrGone) {
		return nil
	}
	return err
}

// Stay implements Home.
func (w wayHome) Stay(ctx context.Context, h Homeward) error {
	_, err := w.ask(ctx, h, failover.DoAgain, nil)
	return err
}

// Settle implements Home.
func (w wayHome) Settle(ctx context.Context, h Homeward) error { return w.Unprotect(ctx, h) }

// Return implements Home. Most is copied while the machine still runs.
func (w wayHome) Return(ctx context.Context, h Homeward) error {
	now, err := w.ask(ctx, h, failover.DoTell, nil)
	if err != nil {
		return err
	}
	if !now.On {
		return fmt.Errorf("machine %s is not re-protected: %s", h.Machine, now.Ended)
	}
	p, k, err := w.newest(h.Machine)
	if err != nil {
		return err
	}
	all, err := w.openHome(ctx, h, k)
	if err != nil {
		return err
	}
	defer all.Close()
	for i := 0; i < precopies && !now.Off; i++ {
		looked, err := all.bring(ctx, w, h, p, k)
		if err != nil {
			return err
		}
		if looked < nearEnough {
			break
		}
		if p, k, err = w.newest(h.Machine); err != nil {
			return err
		}
	}
	if now, err = w.ask(ctx, h, failover.DoFinal, nil); err != nil {
		return err
	}
	err = poll(ctx, func() (bool, error) {
		w.s.decider.recheck()
		return w.s.state.listed(now.Point), nil
	})
	if err != nil {
		return err
	}
	if p, err = w.s.vault.Point(ctx, now.Point); err != nil {
		return err
	}
	k = pointMachine(p, h.Machine)
	if _, err := all.bring(ctx, w, h, p, k); err != nil {
		return err
	}
	for i := range k.Disks {
		if err := all[k.Disks[i].Disk].Verify(ctx, &k.Disks[i]); err != nil {
			return err
		}
	}
	w.s.log.Info("machine is at home as it was when it was stopped", "machine", h.Machine, "point", p.ID)
	return nil
}

// newest returns the newest point of a machine.
func (w wayHome) newest(machine string) (*vault.Point, *vault.PointMachine, error) {
	all, err := w.s.points(context.Background())
	if err != nil {
		return nil, nil, err
	}
	p, err := failover.Select(all, machine, failover.Latest)
	if err != nil {
		return nil, nil, err
	}
	return p, pointMachine(p, machine), nil
}

// homes are the disks at home, by name.
type homes map[string]*mastertarget.Master

func (all homes) Close() {
	for _, m := range all {
		_ = m.Close() // what was written is synced
	}
}

// openHome opens all disks at home, or says which cannot be written.
func (w wayHome) openHome(ctx context.Context, h Homeward, k *vault.PointMachine) (_ homes, err error) {
	all := homes{}
	defer func() {
		if err != nil {
			all.Close()
		}
	}()
	for _, d := range k.Disks {
		path, ok := h.Disks[d.Disk]
		if !ok {
			return nil, fmt.Errorf("it is not said where disk %s of machine %s is at home: add --disk %s=PATH", d.Disk, h.Machine, d.Disk)
		}
		path, other := strings.CutPrefix(path, api.OtherDisk)
		m, err := mastertarget.Open(ctx, mastertarget.Config{
			Vault: w.s.vault, Disk: vault.DiskID{Machine: h.Machine, Disk: d.Disk}, Path: path, Other: other,
			StateDir: filepath.Join(w.s.cfg.Dir, "home"), Size: d.Size, Log: w.s.log,
		})
		if err != nil {
			return nil, err
		}
		all[d.Disk] = m
	}
	return all, nil
}

// bring makes the disks at home as they are at a point, and returns how much was looked at.
func (all homes) bring(ctx context.Context, w wayHome, h Homeward, p *vault.Point, k *vault.PointMachine) (looked int64, err error) {
	for i := range k.Disks {
		d := &k.Disks[i]
		b, err := all[d.Disk].Bring(ctx, d)
		if err != nil {
			return looked, err
		}
		looked += b.Looked
		w.s.log.Info("brought home", "machine", h.Machine, "disk", d.Disk, "point", p.ID, "did", b.String())
	}
	return looked, nil
}
