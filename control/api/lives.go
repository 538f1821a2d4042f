package api

import (
	"context"
	"errors"
	"time"

	"github.com/leeward-dr/leeward/control/life"
)

// Lives is the part of a Backend that takes machines through their life cycle: see
// package life.
type Lives interface {
	Lives(ctx context.Context, q Query) ([]life.Life, error)
	Life(ctx context.Context, machine string) (*life.Life, error)
	WatchLife(ctx context.Context, machine string, after uint64) (*life.Life, error)
	ValidateLife(ctx context.Context, r LifeRequest) (*Validation, error)
	AskLife(ctx context.Context, kind life.Kind, r LifeRequest) ([]life.Life, error)
	Fences(ctx context.Context, q Query) ([]Fence, error)
	LiftFence(ctx context.Context, r FenceRequest) (*Fence, error)
}

// Fence says who may write a machine's disks in the vault. Schema "leeward.fence.v1".
type Fence struct {
	Schema     string     `json:"schema,omitempty"`
	Machine    string     `json:"machine"`
	Phase      life.Phase `json:"phase"` // where the machine stands
	Generation uint64     `json:"generation"`
	Since      time.Time  `json:"since"`
	Why        string     `json:"why"`
	Holder     string     `json:"holder,omitempty"` // the one that may write; empty: nobody
	// Needed: the machine's phase wants it there, so it cannot be lifted by hand.
	Needed bool `json:"needed"`
}

// FenceRequest names a fence to take away; Confirm repeats the machine's name.
type FenceRequest struct {
	Machine string `json:"machine"`
	Confirm string `json:"confirm"`
}

// LifeRequest asks for a step in the life of a machine, or of all machines of a group.
type LifeRequest struct {
	Machine string `json:"machine,omitempty"`
	Group   string `json:"group,omitempty"`
	// Confirm repeats the name of the machine or group where something is stopped or lost:
	// nobody fails a machine over by a slip of the hand.
	Confirm string `json:"confirm,omitempty"`
	life.Order
}

// LifeRef is where a machine stands.
type LifeRef struct {
	Phase life.Phase `json:"phase"`
	Since time.Time  `json:"since"`
	Point string     `json:"point,omitempty"`
	Job   string     `json:"job,omitempty"`
	Error string     `json:"error,omitempty"`
}

// CheckResult is what a check found.
type CheckResult string

// The results of a check.
const (
	Fine     CheckResult = "ok"
	Doubtful CheckResult = "warning"
	Bad      CheckResult = "error" // a failover would fail
)

// LifeCheck is one thing that was looked at before a failover.
type LifeCheck struct {
	Machine string      `json:"machine"`
	Check   string      `json:"check"`
	Result  CheckResult `json:"result"`
	What    string      `json:"what"`
	Try     string      `json:"try,omitempty"`
}

// Validation says whether a failover could be done now. Schema "leeward.validation.v1".
type Validation struct {
	Schema string      `json:"schema"`
	Good   bool        `json:"good"`
	Checks []LifeCheck `json:"checks"`
}

// asks are the endpoints that ask for a step, and the kind of each.
var asks = []struct {
	noun, verb string
	kind       life.Kind
}{
	{"failover", "start", life.Start}, {"failover", "change-point", life.Change}, {"failover", "commit", life.Commit},
	{"failover", "cancel", life.Cancel}, {"failover", "reprotect", life.Reprotect}, {"failover", "failback", life.Failback},
	{"failover", "complete", life.Complete}, {"machine", "disable", life.Disable}, {"machine", "enable", life.Enable},
}

func (s *Server) lives() []endpoint {
	b := s.backend
	all := []endpoint{
		list("failover", "ls", "leeward.lives.v1", b.Lives),
		ask("failover", "show", "leeward.life.v1", s.life),
		ask("failover", "validate", "leeward.validation.v1", b.ValidateLife),
		list("fence", "ls", "leeward.fences.v1", b.Fences),
		ask("fence", "lift", "leeward.fence.v1", b.LiftFence),
	}
	for _, a := range asks {
		all = append(all, ask(a.noun, a.verb, "leeward.lives.v1", func(ctx context.Context, r LifeRequest) (*Page[life.Life], error) {
			l, err := b.AskLife(ctx, a.kind, r)
			return &Page[life.Life]{Schema: "leeward.lives.v1", Items: l}, err
		}))
	}
	return all
}

// life answers at once, or when the life has changed since revision After.
func (s *Server) life(ctx context.Context, r Ref) (*life.Life, error) {
	if !r.Wait {
		return s.backend.Life(ctx, r.Machine)
	}
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	l, err := s.backend.WatchLife(ctx, r.Machine, r.After)
	if errors.Is(err, context.DeadlineExceeded) {
		return l, nil // unchanged
	}
	return l, err
}

// Lives lists the lives of machines to which anything was ever done.
func (c *Client) Lives(ctx context.Context, q Query) ([]life.Life, error) {
	return all[life.Life](ctx, c, "failover.ls", q)
}

// Life asks where a machine stands.
func (c *Client) Life(ctx context.Context, machine string) (*life.Life, error) {
	return call[life.Life](ctx, c, "failover.show", Ref{Machine: machine})
}

// WatchLife returns a machine's life when its attempt is greater than after, or unchanged
// after some seconds.
func (c *Client) WatchLife(ctx context.Context, machine string, after uint64) (*life.Life, error) {
	return call[life.Life](ctx, c, "failover.show", Ref{Machine: machine, After: after, Wait: true})
}

// ValidateLife says whether a failover could be done now.
func (c *Client) ValidateLife(ctx context.Context, r LifeRequest) (*Validation, error) {
	if _, ok := ctx.Deadline(); !ok { // disks are opened
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, workTime)
		defer cancel()
	}
	return call[Validation](ctx, c, "failover.validate", r)
}

// AskLife asks for a step in the life of machines.
func (c *Client) AskLife(ctx context.Context, kind life.Kind, r LifeRequest) ([]life.Life, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, workTime)
		defer cancel()
	}
	for _, a := range asks {
		if a.kind == kind {
			p, err := call[Page[life.Life]](ctx, c, a.noun+"."+a.verb, r)
			if err != nil {
				return nil, err
			}
			return p.Items, nil
		}
	}
	return nil, Errorf(CodeUsage, "", "nobody can ask for %s", kind)
}

// Fences lists the fences that stand.
func (c *Client) Fences(ctx context.Context) ([]Fence, error) {
	return all[Fence](ctx, c, "fence.ls", Query{})
}

// LiftFence takes a fence away that nothing needs any more.
func (c *Client) LiftFence(ctx context.Context, r FenceRequest) (*Fence, error) {
	return call[Fence](ctx, c, "fence.lift", r)
}
