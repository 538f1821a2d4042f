package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/failover"
)

// Client asks control. Every error it returns is an *Error.
type Client struct {
	nc *nats.Conn
	// Actor is who asks, for the audit trail.
	Actor string
}

// NewClient makes a client over a connection that the caller owns.
func NewClient(nc *nats.Conn) *Client { return &Client{nc: nc} }

// callTime bounds a call whose context has no deadline.
const callTime = 30 * time.Second

func call[Out any](ctx context.Context, c *Client, verb string, in any) (*Out, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, AsError(fmt.Errorf("encode the request: %w", err))
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTime)
		defer cancel()
	}
	if OnHost(in) != "" && trusts(verb) {
		verb += trustedVerb
	}
	req := nats.NewMsg(Prefix + "." + verb)
	req.Data = body
	if c.Actor != "" {
		req.Header.Set(ActorHeader, c.Actor)
	}
	ctx, stop := c.untilRefused(ctx, req.Subject)
	defer stop()
	m, err := c.nc.RequestMsgWithContext(ctx, req)
	if err != nil {
		if refused, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
			return nil, refused
		}
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		return nil, AsError(fmt.Errorf("ask control for %s: %w", verb, err))
	}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		e := &Error{Code: Code(code), Message: m.Header.Get(micro.ErrorHeader)}
		if len(m.Data) > 0 {
			if err := json.Unmarshal(m.Data, e); err != nil {
				e.Message += fmt.Sprintf(" (and its details are unreadable: %v)", err)
			}
		}
		return nil, e
	}
	out := new(Out)
	if err := json.Unmarshal(m.Data, out); err != nil {
		return nil, AsError(fmt.Errorf("control's answer to %s is unreadable: %w", verb, err))
	}
	return out, nil
}

// lookRefused is how often it is looked whether the server refused a request.
const lookRefused = 100 * time.Millisecond

// untilRefused returns a context that ends, with an *Error as its cause, when the server
// refuses to take a request on subject: it says so on the connection, and nobody answers.
func (c *Client) untilRefused(ctx context.Context, subject string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		t := time.NewTicker(lookRefused)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			if err := c.nc.LastError(); errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), `"`+subject+`"`) {
				cancel(Errorf(CodeNotAuthorised, "use a context file whose role may: --context DIR/contexts/"+string(Least(strings.TrimPrefix(subject, Prefix+".")))+".json",
					"the role of this user may not ask for %s: %w", strings.TrimPrefix(subject, Prefix+"."), err))
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func all[T any](ctx context.Context, c *Client, verb string, q Query) ([]T, error) {
	var items []T
	for {
		p, err := call[Page[T]](ctx, c, verb, q)
		if err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if p.Next == "" || len(p.Items) == 0 {
			return items, nil
		}
		q.Cursor = p.Next
	}
}

// Status asks for everything on one screen.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return call[Status](ctx, c, "status.show", struct{}{})
}

// Machines lists the protected machines.
func (c *Client) Machines(ctx context.Context, q Query) ([]Machine, error) {
	return all[Machine](ctx, c, "machine.ls", q)
}

// Machine asks for one machine.
func (c *Client) Machine(ctx context.Context, name string) (*Machine, error) {
	return call[Machine](ctx, c, "machine.show", Ref{Machine: name})
}

// Points lists recovery points, the oldest first.
func (c *Client) Points(ctx context.Context, q Query) ([]Point, error) {
	return all[Point](ctx, c, "point.ls", q)
}

// Point asks for one recovery point by its id.
func (c *Client) Point(ctx context.Context, id string) (*Point, error) {
	return call[Point](ctx, c, "point.show", Ref{ID: id})
}

// Events lists events, the oldest first.
func (c *Client) Events(ctx context.Context, q Query) ([]Event, error) {
	return all[Event](ctx, c, "event.ls", q)
}

// Test starts a test failover. Give the request an id and a repeat is harmless.
func (c *Client) Test(ctx context.Context, r failover.Request) (*failover.Job, error) {
	return call[failover.Job](ctx, c, "failover.test", r)
}

// BeginCleanup ends a job and removes every trace of it. What takes long goes on after the
// answer: then the job is being cleaned.
func (c *Client) BeginCleanup(ctx context.Context, id string) (*failover.Job, error) {
	if _, ok := ctx.Deadline(); !ok { // a guest gets its time to power off
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, workTime)
		defer cancel()
	}
	return call[failover.Job](ctx, c, "failover.cleanup", Ref{ID: id})
}

// Cleanup is BeginCleanup, and waits until it is done.
func (c *Client) Cleanup(ctx context.Context, id string) (*failover.Job, error) {
	j, err := c.BeginCleanup(ctx, id)
	for err == nil && j.State == failover.Cleaning {
		j, err = c.WatchJob(ctx, id, j.Revision)
	}
	if err == nil && j.State != failover.Cleaned {
		err = Errorf(CodeFailed, "leeward job show "+id+"; leeward failover cleanup "+id, "job %s is not cleaned: %s", id, j.Error)
	}
	return j, err
}

// Note keeps what people noted of a job, until and after it is cleaned.
func (c *Client) Note(ctx context.Context, id, notes string) (*failover.Job, error) {
	return call[failover.Job](ctx, c, "job.note", NoteRequest{ID: id, Notes: notes})
}

// Jobs lists jobs, the oldest first.
func (c *Client) Jobs(ctx context.Context, q Query) ([]failover.Job, error) {
	return all[failover.Job](ctx, c, "job.ls", q)
}

// Job asks for one job.
func (c *Client) Job(ctx context.Context, id string) (*failover.Job, error) {
	return call[failover.Job](ctx, c, "job.show", Ref{ID: id})
}

// WatchJob returns the job when its revision is greater than after, or unchanged
// after some seconds.
func (c *Client) WatchJob(ctx context.Context, id string, after uint64) (*failover.Job, error) {
	return call[failover.Job](ctx, c, "job.show", Ref{ID: id, After: after, Wait: true})
}

// Vault asks where the data is.
func (c *Client) Vault(ctx context.Context) (*VaultInfo, error) {
	return call[VaultInfo](ctx, c, "vault.info", struct{}{})
}

// Streams lists the streams of the bus.
func (c *Client) Streams(ctx context.Context) ([]Stream, error) {
	return all[Stream](ctx, c, "stream.ls", Query{})
}
