package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/crypto/argon2"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/trust"
)

// User is somebody who signs in with a password. Schema of lists "leeward.users.v1".
type User struct {
	Schema  string     `json:"schema,omitempty"` // leeward.user.v1
	Name    string     `json:"name"`
	Role    trust.Role `json:"role"`
	Changed time.Time  `json:"changed"`
	By      string     `json:"by,omitempty"`
}

// Limits of a password, in bytes.
const (
	MinPassword = 12
	MaxPassword = 256
)

// cost is what a password costs to try. It is kept with each, so that it can be raised.
type cost struct {
	Time    uint32 `json:"time"`
	Memory  uint32 `json:"memory_kib"`
	Threads uint8  `json:"threads"`
}

// defaultCost is the second recommended choice of RFC 9106.
var defaultCost = cost{Time: 3, Memory: 64 << 10, Threads: 4}

// maxCost bounds what an entry of the bucket can make us spend.
var maxCost = cost{Time: 16, Memory: 256 << 10, Threads: 16}

// storedUser is a user's entry.
type storedUser struct {
	User
	Cost cost   `json:"argon2id"`
	Salt []byte `json:"salt"`
	Hash []byte `json:"hash"`
}

func (u *storedUser) hash(password string) []byte {
	return argon2.IDKey([]byte(password), u.Salt, u.Cost.Time, u.Cost.Memory, u.Cost.Threads, 32)
}

// SetUser makes a user or changes one; by is who does it.
func (s *Service) SetUser(ctx context.Context, name string, role trust.Role, password, by string) (*User, error) {
	if err := streams.ValidName("user", name); err != nil {
		return nil, err
	}
	if !slices.Contains(Roles(), role) {
		return nil, fmt.Errorf("role is %q: use one of %v", role, Roles())
	}
	if len(password) < MinPassword || len(password) > MaxPassword {
		return nil, fmt.Errorf("the password has %d bytes: use %d to %d", len(password), MinPassword, MaxPassword)
	}
	_, users, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	u := storedUser{User: User{Name: name, Role: role, Changed: s.now().UTC(), By: by}, Cost: s.cost, Salt: make([]byte, 16)}
	_, _ = rand.Read(u.Salt) // never fails
	if err := s.slot(ctx); err != nil {
		return nil, err
	}
	u.Hash = u.hash(password)
	<-s.hashing
	b, err := json.Marshal(u)
	if err == nil {
		_, err = users.Put(ctx, name, b)
	}
	if err != nil {
		return nil, fmt.Errorf("keep user %s: %w", name, err)
	}
	out := u.User
	out.Schema = "leeward.user.v1"
	return &out, nil
}

// RemoveUser removes a user, whose sessions end.
func (s *Service) RemoveUser(ctx context.Context, name string) error {
	if _, err := s.user(ctx, name); err != nil {
		return err
	}
	if err := s.users.Delete(ctx, name); err != nil {
		return fmt.Errorf("remove user %s: %w", name, err)
	}
	return nil
}

func (s *Service) user(ctx context.Context, name string) (jetstream.KeyValueEntry, error) {
	_, users, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	if streams.ValidName("user", name) != nil {
		return nil, fmt.Errorf("user %.40q: %w", name, ErrUnknown)
	}
	e, err := users.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("user %s: %w", name, ErrUnknown)
	}
	if err != nil {
		return nil, fmt.Errorf("look up user %s: %w", name, err)
	}
	return e, nil
}

// Users lists the users by name, without what their passwords are checked by.
func (s *Service) Users(ctx context.Context) ([]User, error) {
	_, users, err := s.buckets(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := users.ListKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	defer keys.Stop() //nolint:errcheck // it ends with its list
	out := []User{}
	for k := range keys.Keys() {
		e, err := users.Get(ctx, k)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		var u storedUser
		if err == nil {
			err = json.Unmarshal(e.Value(), &u)
		}
		if err != nil {
			return nil, fmt.Errorf("read user %s: %w", k, err)
		}
		out = append(out, u.User)
	}
	slices.SortFunc(out, func(a, b User) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// tries are the wrong passwords of a name in a row.
type tries struct {
	n     int
	until time.Time
}

const (
	freeTries = 5
	maxNames  = 4096 // that are remembered; more forget all of them
	maxWait   = 5 * time.Minute
)

// ErrWait means that too many passwords were wrong.
type ErrWait struct{ For time.Duration }

// Error is one sentence.
func (e *ErrWait) Error() string {
	return fmt.Sprintf("too many wrong passwords for this name: try again in %s", e.For.Round(time.Second))
}

// wait says how long a name must wait before its next try.
func (s *Service) wait(name string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.wrong[name]; t != nil {
		return t.until.Sub(s.now())
	}
	return 0
}

// tried notes the outcome of a try.
func (s *Service) tried(name string, good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if good {
		delete(s.wrong, name)
		return
	}
	if len(s.wrong) >= maxNames {
		clear(s.wrong)
	}
	t := s.wrong[name]
	if t == nil {
		t = &tries{}
		s.wrong[name] = t
	}
	if t.n++; t.n >= freeTries {
		t.until = s.now().Add(min(time.Second<<min(t.n-freeTries, 10), maxWait))
	}
}

// slot waits for one of the few passwords that are tried at once.
func (s *Service) slot(ctx context.Context) error {
	select {
	case s.hashing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("many passwords are being tried: %w", ctx.Err())
	}
}

// Password signs a user in.
func (s *Service) Password(ctx context.Context, name, password string) (*Session, error) {
	if streams.ValidName("user", name) != nil || len(password) > MaxPassword {
		return nil, ErrRefused
	}
	if w := s.wait(name); w > 0 {
		return nil, &ErrWait{w}
	}
	// Somebody who does not exist costs as much as somebody who does.
	u := storedUser{Cost: s.cost, Salt: make([]byte, 16), Hash: make([]byte, 32)}
	e, err := s.user(ctx, name)
	known := err == nil
	switch {
	case errors.Is(err, ErrUnknown):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(e.Value(), &u); err != nil {
			return nil, fmt.Errorf("the entry of user %s is unreadable: %w", name, err)
		}
		if c := u.Cost; c.Time < 1 || c.Time > maxCost.Time || c.Memory > maxCost.Memory || c.Threads < 1 || c.Threads > maxCost.Threads || len(u.Hash) != 32 {
			return nil, fmt.Errorf("the entry of user %s is damaged: set the user again", name)
		}
	}
	if err := s.slot(ctx); err != nil {
		return nil, err
	}
	good := subtle.ConstantTimeCompare(u.hash(password), u.Hash) == 1
	<-s.hashing
	if !good || !known {
		s.tried(name, false)
		return nil, ErrRefused
	}
	s.tried(name, true)
	return s.open(ctx, kept{Session: Session{Name: u.Name, Role: u.Role, By: "password"}, Revision: e.Revision()})
}
