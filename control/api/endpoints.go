package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"

	"github.com/leeward-dr/leeward/control/failover"
)

func strict(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more than one document")
	}
	return nil
}

// serve makes an endpoint's function of one that takes a decoded request.
func serve[T any](fn func(context.Context, T) (any, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, body []byte) (any, error) {
		v, err := in[T](body)
		if err != nil {
			return nil, err
		}
		return fn(ctx, v)
	}
}

// list makes an endpoint's function of one that returns a whole list.
func list[T any](schema string, fn func(context.Context, Query) ([]T, error)) func(context.Context, []byte) (any, error) {
	return serve(func(ctx context.Context, q Query) (any, error) {
		all, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return paginate(schema, Newest(all, q.Limit), q.Cursor)
	})
}

func (s *Server) endpoints() []endpoint {
	b := s.backend
	return append(append(s.managed(), s.drills()...), []endpoint{
		{"status", "show", serve(func(ctx context.Context, _ struct{}) (any, error) { return b.Status(ctx) })},
		{"machine", "ls", list("leeward.machines.v1", b.Machines)},
		{"machine", "show", serve(s.machine)},
		{"point", "ls", list("leeward.points.v1", b.Points)},
		{"point", "show", serve(func(ctx context.Context, r Ref) (any, error) { return b.Point(ctx, r.ID) })},
		{"event", "ls", list("leeward.events.v1", b.Events)},
		{"failover", "test", serve(func(ctx context.Context, r failover.Request) (any, error) { return b.Test(ctx, r) })},
		{"failover", "cleanup", serve(func(ctx context.Context, r Ref) (any, error) { return b.Cleanup(ctx, r.ID) })},
		{"job", "ls", list("leeward.jobs.v1", b.Jobs)},
		{"job", "show", serve(s.job)},
		{"vault", "info", serve(func(ctx context.Context, _ struct{}) (any, error) { return b.Vault(ctx) })},
		{"stream", "ls", list("leeward.streams.v1", func(ctx context.Context, _ Query) ([]Stream, error) { return b.Streams(ctx) })},
	}...)
}

func (s *Server) machine(ctx context.Context, r Ref) (any, error) {
	all, err := s.backend.Machines(ctx, Query{Machine: r.Machine})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, Errorf(CodeNotFound, "leeward machine ls", "no machine %s is known", r.Machine)
	}
	all[0].Schema = "leeward.machine.v1"
	return all[0], nil
}

// job answers at once, or when the job has changed since revision After.
func (s *Server) job(ctx context.Context, r Ref) (any, error) {
	if !r.Wait {
		return s.backend.Job(ctx, r.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	j, err := s.backend.WatchJob(ctx, r.ID, r.After)
	if errors.Is(err, context.DeadlineExceeded) {
		return j, nil // unchanged
	}
	return j, err
}
