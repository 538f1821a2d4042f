package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"

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

// An endpoint answers requests on one subject.
type endpoint struct {
	noun, verb string
	in, out    reflect.Type // of request and answer
	document   string       // schema that the answer names; "" if it names none
	serve      func(ctx context.Context, body []byte) (any, error)
	// trusted takes requests that say what is done on control's host, see trusts.
	trusted bool
}

// none is a request or an answer without fields.
type none struct{}

// ask makes an endpoint of a function.
func ask[In, Out any](noun, verb, document string, fn func(context.Context, In) (Out, error)) endpoint {
	return endpoint{
		noun: noun, verb: verb, document: document, in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](),
		serve: func(ctx context.Context, body []byte) (any, error) {
			v, err := in[In](body)
			if err == nil && trusts(noun+"."+verb) {
				err = mayTouchHost(ctx, v)
			}
			if err != nil {
				return nil, err
			}
			return fn(ctx, v)
		},
	}
}

// list makes an endpoint of a function that returns a whole list.
func list[T any](noun, verb, document string, fn func(context.Context, Query) ([]T, error)) endpoint {
	return ask(noun, verb, document, func(ctx context.Context, q Query) (*Page[T], error) {
		all, err := fn(ctx, q)
		if err != nil {
			return nil, err
		}
		return paginate(document, Newest(all, q.Limit), q.Cursor)
	})
}

// named makes an endpoint of a function that takes the name of one thing.
func named[T any](noun, verb, document string, fn func(context.Context, string) (T, error)) endpoint {
	return ask(noun, verb, document, func(ctx context.Context, r Ref) (T, error) { return fn(ctx, r.ID) })
}

// gone makes an endpoint of a function that removes one thing.
func gone(noun, verb string, fn func(context.Context, string) error) endpoint {
	return ask(noun, verb, "", func(ctx context.Context, r Ref) (none, error) { return none{}, fn(ctx, r.ID) })
}

// plain makes an endpoint of a function that takes nothing.
func plain[T any](noun, verb, document string, fn func(context.Context) (T, error)) endpoint {
	return ask(noun, verb, document, func(ctx context.Context, _ none) (T, error) { return fn(ctx) })
}

func (s *Server) endpoints() []endpoint {
	b := s.backend
	return []endpoint{
		plain("status", "show", "leeward.status.v1", b.Status),
		list("machine", "ls", "leeward.machines.v1", b.Machines),
		ask("machine", "show", "leeward.machine.v1", s.machine),
		list("point", "ls", "leeward.points.v1", b.Points),
		named("point", "show", "leeward.point.v1", b.Point),
		list("event", "ls", "leeward.events.v1", b.Events),
		ask("failover", "test", "", b.Test),
		named("failover", "cleanup", "", b.Cleanup),
		list("job", "ls", "leeward.jobs.v1", b.Jobs),
		ask("job", "show", "", s.job),
		ask("job", "note", "", b.Note),
		plain("vault", "info", "leeward.vault.v1", b.Vault),
		list("stream", "ls", "leeward.streams.v1", func(ctx context.Context, _ Query) ([]Stream, error) { return b.Streams(ctx) }),
	}
}

func (s *Server) machine(ctx context.Context, r Ref) (*Machine, error) {
	all, err := s.backend.Machines(ctx, Query{Machine: r.Machine})
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, Errorf(CodeNotFound, "leeward machine ls", "no machine %s is known", r.Machine)
	}
	all[0].Schema = "leeward.machine.v1"
	return &all[0], nil
}

// job answers at once, or when the job has changed since revision After.
func (s *Server) job(ctx context.Context, r Ref) (failover.Job, error) {
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
