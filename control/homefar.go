package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/qemu"
)

// far returns the job of a copy that runs where no keeper sees what it writes, nil for others.
func (w wayHome) far(h Homeward) *failover.Job {
	j, err := w.s.engine.Job(h.Job)
	if err != nil || j.Request.Target != failover.Cloud {
		return nil
	}
	return &j
}

// cannotGoOn says why nobody protects a copy where it runs, nil if its agent does.
func cannotGoOn(j *failover.Job, holder string) error {
	if goesOn(j, holder) {
		return nil
	}
	return fmt.Errorf("no agent goes on in the copy of machine %s as %s: agent_server was not in the settings of Azure when it was failed over, or no agent is installed in it (leeward job show %s)", j.Request.Machine, holder, j.ID)
}

// reprotectFar waits until the agent in the copy, which the fence lets through by now, has
// brought all of its disks to a point.
func (w wayHome) reprotectFar(ctx context.Context, h Homeward, j *failover.Job) error {
	if err := cannotGoOn(j, h.Holder); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		w.s.decider.recheck()
		p, k, err := w.newest(h.Machine)
		if errors.Is(err, failover.ErrNoPoint) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		return w.cutBy(ctx, h, p, k)
	})
}

// cutBy says whether all disks of a machine's point are of epochs that an instance opened.
func (w wayHome) cutBy(ctx context.Context, h Homeward, p *vault.Point, k *vault.PointMachine) (bool, error) {
	if p.ID == h.Point {
		return false, nil // that it began with
	}
	if missing, err := w.lacks(ctx, h, k); err != nil || missing != "" {
		return false, err
	}
	for _, d := range k.Disks {
		o, err := w.s.vault.Opened(ctx, vault.DiskID{Machine: h.Machine, Disk: d.Disk}, d.At.Epoch)
		if errors.Is(err, vault.ErrNotFound) || err == nil && o.Instance != h.Holder {
			return false, nil // of before
		}
		if err != nil {
			return false, err
		}
	}
	return len(k.Disks) > 0, nil
}

// lacks names a disk that the machine began with and that is not in a point, "" if all are.
func (w wayHome) lacks(ctx context.Context, h Homeward, k *vault.PointMachine) (string, error) {
	began, err := w.s.vault.Point(ctx, h.Point)
	if err != nil {
		return "", err
	}
	for _, d := range pointMachine(began, h.Machine).Disks {
		if !slices.ContainsFunc(k.Disks, func(x vault.PointDisk) bool { return x.Disk == d.Disk }) {
			return d.Disk, nil
		}
	}
	return "", nil
}

// goesOn says whether the agent in a job's copy was told who it is.
func goesOn(j *failover.Job, holder string) bool {
	return j.Result != nil && j.Request.Options.Instance == holder && slices.ContainsFunc(j.Result.Fixups, func(f string) bool { // see package fixup
		return strings.HasPrefix(f+" ", "leeward-agent goes on as "+holder+" ")
	})
}

// farFrom says why a machine that was failed over to Azure cannot be protected there.
func (s *Service) farFrom(l *life.Life) error {
	j, err := s.engine.Job(l.Job)
	if err != nil {
		return err
	}
	return cannotGoOn(&j, holder(l))
}

// wayBack says whether a machine will be protected in Azure, and what must be reachable for that.
func (s *Service) wayBack(add func(string, api.CheckResult, string, string, ...any), q failover.Request) {
	place, err := s.cfg.Azure.Place(q.Options)
	switch {
	case err != nil: // which is told of the target
	case place.AgentServer == "":
		add("way home", api.Doubtful, "agent_server in azure.yaml, see docs/ops/azure.md", "nobody tells the agent in the machine where the bus is: it cannot be re-protected in Azure, and not come home by what changed")
	case q.Options.Fixup == string(qemu.FixupOff):
		add("way home", api.Doubtful, "leave fix-ups on", "without fix-ups nobody tells the agent in the machine how it goes on: it cannot be re-protected in Azure")
	default:
		add("way home", api.Fine, "", "the agent in the machine goes on there: let the subnet reach %s, and control management.azure.com and *.blob.storage.azure.net at port 443", place.AgentServer)
	}
}

// returnFar brings a copy home whose disks are somewhere else. Most crosses while it runs;
// then it is turned off, and its disks are read and compared where they are: what its agent
// could not send any more is not lost.
func (w wayHome) returnFar(ctx context.Context, h Homeward, j *failover.Job) error {
	m, err := w.s.engine.Far(ctx, h.Job)
	if err != nil {
		return err
	}
	p, k, err := w.newest(h.Machine)
	if err != nil {
		return err
	}
	missing, err := w.lacks(ctx, h, k)
	if err != nil {
		return err
	}
	if missing != "" {
		return fmt.Errorf("disk %q is not in point %s of machine %s, which would come home without it: see that its agent protects it", missing, p.ID, h.Machine)
	}
	all, err := w.openHome(ctx, h, k)
	if err != nil {
		return err
	}
	defer all.Close()
	if err := w.precopy(ctx, h, all, p, k, true); err != nil {
		return err
	}
	if err := m.Off(ctx); err != nil {
		return err
	}
	// What its agent had sent is older than what is sent now.
	if err := w.s.settle(ctx, h.Machine); err != nil {
		return err
	}
	if _, k, err = w.newest(h.Machine); err != nil {
		return err
	}
	// What an earlier process had begun is begun anew: it read disks that are the same now.
	dir := w.fetchDir(h)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f := failover.Fetch{Far: m, Vault: w.s.vault, Bus: w.s.bus, Point: k, Holder: h.Holder, Dir: dir, Log: w.s.log}
	if j.Result != nil && len(j.Result.Fixups) > 0 {
		f.Fixer = w.s.cfg.Azure.Fixer(w.s.log)
	}
	got, err := f.Do(ctx)
	if err != nil {
		return err
	}
	w.s.log.Info("the disks of a machine that is off were read where they are", "machine", h.Machine, "point", got.Point,
		"read", got.Read, "differed", got.Differ, "sent", got.Sent, "taken_back", len(got.Undone))
	return w.land(ctx, h, all, got.Point)
}

// fetchDir is where what differs waits on its way.
func (w wayHome) fetchDir(h Homeward) string { return filepath.Join(w.s.cfg.Dir, "home", "far-"+h.Job) }

// stayFar starts the copy again, whose agent goes on.
func (w wayHome) stayFar(ctx context.Context, h Homeward) error {
	m, err := w.s.engine.Far(ctx, h.Job)
	if err != nil {
		return err
	}
	return errors.Join(m.On(ctx), os.RemoveAll(w.fetchDir(h)))
}
