package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/hydrate"
)

// Lives implements api.Lives.
func (s *Service) Lives(ctx context.Context, q api.Query) ([]life.Life, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	out := []life.Life{}
	for _, l := range s.lives.list() {
		if q.Machine == "" || q.Machine == l.Machine {
			out = append(out, *l.Clone())
		}
	}
	return out, nil
}

// Life implements api.Lives.
func (s *Service) Life(ctx context.Context, machine string) (*life.Life, error) {
	if err := s.known(ctx, machine); err != nil {
		return nil, err
	}
	return shown(s.lives.get(machine)), nil
}

// WatchLife implements api.Lives.
func (s *Service) WatchLife(ctx context.Context, machine string, after uint64) (*life.Life, error) {
	if err := s.known(ctx, machine); err != nil {
		return nil, err
	}
	l, err := s.lives.watch(ctx, machine, after)
	return shown(l), err
}

func shown(l *life.Life) *life.Life {
	c := l.Clone()
	c.Schema = "leeward.life.v1"
	return c
}

// known reports an error unless a machine of that name is known.
func (s *Service) known(ctx context.Context, machine string) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	if !s.state.knowsMachine(machine) && s.lives.get(machine).Attempt == 0 {
		return api.Errorf(api.CodeNotFound, "leeward machine ls", "no machine %s is known", machine)
	}
	return nil
}

// askedFor returns the machines that a request is for.
func (s *Service) askedFor(ctx context.Context, r api.LifeRequest) ([]string, error) {
	switch {
	case r.Machine == "" && r.Group == "" || r.Machine != "" && r.Group != "":
		return nil, api.Errorf(api.CodeUsage, "", "name a machine or a group")
	case r.Machine != "":
		return []string{r.Machine}, s.known(ctx, r.Machine)
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	g := s.rules.Load().group(r.Group)
	if g == nil || len(g.Members) == 0 {
		return nil, api.Errorf(api.CodeNotFound, "leeward group ls", "there is no group %s with machines", r.Group)
	}
	for _, m := range g.Members {
		if err := s.known(ctx, m); err != nil {
			return nil, err
		}
	}
	return slices.Clone(g.Members), nil
}

// mustConfirm are the requests that stop a machine or lose something.
func mustConfirm(kind life.Kind, p life.Phase, r api.LifeRequest) bool {
	switch kind {
	case life.Start, life.Complete:
		return true
	case life.Disable:
		return r.DropHistory
	case life.Cancel:
		return p.Fenced() // a copy is ended, or one that was written at home given up
	case life.Change:
		return true
	}
	return false
}

// AskLife implements api.Lives: it takes machines a step further. Of a group, either all
// can take it or none does.
func (s *Service) AskLife(ctx context.Context, kind life.Kind, r api.LifeRequest) ([]life.Life, error) {
	machines, err := s.askedFor(ctx, r)
	if err != nil {
		return nil, err
	}
	s.editing.Lock()
	defer s.editing.Unlock()
	e := life.Event{Kind: kind, By: api.ActorOf(ctx).Name, Order: r.Order}
	e.Order.Together = nil
	if kind == life.Start && r.Planned && r.Group != "" && len(machines) > 1 {
		e.Order.Together = &life.Together{ID: jointID(r.ID), Group: r.Group, Members: machines}
	}
	points := map[string]string{}
	for _, m := range machines {
		l := s.lives.get(m)
		if kind == life.Start && r.ID != "" && l.Order.ID == r.ID {
			continue // asked before
		}
		if name := cmp.Or(r.Machine, r.Group); mustConfirm(kind, l.Phase, r) && r.Confirm != name {
			return nil, api.Errorf(api.CodeRefused, "repeat it with the name "+name+" as confirmation", "%s of %s is not confirmed", kind, name)
		}
		if _, err := l.Clone().Step(e); err != nil {
			return nil, api.Errorf(api.CodeRefused, "leeward failover show "+m, "%w", err)
		}
		if points[m], err = s.pointFor(ctx, kind, m, l, r); err != nil {
			return nil, err
		}
	}
	out := []life.Life{}
	for _, m := range machines {
		l := s.lives.get(m)
		if kind != life.Start || r.ID == "" || l.Order.ID != r.ID {
			e := e
			e.Point = points[m]
			if kind == life.Start && e.Point != "" {
				e.Order.Point = e.Point
			}
			if l, err = s.lives.step(m, e); err != nil {
				return out, err
			}
		}
		out = append(out, *shown(l))
	}
	return out, nil
}

// jointID names a joint failover. The same request is the same one, whoever asks again.
func jointID(request string) string {
	if request == "" {
		request = rand.Text()
	}
	return fmt.Sprintf("%x", sha256.Sum256([]byte(request)))[:16]
}

// pointFor checks what can be checked before a step: the order of a failover, and the
// point to change to, which must be good before the machine that runs is ended.
func (s *Service) pointFor(ctx context.Context, kind life.Kind, machine string, l *life.Life, r api.LifeRequest) (string, error) {
	switch kind {
	case life.Start:
		n := life.New(machine)
		n.Order = r.Order
		if err := orderOf(n).Validate(); err != nil {
			return "", api.Errorf(api.CodeUsage, "", "%w", err)
		}
		if r.Target != "" && r.Target != failover.QEMU && r.Target != failover.Cloud {
			return "", api.Errorf(api.CodeUsage, "use --target qemu or --target azure", "a failover to target %q is not possible: only machines in QEMU or in Azure are kept", r.Target)
		}
		if r.Group == "" || r.Planned {
			return "", nil
		}
		return s.common(r.Group, machine, r.Point)
	case life.Change:
		if r.Point == "" {
			return "", api.Errorf(api.CodeUsage, "leeward point ls "+machine, "name the point to change to")
		}
		word, err := s.named(ctx, machine, r.Point)
		if err != nil {
			return "", err
		}
		q := orderOf(l)
		q.Point = word
		f, err := s.engine.Validate(ctx, q)
		if err != nil {
			return "", err
		}
		return f.Point.ID, nil
	case life.Disable, life.Reprotect, life.Failback:
		if kind != life.Disable && s.home == nil {
			return "", api.Errorf(api.CodeRefused, "", "%w", errNoHome)
		}
		if kind == life.Reprotect && l.Order.Target == failover.Cloud {
			if err := s.farFrom(l); err != nil {
				return "", api.Errorf(api.CodeRefused, "leeward failover complete "+machine, "machine %s cannot be re-protected in Azure: %w", machine, err)
			}
		}
		if kind == life.Failback && len(r.Home) == 0 {
			return "", api.Errorf(api.CodeUsage, "", "say where each disk is to be written: --disk NAME=PATH")
		}
	}
	return "", nil
}

// common turns a word for a point into the id of one that all of a group share.
func (s *Service) common(group, machine, word string) (string, error) {
	members := s.rules.Load().group(group).Members
	var shared []*vault.Point
	for _, p := range s.state.pointsOf(machine) {
		if !slices.ContainsFunc(members, func(m string) bool {
			return !slices.ContainsFunc(p.Machines, func(k vault.PointMachine) bool { return k.Machine == m })
		}) {
			shared = append(shared, p)
		}
	}
	p, err := failover.Select(shared, machine, word)
	if err != nil {
		return "", api.Errorf(api.CodeNotFound, "fail its machines over one by one, or wait for a common point", "group %s: %w", group, err)
	}
	return p.ID, nil
}

// ValidateLife implements api.Lives.
func (s *Service) ValidateLife(ctx context.Context, r api.LifeRequest) (*api.Validation, error) {
	machines, err := s.askedFor(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &api.Validation{Schema: "leeward.validation.v1", Good: true}
	for _, m := range machines {
		s.validate(ctx, m, r, out)
	}
	for _, c := range out.Checks {
		out.Good = out.Good && c.Result != api.Bad
	}
	return out, nil
}

func (s *Service) validate(ctx context.Context, m string, r api.LifeRequest, out *api.Validation) {
	add := func(name string, result api.CheckResult, try, format string, args ...any) {
		out.Checks = append(out.Checks, api.LifeCheck{Machine: m, Check: name, Result: result, What: fmt.Sprintf(format, args...), Try: try})
	}
	l := s.lives.get(m)
	if _, err := l.Clone().Step(life.Event{Kind: life.Start, Order: r.Order}); err != nil {
		add("phase", api.Bad, "leeward failover show "+m, "%v", err)
	} else {
		add("phase", api.Fine, "", "it is %s", l.Phase)
	}
	n := life.New(m)
	n.Order = r.Order
	q := orderOf(n)
	var err error
	if r.Group != "" && !r.Planned {
		q.Point, err = s.common(r.Group, m, r.Point)
	} else {
		q.Point, err = s.named(ctx, m, q.Point)
	}
	f := new(failover.Fitness)
	if err == nil {
		f, err = s.engine.Validate(ctx, q)
	}
	switch {
	case f.Point != nil:
		add("point", api.Fine, "", "%s, %s-consistent, of %s, %s ago", f.Point.ID, f.Point.Consistency, f.Point.Time.UTC().Format(time.RFC3339), time.Since(f.Point.Time).Round(time.Second))
		if f.Short != "" {
			add("disks", api.Doubtful, "leeward event ls --machine "+m+"; leeward point ls "+m, "%s", f.Short)
		}
	case err != nil:
		add("point", api.Bad, "leeward point ls "+m, "%v", err)
	}
	if f.Point != nil && err != nil {
		add("target", api.Bad, "", "%v", err)
	} else if err == nil {
		add("target", api.Fine, "", "%s takes it: the disks are whole, %s, %s of it data", q.Target, size(f.Size), size(f.Data))
		for _, fix := range f.Fixups {
			add("fix-up", api.Fine, "", "%s", fix)
		}
	}
	if q.Target == failover.Cloud { // there nothing is written here
		s.wayBack(add, q)
	} else {
		s.room(add, f, q.Target == failover.QEMU && q.Options.Hydrate != failover.HydrateOff)
	}
	s.source(ctx, add, m, r, f.Point)
}

// room checks what the copy may write here.
func (s *Service) room(add func(string, api.CheckResult, string, string, ...any), f *failover.Fitness, copied bool) {
	var fs syscall.Statfs_t
	dir := filepath.Clean(s.cfg.Dir)
	if err := syscall.Statfs(dir, &fs); err != nil {
		add("space", api.Bad, "", "%s cannot be looked at: %v", dir, err)
		return
	}
	free := int64(fs.Bavail) * fs.Bsize
	switch {
	case free < leastRoom:
		add("space", api.Bad, "make room in "+dir, "%s are free for what the machine will write, at least %s are needed", size(free), size(leastRoom))
	case free < f.Size:
		add("space", api.Doubtful, "make room in "+dir, "%s are free: a machine that writes all of its %s would fill them", size(free), size(f.Size))
	default:
		add("space", api.Fine, "", "%s are free for what the machine will write, at most %s", size(free), size(f.Size))
	}
	if need := f.Data + hydrate.Reserve; copied && free < need {
		add("copy", api.Doubtful, "make room in "+dir+", or leave the disks in the vault: --hydrate off",
			"%s are free: for all of the %s of data to be copied here while %s stay free, %s are needed; the machine reads the rest from the vault",
			size(free), size(f.Data), size(hydrate.Reserve), size(need))
	}
}

// size writes bytes in binary units, for people.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d bytes", n)
	}
	f, i := float64(n)/1024, 0
	for ; f >= 1024 && i < len(units)-1; i++ {
		f /= 1024
	}
	return strings.Replace(fmt.Sprintf("%.1f %ciB", f, units[i]), ".0 ", " ", 1)
}

// leastRoom is the least a machine needs to boot and write its logs.
const leastRoom = 64 << 20

// source says what is known of the machine itself, and what will be lost.
func (s *Service) source(ctx context.Context, add func(string, api.CheckResult, string, string, ...any), m string, r api.LifeRequest, p *vault.Point) {
	online := s.online(m)
	switch {
	case r.Planned && !online:
		add("source", api.Bad, "fail over without --planned", "its agent is not there to make a final point")
	case r.Planned:
		add("source", api.Fine, "", "its agent is there: a final point is made, and nothing is lost")
	case online && r.Shutdown == "":
		add("source", api.Doubtful, "turn it off, or let it be turned off: --shutdown COMMAND; if it can still work, use --planned", "its agent is there: the machine runs; it will be fenced, and what it writes from now on is lost")
	case online:
		add("source", api.Fine, "", "its agent is there; the machine will be fenced and shut down")
	default:
		add("source", api.Fine, "", "its agent is silent; the machine will be fenced")
	}
	if p != nil && !r.Planned {
		pending, err := s.pendingBytes(ctx, m)
		if err != nil {
			add("loss", api.Doubtful, "", "what is on the bus is not known: %v", err)
			return
		}
		add("loss", api.Fine, "", "what was written in the last %s; about %s are on the bus", time.Since(p.Time).Round(time.Second), size(int64(pending)))
	}
}

// online reports whether an agent holds all of a machine's disks now.
func (s *Service) online(machine string) bool {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	m := s.state.machines[machine]
	if m == nil || len(m.disks) == 0 {
		return false
	}
	for _, d := range m.disks {
		if !d.held(time.Now()) {
			return false
		}
	}
	return true
}

// atHome returns the machines that are protected at home.
func (v *lives) atHome(machines []string) (home []string) {
	for _, m := range machines {
		if v.get(m).Phase == life.Protected {
			home = append(home, m)
		}
	}
	return home
}

// machinesNow describes the machines, or the one that is named, with their lives.
func (s *Service) machinesNow(now time.Time, only string) []api.Machine {
	copied := map[string]bool{}
	for _, l := range s.lives.list() {
		copied[l.Machine] = l.Phase.Copied()
	}
	all := s.state.machinesView(now, only, s.thresholds, copied)
	kept := s.standby.States()
	for i := range all {
		s.showLife(&all[i])
		s.showStandby(now, &all[i], kept)
	}
	return all
}

// showLife adds the life of a machine. One that is protected neither at home nor at the
// recovery site has no health, but for what its copy lacks.
func (s *Service) showLife(m *api.Machine) {
	l := s.lives.get(m.Machine)
	if l.Attempt == 0 {
		return
	}
	m.Life = &api.LifeRef{Phase: l.Phase, Since: l.Since, Point: l.Point, Job: l.Job, Error: l.Error}
	if !l.Phase.Away() {
		return
	}
	if !l.Phase.Copied() {
		m.Health, m.Issues = health.NotApplicable, []health.Issue{}
	}
	issue := func(code string, level health.Level, cause, try string) {
		m.Health = health.Worse(m.Health, level)
		m.Issues = append(m.Issues, health.Issue{Code: code, Level: level, Machine: m.Machine, Cause: cause, Remedy: try})
	}
	switch {
	case l.Phase == life.Down:
		issue("failover-failed", health.Critical, "its failover failed, and its source is fenced: "+l.Error, "leeward failover change-point "+m.Machine+" --point POINT, or leeward failover cancel "+m.Machine)
	case l.Failures > 0:
		issue("life-cycle-stuck", health.Warning, fmt.Sprintf("%s has failed %d times and is tried again: %s", l.Phase, l.Failures, l.Error), "leeward failover show "+m.Machine)
	}
	if l.Job == "" || !slices.Contains([]life.Phase{life.FailedOver, life.Committed, life.Ready, life.Migrated}, l.Phase) {
		return
	}
	if j, err := s.engine.Job(l.Job); err != nil || j.State != failover.Alive {
		why := cmp.Or(strings.TrimSpace(j.Error), "it is "+string(j.State))
		if errors.Is(err, failover.ErrNoJob) {
			why = "there is no job " + l.Job
		}
		issue("copy-down", health.Critical, "the machine that was failed over does not run: "+why, "leeward job show "+l.Job)
	}
}

// dropPoints removes the points that a machine cut alone, but for those that are pinned
// or in use, and returns how many went.
func (s *Service) dropPoints(ctx context.Context, machine string) (int, error) {
	m, err := s.maintain(ctx, func(group string) bool { return group == machine && s.rules.Load().group(group) == nil })
	return len(m.Removed), err
}
