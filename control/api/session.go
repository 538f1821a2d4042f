package api

import (
	"context"
	"errors"

	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/streams/trust"
)

// Doorkeeper lets people into the console. A Backend that implements it answers
// session.* and user.*.
type Doorkeeper interface {
	// Sessions returns what does it, and where the console is, if that is known.
	Sessions() (s *session.Service, url string)
}

// SessionRequest signs in, or names a session by its secret.
type SessionRequest struct {
	Secret   string `json:"secret,omitempty"` // of a code, or of a session
	Name     string `json:"name,omitempty"`
	Password string `json:"password,omitempty"`
}

// UserRequest makes a user of the console or changes one.
type UserRequest struct {
	Name     string     `json:"name"`
	Role     trust.Role `json:"role"`
	Password string     `json:"password"`
}

// sessionNoun is what endpoints are called that sign people in. They change nothing of what
// is protected.
const sessionNoun = "session"

// secret reports whether what is sent to a noun's endpoints must not be kept.
func secret(noun string) bool { return noun == sessionNoun || noun == "user" }

func (s *Server) doorkeeper() (*session.Service, string, error) {
	d, ok := s.backend.(Doorkeeper)
	if !ok {
		return nil, "", Errorf(CodeRefused, "", "this control has no console")
	}
	k, url := d.Sessions()
	return k, url, nil
}

// door makes an endpoint of a function that needs the sessions.
func door[Out any](s *Server, verb, document string, fn func(context.Context, *session.Service, SessionRequest) (Out, error)) endpoint {
	return ask(sessionNoun, verb, document, func(ctx context.Context, r SessionRequest) (Out, error) {
		k, _, err := s.doorkeeper()
		if err != nil {
			var none Out
			return none, err
		}
		v, err := fn(ctx, k, r)
		return v, doorError(err)
	})
}

func (s *Server) sessions() []endpoint {
	const document = "leeward.session.v1"
	all := []endpoint{
		door(s, "redeem", document, func(ctx context.Context, k *session.Service, r SessionRequest) (*session.Session, error) {
			return k.Redeem(ctx, r.Secret)
		}),
		door(s, "password", document, func(ctx context.Context, k *session.Service, r SessionRequest) (*session.Session, error) {
			return k.Password(ctx, r.Name, r.Password)
		}),
		door(s, "check", document, func(ctx context.Context, k *session.Service, r SessionRequest) (*session.Session, error) {
			return k.Check(ctx, r.Secret)
		}),
		door(s, "end", "", func(ctx context.Context, k *session.Service, r SessionRequest) (none, error) {
			return none{}, k.End(ctx, r.Secret)
		}),
		list("user", "ls", "leeward.users.v1", func(ctx context.Context, _ Query) ([]session.User, error) {
			k, _, err := s.doorkeeper()
			if err != nil {
				return nil, err
			}
			return k.Users(ctx)
		}),
		ask("user", "set", "leeward.user.v1", s.setUser),
		ask("user", "delete", "", func(ctx context.Context, r Ref) (none, error) {
			k, _, err := s.doorkeeper()
			if err != nil {
				return none{}, err
			}
			return none{}, doorError(k.RemoveUser(ctx, r.ID))
		}),
	}
	for _, role := range session.Roles() { // the verb is the role, so that the bus judges who may ask for it
		all = append(all, ask(sessionNoun, string(role), "leeward.login.v1", func(ctx context.Context, _ none) (*session.Login, error) {
			k, url, err := s.doorkeeper()
			if err != nil {
				return nil, err
			}
			l, err := k.NewLogin(ctx, ActorOf(ctx).Name, role)
			if err == nil {
				l.URL = url
			}
			return l, err
		}))
	}
	return all
}

func (s *Server) setUser(ctx context.Context, r UserRequest) (*session.User, error) {
	k, _, err := s.doorkeeper()
	if err != nil {
		return nil, err
	}
	u, err := k.SetUser(ctx, r.Name, r.Role, r.Password, ActorOf(ctx).Name)
	if err != nil {
		return nil, Errorf(CodeUsage, "leeward console user set NAME --role viewer", "%w", err)
	}
	return u, nil
}

func doorError(err error) error {
	wait, waits := errors.AsType[*session.ErrWait](err)
	switch {
	case errors.Is(err, session.ErrRefused):
		return Errorf(CodeNotAuthorised, "ask for a new code: leeward console login", "%w", err)
	case waits:
		return Errorf(CodeNotAuthorised, "wait, or ask for a code: leeward console login", "%w", wait)
	case errors.Is(err, session.ErrUnknown):
		return Errorf(CodeNotFound, "leeward console user ls", "%w", err)
	}
	return err
}

// NewLogin asks for a one-time code that signs in to the console. Who may not have the
// role gets no answer from the bus.
func (c *Client) NewLogin(ctx context.Context, role trust.Role) (*session.Login, error) {
	return call[session.Login](ctx, c, "session."+string(role), struct{}{})
}

// Redeem signs in with a one-time code.
func (c *Client) Redeem(ctx context.Context, code string) (*session.Session, error) {
	return call[session.Session](ctx, c, "session.redeem", SessionRequest{Secret: code})
}

// Password signs in with a password.
func (c *Client) Password(ctx context.Context, name, password string) (*session.Session, error) {
	return call[session.Session](ctx, c, "session.password", SessionRequest{Name: name, Password: password})
}

// CheckSession says whose session it is.
func (c *Client) CheckSession(ctx context.Context, secret string) (*session.Session, error) {
	return call[session.Session](ctx, c, "session.check", SessionRequest{Secret: secret})
}

// EndSession ends a session.
func (c *Client) EndSession(ctx context.Context, secret string) error {
	_, err := call[struct{}](ctx, c, "session.end", SessionRequest{Secret: secret})
	return err
}

// Users lists the users of the console.
func (c *Client) Users(ctx context.Context) ([]session.User, error) {
	return all[session.User](ctx, c, "user.ls", Query{})
}

// SetUser makes a user of the console or changes one.
func (c *Client) SetUser(ctx context.Context, r UserRequest) (*session.User, error) {
	return call[session.User](ctx, c, "user.set", r)
}

// DeleteUser removes a user of the console; its sessions end.
func (c *Client) DeleteUser(ctx context.Context, name string) error {
	_, err := call[struct{}](ctx, c, "user.delete", Ref{ID: name})
	return err
}
