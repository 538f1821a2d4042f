package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/quiesce"
	"github.com/leeward-dr/leeward/streams/wire"
)

// freeze is what is frozen for a cut, and what is not.
type freeze struct {
	frozen *quiesce.Frozen // nil if nothing is frozen
	usage  []*disk.Usage   // of each replica
	not    map[string]string
}

// inspect lists what is on the protected disks now.
func (a *Agent) inspect() ([]*disk.Usage, error) {
	all := make([]*disk.Usage, len(a.replicas))
	for i, r := range a.replicas {
		u, err := disk.Inspect(r.dev)
		if err != nil {
			return nil, err
		}
		all[i] = u
	}
	return all, nil
}

func mountsOf(usage []*disk.Usage) []disk.Mount {
	var all []disk.Mount
	for _, u := range usage {
		all = append(all, u.Mounts...)
	}
	return all
}

// errMounted means that a point is not of what was frozen for it.
var errMounted = errors.New("something was mounted while the point was made")

// mounted says whether anything uses the protected disks that did not when the point was
// begun: it was not frozen, and nobody was told. It is asked after the thaw, because what
// was mounted while all stood still is still there, and looking takes time.
func (a *Agent) mounted(before []*disk.Usage) error {
	after, err := a.inspect()
	if err != nil {
		return err
	}
	for i, u := range after {
		if what := appeared(before[i], u); what != "" {
			return fmt.Errorf("disk %s: %w: %s", a.replicas[i].name, errMounted, what)
		}
	}
	return nil
}

// appeared names something that uses a disk after and did not before, "" if nothing does.
func appeared(before, after *disk.Usage) string {
	for _, m := range after.Mounts {
		if !slices.ContainsFunc(before.Mounts, func(x disk.Mount) bool { return x.Major == m.Major && x.Minor == m.Minor }) {
			return m.Path
		}
	}
	for _, s := range after.Swaps {
		if !slices.Contains(before.Swaps, s) {
			return "swap " + s.Path
		}
	}
	for _, h := range after.Hidden {
		if !slices.Contains(before.Hidden, h) {
			return h
		}
	}
	return ""
}

// freeze freezes every filesystem of the protected disks that can be frozen safely.
// One that cannot is left running, and the point says so: it is only made if the
// disk happens to be still for long enough.
func (a *Agent) freeze(ctx context.Context, usage []*disk.Usage) (*freeze, error) {
	f := &freeze{usage: usage, not: map[string]string{}}
	mounts := mountsOf(usage)
	for len(mounts) > 0 {
		frozen, err := a.freezer.Freeze(ctx, mounts)
		var refused *quiesce.Refused
		if errors.As(err, &refused) {
			f.not[refused.Mount.Path] = refused.Reason
			a.refused(refused)
			mounts = without(mounts, refused.Mount.Path)
			continue
		}
		if err != nil {
			return nil, err
		}
		f.frozen = frozen
		for _, s := range frozen.Skipped() {
			f.not[s.Mount.Path] = s.Reason
		}
		break
	}
	return f, nil
}

// refused tells the operator once about a filesystem that is never frozen.
func (a *Agent) refused(r *quiesce.Refused) {
	if a.told == nil {
		a.told = map[string]bool{}
	}
	if a.told[r.Mount.Path+r.Reason] {
		return
	}
	a.told[r.Mount.Path+r.Reason] = true
	a.log.Warn("filesystem is not frozen for points", "mount", r.Mount.Path, "reason", r.Reason)
	a.event("not-frozen", wire.Warning, "", r.Error(), "points are made only when the disk is still for a moment; move what is in the way to another disk")
}

func without(mounts []disk.Mount, path string) []disk.Mount {
	var left []disk.Mount
	for _, m := range mounts {
		if m.Path != path {
			left = append(left, m)
		}
	}
	return left
}

// describe says whether everything on the disk of replica i is frozen, and if not,
// what is not.
func (f *freeze) describe(i int) (bool, string) {
	u := f.usage[i]
	if len(u.Mounts) == 0 {
		return false, "no mounted filesystem: writes in flight may be missing, as after a power failure"
	}
	var not []string
	for _, m := range u.Mounts {
		if why, ok := f.not[m.Path]; ok {
			not = append(not, m.Path+" ("+why+")")
		}
	}
	for _, s := range u.Swaps {
		not = append(not, "swap "+s.Path)
	}
	not = append(not, u.Hidden...)
	if len(not) > 0 {
		return false, clip("not frozen: " + strings.Join(not, ", "))
	}
	return true, ""
}
