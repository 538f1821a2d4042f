package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/producers/markers"
)

// ReadyNow reports why control cannot do its work: its state is not rebuilt, or it
// cannot reach the bus or the vault's store.
func (s *Service) ReadyNow(ctx context.Context) error {
	select {
	case <-s.ready:
	default:
		return fmt.Errorf("control is still reading the vault and the streams")
	}
	if !s.bus.Conn.IsConnected() {
		return fmt.Errorf("control has no connection to NATS")
	}
	if _, err := s.Streams(ctx); err != nil {
		return err
	}
	return nil
}

// Metrics describes what control knows, for Prometheus.
func (s *Service) Metrics(ctx context.Context) ([]console.Family, error) {
	out := []console.Family{{
		Name: "leeward_build_info", Help: "Version of this process", Kind: console.Gauge,
		Samples: []console.Sample{{Labels: []string{"version", s.cfg.Version}, Value: 1}},
	}}
	st, err := s.Status(ctx)
	if err != nil {
		return out, err
	}
	out = append(out,
		console.Of("leeward_points", "Recovery points that are listed", console.Gauge, float64(st.Points)),
		console.Of("leeward_markers_pending", "Recovery points on their way", console.Gauge, float64(st.PendingMarkers)),
	)
	if !st.Ready {
		return out, nil // what is half known would look like a loss
	}
	streams, err := s.Streams(ctx)
	if err != nil {
		return out, err
	}
	bytes := console.Family{Name: "leeward_stream_pending_bytes", Help: "Bytes in a stream; of CHANGES: not yet in the vault", Kind: console.Gauge}
	limit := console.Family{Name: "leeward_stream_limit_bytes", Help: "Bytes a stream may hold", Kind: console.Gauge}
	for _, x := range streams {
		bytes.Samples = append(bytes.Samples, console.Sample{Labels: []string{"stream", x.Name}, Value: float64(x.Bytes)})
		if x.MaxBytes > 0 {
			limit.Samples = append(limit.Samples, console.Sample{Labels: []string{"stream", x.Name}, Value: float64(x.MaxBytes)})
		}
	}
	out = append(out, bytes, limit)
	out = append(out, machineMetrics(s.machinesNow(time.Now().UTC(), ""), s.state.latestByConsistency())...)
	out = append(out, agentMetrics(s.agents.all())...)
	out = append(out, standbyMetrics(time.Now(), s.standby.States())...)
	return append(out, s.jobMetrics()...), nil
}

// agentMetrics describes what the agents say of themselves: they have no port.
func agentMetrics(all map[string]*markers.Needs) []console.Family {
	type value func(*markers.Needs) float64
	var out []console.Family
	names := slices.Sorted(maps.Keys(all))
	add := func(name, help string, kind console.Kind, v value) {
		f := console.Family{Name: name, Help: help, Kind: kind}
		for _, n := range names {
			f.Samples = append(f.Samples, console.Sample{Labels: []string{"machine", n}, Value: v(all[n])})
		}
		out = append(out, f)
	}
	add("leeward_agent_published_bytes_total", "Bytes that the agent has given to the bus", console.Counter, func(n *markers.Needs) float64 { return float64(n.SentBytes) })
	add("leeward_agent_points_total", "Points that the agent has cut", console.Counter, func(n *markers.Needs) float64 { return float64(n.Points) })
	add("leeward_agent_points_aborted_total", "Points that the agent has given up", console.Counter, func(n *markers.Needs) float64 { return float64(n.Aborted) })
	add("leeward_agent_capture_lost_total", "Times that tracking lost changes, so that a disk had to be compared", console.Counter, func(n *markers.Needs) float64 { return float64(n.Lost) })
	add("leeward_agent_refused_total", "Times that the bus took nothing from the agent", console.Counter, func(n *markers.Needs) float64 { return float64(n.Refused) })
	add("leeward_agent_rate_bytes", "Bytes a second that the agent may send now; 0: no bound", console.Gauge, func(n *markers.Needs) float64 { return float64(n.Rate) })
	add("leeward_agent_throttled_seconds_total", "How long the agent was held back by its rate", console.Counter, func(n *markers.Needs) float64 { return n.Waited.Seconds() })
	add("leeward_agent_heap_bytes", "Memory of the agent's objects that were in use when garbage was last collected", console.Gauge, func(n *markers.Needs) float64 { return float64(n.Heap) })
	add("leeward_agent_goroutines", "Goroutines of the agent", console.Gauge, func(n *markers.Needs) float64 { return float64(n.Goroutines) })
	acks := console.Family{Name: "leeward_agent_ack_seconds", Help: "From the cut of a disk until the bus had everything up to it", Kind: console.Histogram}
	dirty := console.Family{Name: "leeward_agent_dirty_bytes", Help: "Bytes of a disk that changed and were not sent, or are still to be compared", Kind: console.Gauge}
	sent := console.Family{Name: "leeward_agent_unconfirmed_bytes", Help: "Bytes of a disk that were sent and are not in the vault yet", Kind: console.Gauge}
	for _, name := range names {
		n := all[name]
		acks.Samples = append(acks.Samples, console.OfCounts(n.Acks, "machine", name)...)
		for _, d := range n.Disks {
			where := []string{"machine", name, "disk", d.Disk}
			dirty.Samples = append(dirty.Samples, console.Sample{Labels: where, Value: float64(d.Dirty + d.Left)})
			sent.Samples = append(sent.Samples, console.Sample{Labels: where, Value: float64(d.Unconfirmed)})
		}
	}
	return append(out, acks, dirty, sent)
}

// machineMetrics describes the machines.
func machineMetrics(all []api.Machine, latest map[string]map[string]time.Time) []console.Family {
	rpo := console.Family{Name: "leeward_rpo_seconds", Help: "Age of the newest recovery point that the vault has confirmed", Kind: console.Gauge}
	level := console.Family{Name: "leeward_health", Help: "1 for the level that the machine is at", Kind: console.Gauge}
	last := console.Family{Name: "leeward_point_last_timestamp_seconds", Help: "When the newest recovery point was cut, by consistency", Kind: console.Gauge}
	held := console.Family{Name: "leeward_agent_up", Help: "1 while an agent holds the disk", Kind: console.Gauge}
	size := console.Family{Name: "leeward_disk_bytes", Help: "Size of a protected disk", Kind: console.Gauge}
	issues := console.Family{Name: "leeward_issue", Help: "1 for each reason why a machine is not healthy, as leeward status names them", Kind: console.Gauge}
	for _, m := range all {
		issues.Samples = append(issues.Samples, issueSamples(m)...)
		if m.RPO != nil {
			rpo.Samples = append(rpo.Samples, console.Sample{Labels: []string{"machine", m.Machine}, Value: *m.RPO})
		}
		for _, l := range []health.Level{health.Healthy, health.Warning, health.Critical} {
			level.Samples = append(level.Samples, console.Sample{Labels: []string{"machine", m.Machine, "level", string(l)}, Value: one(m.Health == l)})
		}
		for consistency, at := range latest[m.Machine] {
			last.Samples = append(last.Samples, console.Sample{Labels: []string{"machine", m.Machine, "consistency", consistency}, Value: float64(at.UnixMilli()) / 1000})
		}
		for _, d := range m.Disks {
			where := []string{"machine", m.Machine, "disk", d.Disk}
			held.Samples = append(held.Samples, console.Sample{Labels: where, Value: one(d.Held)})
			size.Samples = append(size.Samples, console.Sample{Labels: where, Value: float64(d.SizeBytes)})
		}
	}
	return []console.Family{rpo, level, last, held, size, issues}
}

// issueSamples are the issues of a machine by code and disk; what several say of one disk is
// said once, at its worst.
func issueSamples(m api.Machine) (out []console.Sample) {
	said := map[[2]string]bool{}
	for _, l := range []health.Level{health.Critical, health.Warning} {
		for _, i := range m.Issues {
			if k := [2]string{i.Code, i.Disk}; i.Level == l && !said[k] {
				said[k] = true
				labels := []string{"machine", m.Machine, "code", i.Code, "level", string(l)}
				if i.Disk != "" {
					labels = append(labels, "disk", i.Disk)
				}
				out = append(out, console.Sample{Labels: labels, Value: 1})
			}
		}
	}
	return out
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// jobMetrics describes the jobs: how many in each state, and when a machine was
// tested last.
func (s *Service) jobMetrics() []console.Family {
	jobs := console.Family{Name: "leeward_jobs", Help: "Failover jobs by state", Kind: console.Gauge}
	tested := console.Family{Name: "leeward_failover_test_last_timestamp_seconds", Help: "When a test failover of the machine last came to life", Kind: console.Gauge}
	states, at := map[string]int{}, map[string]time.Time{}
	for _, j := range s.engine.Jobs() {
		states[string(j.State)]++
		if j.Result != nil && j.Result.Alive && j.Started.After(at[j.Request.Machine]) {
			at[j.Request.Machine] = j.Started
		}
	}
	for state, n := range states {
		jobs.Samples = append(jobs.Samples, console.Sample{Labels: []string{"state", state}, Value: float64(n)})
	}
	for machine, t := range at {
		tested.Samples = append(tested.Samples, console.Sample{Labels: []string{"machine", machine}, Value: float64(t.Unix())})
	}
	return []console.Family{jobs, tested}
}

// latestByConsistency is the time of each machine's newest point of each
// consistency.
func (s *state) latestByConsistency() map[string]map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]map[string]time.Time{}
	for _, p := range s.points {
		for _, m := range p.Machines {
			if out[m.Machine] == nil {
				out[m.Machine] = map[string]time.Time{}
			}
			if k := string(p.Consistency); p.Time.After(out[m.Machine][k]) {
				out[m.Machine][k] = p.Time
			}
		}
	}
	return out
}
