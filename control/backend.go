package control

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/drill"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/streams"
)

var _ api.Backend = (*Service)(nil)

// waitReady waits until the state is rebuilt: an answer from half a state would
// say that points are missing.
func (s *Service) waitReady(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return api.Errorf(api.CodeTimeout, "ask again in a moment", "control is still reading the vault and the streams")
	case <-s.base.Done():
		return api.Errorf(api.CodeNoConnection, "start it again with: leeward up", "control is stopping")
	}
}

// Status implements api.Backend. It answers while the state is being rebuilt too.
func (s *Service) Status(ctx context.Context) (*api.Status, error) {
	out := &api.Status{
		Schema: "leeward.status.v1", Time: time.Now().UTC(), Version: s.cfg.Version, Health: health.Healthy,
		ByHealth: map[string]int{}, Issues: []health.Issue{}, PendingMarkers: s.decider.pending(),
		Vault: api.VaultInfo{ID: s.vault.ID(), URL: s.vault.Store().URL()},
	}
	select {
	case <-s.ready:
		out.Ready = true
	default:
	}
	for _, m := range s.machinesNow(out.Time, "") {
		out.Machines++
		if m.Agent != nil {
			out.WaitingBytes += m.Agent.WaitingBytes
		}
		out.ByHealth[string(m.Health)]++
		out.Health = health.Worse(out.Health, m.Health)
		out.Issues = append(out.Issues, m.Issues...)
		if m.RPO != nil && (out.WorstRPO == nil || *m.RPO > *out.WorstRPO) {
			out.WorstRPO = m.RPO
		}
	}
	slices.SortStableFunc(out.Issues, func(a, b health.Issue) int {
		return cmp.Compare(health.Rank(b.Level), health.Rank(a.Level))
	})
	out.Issues = out.Issues[:min(len(out.Issues), 100)]
	out.Points = s.state.count()
	out.Vault.Points = out.Points
	for _, j := range s.engine.Jobs() {
		switch {
		case j.State.Running():
			out.JobsRunning++
		case j.State.Waiting() && j.Kind != failover.RealFailover:
			out.JobsWaiting++
		}
	}
	changes, err := s.changeStreams(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range changes {
		out.BacklogBytes += st.CachedInfo().State.Bytes
		out.BacklogMessages += st.CachedInfo().State.Msgs
	}
	return out, nil
}

// Machines implements api.Backend.
func (s *Service) Machines(ctx context.Context, q api.Query) ([]api.Machine, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	all := s.machinesNow(time.Now().UTC(), q.Machine)
	tests, good := map[string]*api.TestRef{}, map[string]bool{}
	since := time.Now().Add(-drill.Recommended)
	for _, j := range s.engine.Jobs() {
		if j.Kind == failover.RealFailover {
			continue
		}
		tests[j.Request.Machine] = &api.TestRef{Job: j.ID, State: j.State, Alive: j.Result != nil && j.Result.Alive, Time: j.Started}
		good[j.Request.Machine] = good[j.Request.Machine] || j.Result != nil && j.Result.Alive && j.Started.After(since)
	}
	for i := range all {
		m := &all[i]
		m.LastTest, m.TestRecommended = tests[m.Machine], m.Points > 0 && !good[m.Machine]
		for k, d := range m.Disks {
			m.PendingMarkers = max(m.PendingMarkers, s.decider.waiting(vault.DiskID{Machine: m.Machine, Disk: d.Disk}))
			n, err := s.backlog(ctx, m.Machine, d.Disk, len(all))
			if err != nil {
				return nil, err
			}
			m.Disks[k].BacklogMessages = n
		}
	}
	return all, nil
}

// backlog counts the messages of a disk that are not in the vault. It costs a
// request, so lists of many machines go without.
func (s *Service) backlog(ctx context.Context, machine, disk string, machines int) (*uint64, error) {
	if machines > 20 {
		return nil, nil
	}
	n, _, err := s.waitingChanges(ctx, machine, disk)
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// Points implements api.Backend.
func (s *Service) Points(ctx context.Context, q api.Query) ([]api.Point, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	if q.Machine != "" && !s.state.knows(q.Machine) {
		return nil, api.Errorf(api.CodeNotFound, "leeward machine ls", "no machine or group %s is known", q.Machine)
	}
	pins, err := s.pins(ctx)
	if err != nil {
		return nil, err
	}
	all := s.state.pointsView(q)
	for i := range all {
		if pin, ok := pins[all[i].ID]; ok {
			all[i].Pinned, all[i].Name = true, pin.Name
		}
	}
	return all, nil
}

// Point implements api.Backend.
func (s *Service) Point(ctx context.Context, id string) (*api.Point, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	id, err := s.named(ctx, "", id)
	if err != nil {
		return nil, err
	}
	p, err := failover.ByID(s.state.pointsOf(""), id)
	if err != nil {
		return nil, err
	}
	out := api.PointOf(p)
	out.Schema = "leeward.point.v1"
	pins, err := s.pins(ctx)
	if err != nil {
		return nil, err
	}
	if pin, ok := pins[p.ID]; ok {
		out.Pinned, out.Name = true, pin.Name
	}
	return &out, nil
}

// Events implements api.Backend.
func (s *Service) Events(ctx context.Context, q api.Query) ([]api.Event, error) {
	if err := s.waitReady(ctx); err != nil {
		return nil, err
	}
	return s.state.eventsView(q), nil
}

// Test implements api.Backend.
func (s *Service) Test(ctx context.Context, r failover.Request) (failover.Job, error) {
	if err := s.waitReady(ctx); err != nil {
		return failover.Job{}, err
	}
	if !s.state.knows(r.Machine) {
		return failover.Job{}, api.Errorf(api.CodeNotFound, "leeward machine ls", "no machine %s is known", r.Machine)
	}
	id, err := s.named(ctx, r.Machine, r.Point)
	if err != nil {
		return failover.Job{}, err
	}
	r.Point = id
	return s.engine.Test(r)
}

// cleanPatience is how long a request for a cleanup waits for its end. In Azure it takes
// minutes: who asked is then told that the job is being cleaned, and watches it.
const cleanPatience = 20 * time.Second

// Cleanup implements api.Backend. A machine that was failed over is no test to clean up.
func (s *Service) Cleanup(ctx context.Context, id string) (failover.Job, error) {
	if j, err := s.engine.Job(id); err == nil && j.Kind == failover.RealFailover && j.State != failover.Cleaned {
		return failover.Job{}, api.Errorf(api.CodeRefused, "leeward failover cancel "+j.Request.Machine,
			"job %s is no test: it keeps machine %s, which was failed over", id, j.Request.Machine)
	}
	var j failover.Job
	var err error
	done := make(chan struct{})
	s.wg.Go(func() {
		defer close(done)
		j, err = s.engine.Cleanup(context.WithoutCancel(ctx), id)
	})
	patience := time.After(cleanPatience)
	for {
		select {
		case <-done:
			return j, err
		case <-ctx.Done():
			return failover.Job{}, fmt.Errorf("clean up job %s: %w", id, ctx.Err())
		case <-patience:
		}
		if now, err := s.engine.Job(id); err != nil || now.State == failover.Cleaning {
			return now, err
		}
		patience = time.After(cleanPatience / 100) // its run is still being ended
	}
}

// Note implements api.Backend.
func (s *Service) Note(_ context.Context, r api.NoteRequest) (failover.Job, error) {
	return s.engine.Note(r.ID, r.Notes)
}

// Jobs implements api.Backend.
func (s *Service) Jobs(_ context.Context, q api.Query) ([]failover.Job, error) {
	return slices.DeleteFunc(s.engine.Jobs(), func(j failover.Job) bool {
		return q.Machine != "" && j.Request.Machine != q.Machine || j.Started.Before(q.Since)
	}), nil
}

// Job implements api.Backend.
func (s *Service) Job(_ context.Context, id string) (failover.Job, error) { return s.engine.Job(id) }

// WatchJob implements api.Backend.
func (s *Service) WatchJob(ctx context.Context, id string, after uint64) (failover.Job, error) {
	return s.engine.Watch(ctx, id, after)
}

// Vault implements api.Backend.
func (s *Service) Vault(ctx context.Context) (*api.VaultInfo, error) {
	disks, err := s.vault.Disks(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the vault's disks: %w", err)
	}
	out := &api.VaultInfo{Schema: "leeward.vault.v1", ID: s.vault.ID(), URL: s.vault.Store().URL(), Points: s.state.count()}
	for _, d := range disks {
		out.Disks = append(out.Disks, d.String())
	}
	return out, nil
}

// Streams implements api.Backend.
func (s *Service) Streams(ctx context.Context) ([]api.Stream, error) {
	var out []api.Stream
	pools, err := streams.Pools(ctx, s.bus.JS)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pools {
		names = append(names, p.Stream())
	}
	for _, name := range append(names, streams.Markers, streams.Receipts, streams.Events, streams.Audit) {
		st, err := s.bus.JS.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
		i := st.CachedInfo()
		out = append(out, api.Stream{
			Name: name, Messages: i.State.Msgs, Bytes: i.State.Bytes, MaxBytes: i.Config.MaxBytes,
			First: i.State.FirstTime, Last: i.State.LastTime, About: i.Config.Description,
		})
	}
	return out, nil
}

// disksOf lists the disks of a machine.
func (s *state) disksOf(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[name]
	if m == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(m.disks))
}

// knows reports whether a machine or group of that name is known.
func (s *state) knows(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.machines[name] != nil || slices.ContainsFunc(s.points, func(p *vault.Point) bool { return p.Group == name })
}

func (s *state) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.points)
}
