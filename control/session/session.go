package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/trust"
)

// Life is how long somebody stays signed in; CodeLife how long a one-time code is good.
const (
	Life     = 12 * time.Hour
	CodeLife = 5 * time.Minute
)

// ErrRefused is all that somebody learns who is not let in.
var ErrRefused = errors.New("the code or password is not good, or was used, or has expired")

// ErrUnknown means that there is no such user.
var ErrUnknown = errors.New("there is no such user")

// Roles lists the roles that people have in the console, the weakest first.
func Roles() []trust.Role {
	return []trust.Role{trust.Viewer, trust.Tester, trust.Operator, trust.Admin}
}

// Login is a one-time code. Schema "leeward.login.v1".
type Login struct {
	Schema  string     `json:"schema"`
	Role    trust.Role `json:"role"`
	Name    string     `json:"name"`
	Expires time.Time  `json:"expires"`
	Code    string     `json:"code"`          // what opens the door, once
	URL     string     `json:"url,omitempty"` // of the console, if control knows it
}

// Session is somebody who is signed in. Schema "leeward.session.v1".
type Session struct {
	Schema  string     `json:"schema"`
	Name    string     `json:"name"`
	Role    trust.Role `json:"role"`
	By      string     `json:"by"` // "code" or "password"
	Created time.Time  `json:"created"`
	Expires time.Time  `json:"expires"`
	// Secret is what the session's holder brings from then on. Only Redeem and Password
	// return it.
	Secret string `json:"secret,omitempty"`
}

// kept is a session as it is stored.
type kept struct {
	Session
	Revision uint64 `json:"user_revision,omitempty"` // of the user, when the password was good
}

// Service may be used by many goroutines, and in several processes.
type Service struct {
	js  jetstream.JetStream
	now func() time.Time

	mu            sync.Mutex // guards what follows; not held while the bus is asked
	logins, users jetstream.KeyValue
	wrong         map[string]*tries
	hashing       chan struct{}
	cost          cost
}

// New makes a service over buckets that streams.Ensure makes. now may be nil: the clock.
func New(js jetstream.JetStream, now func() time.Time) *Service {
	if now == nil {
		now = time.Now
	}
	return &Service{js: js, now: now, wrong: map[string]*tries{}, hashing: make(chan struct{}, 2), cost: defaultCost}
}

// buckets opens the buckets at the first use.
func (s *Service) buckets(ctx context.Context) (logins, users jetstream.KeyValue, err error) {
	s.mu.Lock()
	logins, users = s.logins, s.users
	s.mu.Unlock()
	if users != nil {
		return logins, users, nil
	}
	if logins, err = s.js.KeyValue(ctx, streams.Logins); err == nil {
		users, err = s.js.KeyValue(ctx, streams.Users)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open the buckets of the console's users: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logins, s.users = logins, users
	return logins, users, nil
}

func key(kind, secret string) string {
	h := sha256.Sum256([]byte(secret))
	return kind + "." + hex.EncodeToString(h[:])
}

const maxSecret = 64

// NewLogin makes a one-time code for somebody of that name.
func (s *Service) NewLogin(ctx context.Context, name string, role trust.Role) (*Login, error) {
	logins, _, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	l := Login{Role: role, Name: name, Expires: s.now().UTC().Add(CodeLife)}
	code := rand.Text()
	b, err := json.Marshal(l)
	if err == nil {
		_, err = logins.Create(ctx, key("code", code), b)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the code: %w", err)
	}
	l.Schema, l.Code = "leeward.login.v1", code
	return &l, nil
}

// Redeem signs somebody in who brings a one-time code. It uses the code up.
func (s *Service) Redeem(ctx context.Context, code string) (*Session, error) {
	logins, _, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	if code == "" || len(code) > maxSecret {
		return nil, ErrRefused
	}
	k := key("code", code)
	e, err := logins.Get(ctx, k)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, ErrRefused
	}
	if err != nil {
		return nil, fmt.Errorf("look up the code: %w", err)
	}
	var l Login
	if err := json.Unmarshal(e.Value(), &l); err != nil {
		return nil, fmt.Errorf("the entry of a code is unreadable: %w", err)
	}
	// Of two who bring it at once one is let in.
	if err := logins.Delete(ctx, k, jetstream.LastRevision(e.Revision())); err != nil {
		if conflict(err) {
			return nil, ErrRefused
		}
		return nil, fmt.Errorf("use up the code: %w", err)
	}
	if !s.now().Before(l.Expires) {
		return nil, ErrRefused
	}
	return s.open(ctx, kept{Session: Session{Name: l.Name, Role: l.Role, By: "code"}})
}

// conflict reports whether somebody else changed the entry meanwhile.
func conflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, jetstream.ErrKeyExists) ||
		ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func (s *Service) open(ctx context.Context, k kept) (*Session, error) {
	logins, _, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	k.Created = s.now().UTC()
	k.Expires = k.Created.Add(Life)
	secret := rand.Text()
	b, err := json.Marshal(k)
	if err == nil {
		_, err = logins.Create(ctx, key("session", secret), b)
	}
	if err != nil {
		return nil, fmt.Errorf("keep the session: %w", err)
	}
	out := k.Session
	out.Schema, out.Secret = "leeward.session.v1", secret
	return &out, nil
}

// Check says whose session it is.
func (s *Service) Check(ctx context.Context, secret string) (*Session, error) {
	logins, users, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	if secret == "" || len(secret) > maxSecret {
		return nil, ErrRefused
	}
	e, err := logins.Get(ctx, key("session", secret))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, ErrRefused
	}
	if err != nil {
		return nil, fmt.Errorf("look up the session: %w", err)
	}
	var k kept
	if err := json.Unmarshal(e.Value(), &k); err != nil {
		return nil, fmt.Errorf("the entry of a session is unreadable: %w", err)
	}
	if !s.now().Before(k.Expires) {
		return nil, ErrRefused
	}
	if k.Revision != 0 {
		u, err := users.Get(ctx, k.Name)
		if errors.Is(err, jetstream.ErrKeyNotFound) || err == nil && u.Revision() != k.Revision {
			return nil, ErrRefused // removed, or changed: sign in again
		}
		if err != nil {
			return nil, fmt.Errorf("look up user %s: %w", k.Name, err)
		}
	}
	k.Schema = "leeward.session.v1"
	return &k.Session, nil
}

// End ends a session. Ending one that is over is harmless.
func (s *Service) End(ctx context.Context, secret string) error {
	logins, _, err := s.buckets(ctx)
	if err != nil || secret == "" || len(secret) > maxSecret {
		return err
	}
	if err := logins.Purge(ctx, key("session", secret)); err != nil {
		return fmt.Errorf("end the session: %w", err)
	}
	return nil
}
