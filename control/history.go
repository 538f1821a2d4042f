package control

import (
	"context"
	"math"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/history"
	"github.com/leeward-dr/leeward/control/session"
)

var (
	_ api.Historian  = (*Service)(nil)
	_ api.Doorkeeper = (*Service)(nil)
)

// sample notes how the machines fare, until control stops.
func (s *Service) sample() {
	for {
		s.sampleOnce(time.Now())
		if !s.sleep(history.Fine) {
			return
		}
	}
}

func (s *Service) sampleOnce(now time.Time) {
	known := map[string]bool{}
	for _, m := range s.machinesNow(now.UTC(), "") {
		known[m.Machine] = true
		v := history.Values{RPO: math.NaN(), Backlog: math.NaN()}
		if m.RPO != nil {
			v.RPO = *m.RPO
		}
		if a := m.Agent; a != nil {
			v.Said, v.Sent, v.Since, v.Backlog = true, a.SentBytes, a.Since.UnixNano(), float64(a.WaitingBytes)
			for _, d := range m.Disks {
				if d.UnconfirmedBytes != nil {
					v.Backlog += float64(*d.UnconfirmedBytes)
				}
			}
		}
		s.history.Add(m.Machine, now, v)
	}
	s.history.Forget(func(name string) bool { return known[name] })
}

// History implements api.Historian.
func (s *Service) History(ctx context.Context, machine string) (*api.History, error) {
	if err := s.known(ctx, machine); err != nil {
		return nil, err
	}
	out := &api.History{Schema: "leeward.history.v1", Machine: machine, Samples: []api.Sample{}}
	number := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	for _, p := range s.history.Of(machine) {
		out.Samples = append(out.Samples, api.Sample{Time: p.Time, RPO: number(p.RPO), Churn: number(p.Churn), Backlog: number(p.Backlog)})
	}
	return out, nil
}

const (
	processSubject = "$SRV.STATS.leeward-process"
	processQuiet   = 300 * time.Millisecond // after the last answer
	maxProcesses   = 256
)

// Processes implements api.Historian: it asks who is there, and takes all that answer
// before it is quiet.
func (s *Service) Processes(ctx context.Context) ([]api.ProcessServer, error) {
	sub, err := s.bus.Conn.SubscribeSync(s.bus.Conn.NewInbox())
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // only fails on a closed connection
	if err := s.bus.Conn.PublishMsg(&nats.Msg{Subject: processSubject, Reply: sub.Subject}); err != nil {
		return nil, err
	}
	out := []api.ProcessServer{}
	for len(out) < maxProcesses {
		qctx, cancel := context.WithTimeout(ctx, processQuiet)
		m, err := sub.NextMsgWithContext(qctx)
		cancel()
		if err != nil || len(m.Data) == 0 { // nobody is left, or nobody is there
			return out, ctx.Err()
		}
		p, err := api.ProcessOf(m.Data)
		if err != nil {
			s.log.Warn("a process server's numbers are unreadable", "err", err)
			continue
		}
		out = append(out, *p)
	}
	return out, nil
}

// Sessions implements api.Doorkeeper.
func (s *Service) Sessions() (*session.Service, string) {
	url, _ := s.consoleURL.Load().(string)
	return s.sessions, url
}

// ConsoleAt says where the console is, for those who ask for a code.
func (s *Service) ConsoleAt(url string) { s.consoleURL.Store(url) }

// Version is what this control says that it is.
func (s *Service) Version() string { return s.cfg.Version }
