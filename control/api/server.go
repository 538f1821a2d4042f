package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/failover"
	"github.com/leeward-dr/leeward/streams"
)

// Service is the name of the micro service and Prefix the start of its subjects.
const (
	Service = "leeward-control"
	Prefix  = "leeward.api"
)

// Backend is what the endpoints ask. Lists are complete and in the order that
// package api documents; Query.Limit and Query.Cursor are not its business.
type Backend interface {
	Status(ctx context.Context) (*Status, error)
	Machines(ctx context.Context, q Query) ([]Machine, error)
	Points(ctx context.Context, q Query) ([]Point, error)
	Point(ctx context.Context, id string) (*Point, error)
	Events(ctx context.Context, q Query) ([]Event, error)
	Test(ctx context.Context, r failover.Request) (failover.Job, error)
	Cleanup(ctx context.Context, id string) (failover.Job, error)
	Note(ctx context.Context, r NoteRequest) (failover.Job, error)
	Jobs(ctx context.Context, q Query) ([]failover.Job, error)
	Job(ctx context.Context, id string) (failover.Job, error)
	WatchJob(ctx context.Context, id string, after uint64) (failover.Job, error)
	Vault(ctx context.Context) (*VaultInfo, error)
	Streams(ctx context.Context) ([]Stream, error)
	Manager
	Lives
	Driller
}

const (
	maxRequest = 256 << 10
	maxBusy    = 64               // requests at once; more wait
	watchTime  = 20 * time.Second // longest wait of job.show
	workTime   = 2 * time.Minute  // longest any other request may take
)

// Server answers requests.
type Server struct {
	backend Backend
	log     *slog.Logger
	svc     micro.Service
	base    context.Context
	cancel  context.CancelFunc
	busy    chan struct{}
	wg      sync.WaitGroup
}

// Serve registers the service on nc. version is a semantic version.
func Serve(nc *nats.Conn, b Backend, version string, log *slog.Logger) (*Server, error) {
	s := &Server{backend: b, log: log, busy: make(chan struct{}, maxBusy)}
	s.base, s.cancel = context.WithCancel(context.Background())
	svc, err := micro.AddService(nc, micro.Config{
		Name: Service, Version: version, Description: "recovery points, health and failover",
	})
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("register the service %s: %w", Service, err)
	}
	s.svc = svc
	for _, e := range s.all() {
		err := svc.AddEndpoint(strings.ReplaceAll(e.name(), ".", "-"), micro.HandlerFunc(s.handler(e)),
			micro.WithEndpointSubject(Prefix+"."+e.name()), micro.WithEndpointMetadata(e.metadata()))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("register %s: %w", e.name(), err), s.Stop(context.Background()))
		}
	}
	return s, nil
}

// Stop takes the service off the bus and waits for the requests in work.
func (s *Server) Stop(ctx context.Context) error {
	err := s.svc.Stop()
	s.cancel()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("requests are still in work: %w", ctx.Err()))
	}
	return err
}

// all lists the endpoints, in the order of their names.
func (s *Server) all() []endpoint {
	all := slices.Concat(s.endpoints(), s.managed(), s.drills(), s.lives(), s.enrolment(), s.tracing(), s.contracts(), s.sessions(), s.histories(), s.witnessed())
	for _, e := range all {
		if e.hosted() {
			e.trusted = true
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b endpoint) int { return strings.Compare(a.name(), b.name()) })
	return all
}

// handler runs each request in its own goroutine: one that waits must not hold up
// the others of its endpoint.
func (s *Server) handler(e endpoint) func(micro.Request) {
	return func(r micro.Request) {
		select {
		case s.busy <- struct{}{}:
		case <-s.base.Done():
			return
		}
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			defer func() { <-s.busy }()
			s.answer(e, r)
		}()
	}
}

func (s *Server) answer(e endpoint, r micro.Request) {
	ctx, cancel := context.WithTimeout(WithActor(s.base, actor(r)), workTime)
	defer cancel()
	if e.trusted {
		ctx = context.WithValue(ctx, trustedKey{}, true)
	}
	var v any
	var err error
	if streams.Copied(nats.Header(r.Headers())) {
		s.log.Warn("a copy of a stored message came as a request and is refused", "subject", r.Subject())
		return // it did not ask, and says nothing of who had it sent
	}
	if n := len(r.Data()); n > maxRequest {
		err = Errorf(CodeUsage, "", "the request has %d bytes, at most %d", n, maxRequest)
	} else {
		v, err = e.serve(ctx, r.Data())
		s.audit(ctx, e, r, v, err)
	}
	if err == nil {
		var b []byte
		if b, err = json.Marshal(v); err == nil {
			err = r.Respond(b)
		}
		if err == nil {
			return
		}
	}
	fail := AsError(err)
	body, merr := json.Marshal(fail)
	if rerr := r.Error(string(fail.Code), fail.Message, body); rerr != nil || merr != nil {
		s.log.Warn("cannot answer", "subject", r.Subject(), "err", errors.Join(rerr, merr))
	}
}

// in decodes a request; an empty body is a zero T. Unknown fields are refused, so
// that a typing error is not taken for "everything".
func in[T any](body []byte) (T, error) {
	var v T
	if len(body) == 0 {
		return v, nil
	}
	if err := strict(body, &v); err != nil {
		return v, Errorf(CodeUsage, "", "the request is not the JSON that this endpoint wants: %v", err)
	}
	return v, nil
}
