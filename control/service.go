package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/control/history"
	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/control/standby"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/wire"
)

// kindPoint is the kind of the event that tells of a new recovery point.
const kindPoint = "point"

const (
	// lookEvery is how often the vault is asked about markers whose receipt did not come,
	// lookAt for about how many cuts at most: with the appliance's store that is nothing,
	// and with a store that is paid by the question it is little.
	lookEvery   = 3 * time.Second
	lookAt      = 32
	retryEvery  = 2 * time.Second
	publishTime = 5 * time.Second
)

// Service is the control role. It implements api.Backend.
type Service struct {
	desk
	cfg     Config
	bus     *bus.Bus
	vault   *vault.Vault
	log     *slog.Logger
	state   *state
	decider *decider
	engine  *failover.Engine
	memory  *memory
	enrol   *enrol.Service // nil: no agents are let in
	home    Home           // nil: there is no way home
	standby *standby.Keeper

	history    *history.History
	sessions   *session.Service
	consoleURL atomic.Value // string

	base    context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	ready   chan struct{} // closed when the state is rebuilt
	marked  atomic.Uint64 // sequence of the newest marker that was taken in
	reading atomic.Bool   // markers are being read again
	stops   []func()      // of the readers, owned by the goroutine that follows
}

// New makes the service; it reads nothing but the jobs below cfg.Dir yet.
func New(cfg Config, b *bus.Bus, v *vault.Vault, log *slog.Logger) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, bus: b, vault: v, log: log, state: newState(), memory: newMemory(), ready: make(chan struct{})}
	s.history, s.sessions = history.New(), session.New(b.JS, nil)
	s.base, s.cancel = context.WithCancel(context.Background())
	s.decider = newDecider(s)
	s.desk.open(s)
	if s.home = cfg.Home; s.home == nil && cfg.Keeper.Bus != "" {
		s.home = wayHome{s}
	}
	cfg.Azure.File = cmp.Or(cfg.Azure.File, filepath.Join(cfg.Dir, "azure.yaml"))
	cfg.Azure.Config.Owner = v.ID()
	s.cfg.Azure = cfg.Azure
	s.standby = s.openStandby()
	ec := failover.Config{
		Dir: filepath.Join(cfg.Dir, "jobs"), Vault: v, Log: log, Adopt: cfg.Azure.Adopt(log, cfg.Keeper),
		Points: s.points, Settle: s.settle, Target: cfg.Keeper.Keep(failover.Targets(log, cfg.Azure)), Changed: s.jobChanged, Revived: s.copyRevived,
	}
	if cfg.targets != nil {
		ec.Target, ec.Adopt = cfg.targets, cfg.adopt
	}
	var err error
	s.engine, err = failover.New(ec)
	if err != nil {
		s.cancel()
		return nil, err
	}
	return s, nil
}

// Start begins to rebuild the state and to follow the streams, in the background.
func (s *Service) Start(context.Context) error {
	for range s.cfg.Lookups {
		s.wg.Go(func() { s.decider.worker(s.base) })
	}
	s.wg.Go(s.run)
	return nil
}

// Stop ends the machines of test failovers but not those that were failed over, stops reading, and waits. Markers that
// are not decided stay in the stream.
func (s *Service) Stop(ctx context.Context) error {
	s.lives.stop() // first: that the engine stops is no failure of a failover
	err := s.engine.Stop(ctx)
	s.cancel()
	s.decider.close()
	s.hush()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("control is still at work: %w", ctx.Err()))
	}
	return err
}

// Ready is closed when the state is rebuilt after a start.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// run rebuilds the state, trying until it succeeds, and then follows the streams
// until the service is stopped.
func (s *Service) run() {
	defer s.unfollow()
	for {
		err := s.rebuild(s.base)
		if err == nil {
			break
		}
		s.unfollow()
		if s.base.Err() != nil {
			return
		}
		s.log.Error("control cannot start, trying again", "err", err)
		if !s.sleep(retryEvery) {
			return
		}
	}
	s.runs.resume()
	close(s.ready)
	s.lives.resume()
	s.wg.Go(s.guide)
	s.wg.Go(s.retell)
	s.wg.Go(s.ration)
	s.wg.Go(s.notify)
	s.wg.Go(s.tidy)
	s.wg.Go(s.remember)
	s.wg.Go(s.drillLoop)
	s.wg.Go(s.sample)
	s.wg.Go(s.keepStandby)
	for s.sleep(lookEvery) {
		s.decider.look()
	}
}

func (s *Service) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.base.Done():
		return false
	case <-t.C:
		return true
	}
}

func (s *Service) unfollow() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
	s.stops = nil
}

func (s *Service) rebuild(ctx context.Context) error {
	start := time.Now()
	all, damaged, err := s.vault.Points(ctx, "")
	if err != nil {
		return fmt.Errorf("list the vault's recovery points: %w", err)
	}
	for _, err := range damaged {
		s.log.Error("recovery point is damaged, run leeward vault check", "err", err)
	}
	for _, p := range all {
		s.state.point(p)
	}
	if err := s.followBook(ctx); err != nil {
		return err
	}
	if err := s.follow(ctx); err != nil {
		return err
	}
	s.decider.recheck()
	s.log.Info("control follows the streams", "points", len(all), "damaged", len(damaged), "took", time.Since(start).Round(time.Millisecond))
	return nil
}

func (s *Service) points(context.Context) ([]*vault.Point, error) { return s.state.pointsOf(""), nil }

// publish tells of something. It is told in the log too if the bus does not take it.
func (s *Service) publish(ctx context.Context, id string, e *wire.Event) {
	s.publishTraced(ctx, id, "", e)
}

// publishTraced is publish for an event of a trace.
func (s *Service) publishTraced(ctx context.Context, id, trace string, e *wire.Event) {
	if err := publishEvent(ctx, s.bus, id, trace, e); err != nil {
		s.log.Error("cannot publish an event", "machine", e.Machine, "kind", e.Kind, "what", e.What, "err", err)
	}
}

// Tell publishes an event for who is no service (yet), also into the log if the bus does not
// take it.
func Tell(ctx context.Context, b *bus.Bus, log *slog.Logger, e *wire.Event) {
	if err := publishEvent(ctx, b, "", "", e); err != nil {
		log.Error("cannot publish an event", "machine", e.Machine, "kind", e.Kind, "what", e.What, "err", err)
	}
}

func publishEvent(ctx context.Context, to *bus.Bus, id, trace string, e *wire.Event) error {
	b, err := wire.Encode(e)
	if err == nil {
		m := nats.NewMsg(streams.EventsSubject(e.Machine, e.Kind))
		m.Data = b
		m.Header = nats.Header{
			"Leeward-Kind": {"event"}, "Leeward-Machine": {e.Machine}, "Leeward-Event": {e.Kind}, "Leeward-Severity": {string(e.Severity)},
		}
		if trace != "" {
			m.Header[streams.TraceHeader] = []string{trace}
		}
		var opts []jetstream.PublishOpt
		if id != "" {
			opts = append(opts, jetstream.WithMsgID(id))
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTime)
		defer cancel()
		_, err = to.JS.PublishMsg(ctx, m, opts...)
	}
	return err
}

func (s *Service) ack(point string, m jetstream.Msg) {
	if m == nil {
		return // read again at start: acknowledged when it is delivered
	}
	if err := m.Ack(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		s.log.Warn("cannot acknowledge a marker; it will be delivered again", "point", point, "err", err)
	}
}

// jobChanged tells of the verdicts of test failovers. What becomes of the others is told
// with the life of their machine.
func (s *Service) jobChanged(j failover.Job) {
	if !j.State.Running() {
		s.memory.due()
	}
	if j.Kind == failover.RealFailover || j.State != failover.Alive && j.State != failover.Failed && j.State != failover.Cleaned {
		return
	}
	e := &wire.Event{
		Time: j.Updated.UnixNano(), Machine: j.Request.Machine, Kind: "test-failover", Severity: wire.Info,
		What: fmt.Sprintf("test failover %s of point %s is %s", j.ID, j.Point, j.State),
	}
	switch j.State {
	case failover.Alive:
		e.Try = "leeward failover cleanup " + j.ID
	case failover.Failed:
		e.Severity, e.Try = wire.Warning, "leeward job show "+j.ID
		if what := e.What + ": " + j.Error; len(what) <= wire.MaxText {
			e.What = what
		}
	}
	s.publishTraced(s.base, fmt.Sprintf("job-%s-%s", j.ID, j.State), streams.Traceparent("job", j.ID, string(j.State)), e)
}

// kindRevived is the kind of the events that tell that the copy of a machine had ended by
// accident and was started again.
const kindRevived = "copy-restarted"

// copyRevived tells of it.
func (s *Service) copyRevived(j failover.Job, err error) {
	e := &wire.Event{
		Time: time.Now().UnixNano(), Machine: j.Request.Machine, Kind: kindRevived, Severity: wire.Warning, Try: "leeward job show " + j.ID,
		What: fmt.Sprintf("machine %s, which was failed over, had ended with its keeper: it was started again from what it had put on its disks, and lives", j.Request.Machine),
	}
	if err != nil {
		e.Severity = wire.Critical
		e.What = clip(fmt.Sprintf("machine %s, which was failed over, has ended with its keeper and could not be started again: %v", j.Request.Machine, err))
	}
	s.publishTraced(s.base, fmt.Sprintf("job-%s-revived-%d", j.ID, j.Revision), streams.Traceparent("job", j.ID, "revived"), e)
}
