package api

import (
	"context"
	"errors"
	"time"

	"github.com/leeward-dr/leeward/control/enrol"
)

// Enroller lets agents in. A Backend that implements it answers token.* and agent.*.
type Enroller interface {
	// Enrolment returns what does it, or an error that says why there is none.
	Enrolment() (*enrol.Service, error)
}

// NewToken asks for a one-time token.
type NewToken struct {
	Machine    string   `json:"machine"`
	Groups     []string `json:"groups,omitempty"`
	TTLSeconds float64  `json:"ttl_seconds"`
}

func (s *Server) enrolment() []endpoint {
	return []endpoint{
		ask("token", "new", "leeward.token.v1", s.newToken),
		list("token", "ls", "leeward.tokens.v1", func(ctx context.Context, _ Query) ([]enrol.Token, error) {
			e, err := s.enroller()
			if err != nil {
				return nil, err
			}
			return e.Tokens(ctx)
		}),
		ask("token", "rm", "", func(ctx context.Context, r Ref) (none, error) {
			e, err := s.enroller()
			if err != nil {
				return none{}, err
			}
			return none{}, unknown(e.RemoveToken(ctx, r.ID))
		}),
		list("agent", "ls", "leeward.agents.v1", func(ctx context.Context, q Query) ([]enrol.Agent, error) {
			e, err := s.enroller()
			if err != nil {
				return nil, err
			}
			return e.Agents(ctx)
		}),
		ask("agent", "revoke", "leeward.agent.v1", func(ctx context.Context, r Ref) (*enrol.Agent, error) {
			e, err := s.enroller()
			if err != nil {
				return nil, err
			}
			a, err := e.Revoke(ctx, r.Machine)
			return a, unknown(err)
		}),
		ask("agent", "push", "", func(_ context.Context, p PushNote) (none, error) { return none{}, p.check() }),
	}
}

// PushNote tells control that agents are about to be installed, upgraded or removed on
// hosts over SSH. Control does nothing about it: the audit trail keeps it.
type PushNote struct {
	Do    string   `json:"do"` // install, upgrade or uninstall
	Hosts []string `json:"hosts"`
	Keys  []string `json:"keys,omitempty"` // fingerprints that were accepted, one for each host
}

func (p PushNote) check() error {
	if p.Do == "" || len(p.Hosts) == 0 {
		return Errorf(CodeUsage, "", "a note of what is pushed names what is done and where")
	}
	return nil
}

func unknown(err error) error {
	if errors.Is(err, enrol.ErrUnknown) {
		return Errorf(CodeNotFound, "leeward agent ls, leeward token ls", "%w", err)
	}
	return err
}

func (s *Server) enroller() (*enrol.Service, error) {
	b, ok := s.backend.(Enroller)
	if !ok {
		return nil, Errorf(CodeRefused, "", "this control lets no agents in")
	}
	return b.Enrolment()
}

func (s *Server) newToken(ctx context.Context, r NewToken) (*enrol.Token, error) {
	e, err := s.enroller()
	if err != nil {
		return nil, err
	}
	t, err := e.NewToken(ctx, r.Machine, r.Groups, time.Duration(r.TTLSeconds*float64(time.Second)))
	if err != nil {
		return nil, Errorf(CodeUsage, "leeward token new --machine NAME --ttl 1h", "%w", err)
	}
	return t, nil
}

// NewToken makes a one-time token that lets an agent in.
func (c *Client) NewToken(ctx context.Context, r NewToken) (*enrol.Token, error) {
	return call[enrol.Token](ctx, c, "token.new", r)
}

// Tokens lists the tokens, the oldest first, without their secrets.
func (c *Client) Tokens(ctx context.Context) ([]enrol.Token, error) {
	return all[enrol.Token](ctx, c, "token.ls", Query{})
}

// RemoveToken makes a token useless.
func (c *Client) RemoveToken(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, "token.rm", Ref{ID: id})
	return err
}

// Agents lists the enrolled agents, by machine.
func (c *Client) Agents(ctx context.Context) ([]enrol.Agent, error) {
	return all[enrol.Agent](ctx, c, "agent.ls", Query{})
}

// RevokeAgent ends a machine's agent for good.
func (c *Client) RevokeAgent(ctx context.Context, machine string) (*enrol.Agent, error) {
	return call[enrol.Agent](ctx, c, "agent.revoke", Ref{Machine: machine})
}

// NotePush has the audit trail keep that agents are about to be pushed. Only an admin may.
func (c *Client) NotePush(ctx context.Context, p PushNote) error {
	_, err := call[struct{}](ctx, c, "agent.push", p)
	return err
}
