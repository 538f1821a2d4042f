package agent

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/producers/markers"
	"github.com/leeward-dr/leeward/streams"
)

// followPolicy asks control for the policy of this machine and takes what it says,
// now and later. Without control the agent goes by its own settings.
func (a *Agent) followPolicy() (stop func(), err error) {
	sub, err := a.bus.Conn.Subscribe(streams.PolicySet(a.cfg.Machine), func(m *nats.Msg) {
		s, err := markers.DecodeSettings(m.Data)
		if err == nil && s.Machine != a.cfg.Machine {
			err = fmt.Errorf("it is for machine %s", s.Machine)
		}
		if err != nil {
			a.log.Warn("policy not understood", "error", err)
			return
		}
		a.fence.hear(s)
		if old := a.group.policy.Swap(s); old == nil || *old != *s {
			was := a.limit.Rate()
			if own := a.cfg.RateBytes; s.Rate > 0 && (own == 0 || s.Rate < own) {
				a.SetRate(s.Rate)
			} else if old != nil && old.Rate > 0 {
				a.SetRate(own) // its own bound holds again, or is the lower one
			}
			if a.limit.Rate() != was {
				select {
				case a.board.news <- struct{}{}:
				default:
				}
			}
			a.log.Info("policy of control", "policy", s.Policy, "point_interval", s.PointInterval, "freeze_limit", s.FreezeLimit, "rate", s.Rate)
			select {
			case a.group.changed <- struct{}{}: // so that a shorter interval holds at once
			default:
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen for the policy of machine %s: %w", a.cfg.Machine, err)
	}
	if err := a.bus.Conn.Publish(streams.PolicyAsk(a.cfg.Machine), nil); err != nil {
		a.log.Warn("cannot ask for the policy", "error", err)
	}
	told, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		a.say(told)
	}()
	return func() {
		_ = sub.Unsubscribe() // only fails on a closed connection
		close(told)
		<-done
	}, nil
}

// interval is the time between points: the policy's, if control has said one.
func (a *Agent) interval() time.Duration {
	if s := a.group.policy.Load(); s != nil && s.PointInterval > 0 {
		return s.PointInterval
	}
	return a.cfg.Interval
}

// freezeLimit is the longest freeze: the machine's own limit, or the policy's if that
// is shorter.
func (a *Agent) freezeLimit() time.Duration {
	if s := a.group.policy.Load(); s != nil && s.FreezeLimit > 0 {
		return min(s.FreezeLimit, a.cfg.FreezeLimit)
	}
	return a.cfg.FreezeLimit
}

// raw reports whether compression is left to the process server: as the policy says, if
// control has said one.
func (a *Agent) raw() bool {
	at := a.cfg.CompressAt
	if s := a.group.policy.Load(); s != nil && s.CompressAt != "" {
		at = s.CompressAt
	}
	return at == "process-server"
}

// capture is how changes are found: as the policy says, if control has said one.
func (a *Agent) capture() string {
	if s := a.group.policy.Load(); s != nil && s.Capture != "" {
		return s.Capture
	}
	return a.cfg.Capture
}

// appInterval is the time between application-consistent points: the policy's, if
// control has said one, below 0 for none.
func (a *Agent) appInterval() time.Duration {
	if s := a.group.policy.Load(); s != nil && s.AppInterval != 0 {
		return s.AppInterval
	}
	return a.cfg.Apps.Interval
}
