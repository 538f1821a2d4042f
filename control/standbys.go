package control

import (
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/health"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/standby"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/streams/wire"
)

// kindStandby is the kind of the event that tells that a machine's copies in Azure are not
// kept near its points.
const kindStandby = "standby-behind"

// openStandby makes what keeps copies of disks in Azure.
func (s *Service) openStandby() *standby.Keeper {
	return standby.New(standby.Config{
		Vault: s.vault, Points: s.points, Want: s.standbyWanted, Trouble: s.standbyTrouble, Log: s.log,
		Every: s.cfg.StandbyEvery,
		Azure: func() (azure.Config, error) {
			c := s.cfg.Azure.Config
			place, err := azure.ReadPlace(s.cfg.Azure.File)
			c.Place, c.Log = place.Over(c.Place), s.log
			return c, err
		},
	})
}

// keepStandby keeps copies near their machines' points, until control stops.
func (s *Service) keepStandby() {
	for s.sleep(s.cfg.StandbyEvery) {
		// What fails is told by machine, see standbyTrouble.
		_ = s.standby.Step(s.base)
	}
}

// standbyWanted says of every machine that is to have copies how far they may be behind.
func (s *Service) standbyWanted() map[string]time.Duration {
	r, out := s.rules.Load(), map[string]time.Duration{}
	for _, p := range s.state.pointsOf("") {
		for i := range p.Machines {
			m := p.Machines[i].Machine
			if _, ok := out[m]; ok {
				continue
			}
			if l := s.lives.get(m); l.Phase == life.Disabling || l.Phase == life.Disabled || l.Phase == life.Migrated {
				continue
			}
			if d := r.policyOf(m).StandbyInterval; d > 0 {
				out[m] = time.Duration(d)
			}
		}
	}
	return out
}

// standbyTrouble tells that copies are not brought on, or are again.
func (s *Service) standbyTrouble(machine string, err error) {
	e := &wire.Event{Time: time.Now().UnixNano(), Machine: machine, Kind: kindStandby, Severity: wire.Info, What: "its standby disks in Azure are brought on again"}
	if err != nil {
		e.Severity, e.Try = wire.Warning, "leeward machine show "+machine
		e.What = clip(fmt.Sprintf("its standby disks in Azure are not brought on: %v", err))
	}
	s.publish(s.base, "", e)
}

// showStandby adds what is kept of a machine's disks, and warns when that is too old: a
// failover would have to send more than was planned.
func (s *Service) showStandby(now time.Time, m *api.Machine, all []standby.State) {
	for _, k := range all {
		if k.Machine != m.Machine {
			continue
		}
		d := api.Standby{Disk: k.Disk, Point: k.Point, Time: k.Time, LimitSeconds: k.Limit.Seconds(), SentBytes: k.Sent, LookedBytes: k.Looked, Error: k.Error,
			Target: k.Where, SizeBytes: k.Size, Held: k.Held, Going: k.Going, LastTime: k.Brought, Next: k.Next}
		if !k.Brought.IsZero() {
			d.LastBytes = &k.Last
		}
		if m.LatestPoint != nil && !k.Time.IsZero() {
			d.BehindSeconds = max(0, m.LatestPoint.Time.Sub(k.Time).Seconds())
		}
		m.Standby = append(m.Standby, d)
		why := ""
		switch {
		case k.Error != "":
			why = "it is not brought on: " + k.Error
		case k.Limit > 0 && d.BehindSeconds > 2*k.Limit.Seconds()+s.cfg.StandbyEvery.Seconds():
			why = fmt.Sprintf("it is %v behind the newest point, %v are allowed", time.Duration(d.BehindSeconds*float64(time.Second)).Round(time.Second), k.Limit)
		default:
			continue
		}
		if m.Health != health.NotApplicable {
			m.Health = health.Worse(m.Health, health.Warning)
			m.Issues = append(m.Issues, health.Issue{
				Code: kindStandby, Level: health.Warning, Machine: m.Machine, Disk: k.Disk, Cause: "the standby disk in Azure is too old: " + why,
				Remedy: "see docs/ops/azure.md, or give its policy a longer standby_interval",
			})
		}
	}
}

// standbyMetrics describes the copies.
func standbyMetrics(now time.Time, all []standby.State) []console.Family {
	age := console.Family{Name: "leeward_standby_age_seconds", Help: "Age of the recovery point that a standby disk in Azure is like", Kind: console.Gauge}
	sent := console.Family{Name: "leeward_standby_sent_bytes_total", Help: "Bytes that were sent to a standby disk in Azure", Kind: console.Counter}
	failed := console.Family{Name: "leeward_standby_failing", Help: "1 while a standby disk in Azure is not brought on", Kind: console.Gauge}
	for _, k := range all {
		labels := []string{"machine", k.Machine, "disk", k.Disk}
		if !k.Time.IsZero() {
			age.Samples = append(age.Samples, console.Sample{Labels: labels, Value: now.Sub(k.Time).Seconds()})
		}
		sent.Samples = append(sent.Samples, console.Sample{Labels: labels, Value: float64(k.Sent)})
		failed.Samples = append(failed.Samples, console.Sample{Labels: labels, Value: one(k.Error != "")})
	}
	return []console.Family{age, sent, failed}
}
