package control

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

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
	if j := w.far(h); j != nil {
		return w.reprotectFar(ctx, h, j)
	}
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
		Bus: w.s.cfg.Keeper.Bus, Server: w.s.cfg.Keeper.Server, Holder: h.Holder, Pool: w.s.cfg.ReversePool,
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
	if w.far(h) != nil {
		return nil // the fence tells its agent
	}
	_, err := w.ask(ctx, h, failover.DoUnprotect, nil)
	if errors.Is(err, keeper.ErrGone) {
		return nil
	}
	return err
}

// Stay implements Home.
func (w wayHome) Stay(ctx context.Context, h Homeward) error {
	if w.far(h) != nil {
		return w.stayFar(ctx, h)
	}
	_, err := w.ask(ctx, h, failover.DoAgain, nil)
	return err
}

// Settle implements Home.
func (w wayHome) Settle(ctx context.Context, h Homeward) error { return w.Unprotect(ctx, h) }

// Return implements Home. Most is copied while the machine still runs.
func (w wayHome) Return(ctx context.Context, h Homeward) error {
	if j := w.far(h); j != nil {
		return w.returnFar(ctx, h, j)
	}
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
	if err := w.precopy(ctx, h, all, p, k, !now.Off); err != nil {
		return err
	}
	if now, err = w.ask(ctx, h, failover.DoFinal, nil); err != nil {
		return err
	}
	return w.land(ctx, h, all, now.Point)
}

// precopy brings most home while the machine still runs, if it does.
func (w wayHome) precopy(ctx context.Context, h Homeward, all *homes, p *vault.Point, k *vault.PointMachine, runs bool) error {
	for i := 0; i < precopies && runs; i++ {
		looked, err := all.bring(ctx, p, k)
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
	return nil
}

// land brings the last point home and verifies all of it.
func (w wayHome) land(ctx context.Context, h Homeward, all *homes, point string) error {
	err := poll(ctx, func() (bool, error) {
		w.s.decider.recheck()
		return w.s.state.listed(point), nil
	})
	if err != nil {
		return err
	}
	p, err := w.s.vault.Point(ctx, point)
	if err != nil {
		return err
	}
	k := pointMachine(p, h.Machine)
	if _, err := all.bring(ctx, p, k); err != nil {
		return err
	}
	if err := all.verify(ctx, p, k); err != nil {
		return err
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
type homes struct {
	w       wayHome
	h       Homeward
	masters map[string]*mastertarget.Master
	rescues map[string]*mastertarget.Rescue
}

func (all *homes) Close() {
	for _, m := range all.masters {
		_ = m.Close() // what was written is synced
	}
	for _, r := range all.rescues {
		_ = r.Close() // nothing is on its way
	}
	all.masters, all.rescues = nil, nil
}

// openHome opens all disks at home, or says which cannot be written.
func (w wayHome) openHome(ctx context.Context, h Homeward, k *vault.PointMachine) (*homes, error) {
	all := &homes{w: w, h: h}
	return all, all.open(ctx, k)
}

func (all *homes) open(ctx context.Context, k *vault.PointMachine) (err error) {
	all.masters, all.rescues = map[string]*mastertarget.Master{}, map[string]*mastertarget.Rescue{}
	defer func() {
		if err != nil {
			all.Close()
		}
	}()
	h, s := all.h, all.w.s
	for _, d := range k.Disks {
		path, ok := h.Disks[d.Disk]
		if !ok {
			path, ok = h.Disks[api.EveryDisk]
		}
		if !ok {
			return fmt.Errorf("it is not said where disk %s of machine %s is at home: add --disk %s=PATH, or --to rescue:NAME", d.Disk, h.Machine, d.Disk)
		}
		c := mastertarget.Config{
			Vault: s.vault, Disk: vault.DiskID{Machine: h.Machine, Disk: d.Disk}, StateDir: filepath.Join(s.cfg.Dir, "home"), Size: d.Size, Log: s.log,
		}
		if name, far := strings.CutPrefix(path, api.RescueDisk); far {
			if all.rescues[name] == nil {
				if all.rescues[name], err = mastertarget.Reach(ctx, s.bus.Conn, name, s.log); err != nil {
					delete(all.rescues, name)
					return err
				}
			}
			c.Rescue = all.rescues[name]
		} else {
			c.Path, c.Other = strings.CutPrefix(path, api.OtherDisk)
		}
		if all.masters[d.Disk], err = mastertarget.Open(ctx, c); err != nil {
			delete(all.masters, d.Disk)
			return err
		}
	}
	return nil
}

// awayTime is how long a rescue that went away is waited for: somebody boots it again.
const awayTime = 15 * time.Minute

// do does something with the disks, and once more when a rescue was started anew.
func (all *homes) do(ctx context.Context, k *vault.PointMachine, work func() error) error {
	err := work()
	for until := time.Now().Add(awayTime); errors.Is(err, mastertarget.ErrAnew) && time.Now().Before(until); {
		all.w.s.log.Warn("a rescue is away or was started anew: going on when it is there", "machine", all.h.Machine, "err", err)
		if !pauseFor(ctx, 2*time.Second) {
			return ctx.Err()
		}
		all.Close()
		if failed := all.open(ctx, k); failed != nil {
			err = fmt.Errorf("%w: %w", failed, mastertarget.ErrAnew)
			continue
		}
		err = work()
	}
	return err
}

// bring makes the disks at home as they are at a point, and returns how much was looked at.
func (all *homes) bring(ctx context.Context, p *vault.Point, k *vault.PointMachine) (looked int64, err error) {
	err = all.do(ctx, k, func() error {
		for i := range k.Disks {
			d := &k.Disks[i]
			b, err := all.masters[d.Disk].Bring(ctx, d)
			if err != nil {
				return err
			}
			looked += b.Looked
			all.w.s.log.Info("brought home", "machine", all.h.Machine, "disk", d.Disk, "point", p.ID, "did", b.String())
		}
		return nil
	})
	return looked, err
}

// verify compares every byte of the disks at home with what the point promises.
func (all *homes) verify(ctx context.Context, p *vault.Point, k *vault.PointMachine) error {
	return all.do(ctx, k, func() error {
		for i := range k.Disks {
			m := all.masters[k.Disks[i].Disk]
			// A rescue that lost power after it was brought has to be brought once more.
			if _, err := m.Bring(ctx, &k.Disks[i]); err != nil {
				return err
			}
			if err := m.Verify(ctx, &k.Disks[i]); err != nil {
				return err
			}
			if err := m.Finish(ctx, p.ID); err != nil {
				return err
			}
		}
		return nil
	})
}
