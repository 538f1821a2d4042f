package enrol

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/wire"
)

// Issuer makes and revokes users.
type Issuer interface {
	Issue(machine, publicKey string, groups []string) (token string, err error)
	Revoke(ctx context.Context, publicKeys ...string) error
}

// MaxTTL is the longest life of a token.
const MaxTTL = 7 * 24 * time.Hour

// What can go wrong, beside the bus. The texts are for the operator; an agent is
// told no more than ErrRefused.
var (
	// ErrRefused is all that somebody with a bad token learns.
	ErrRefused = errors.New("the token is not good: it is unknown, was used, or has expired; ask for a new one")
	// ErrUnknown means that no such machine or token is known.
	ErrUnknown = errors.New("not known")
)

// Token is a one-time token. Schema "leeward.token.v1".
type Token struct {
	Schema  string    `json:"schema,omitempty"`
	ID      string    `json:"id"`
	Machine string    `json:"machine"`
	Groups  []string  `json:"groups,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`
	// Text is the token itself. Only New returns it.
	Text string `json:"token,omitempty"`
	// Pin is what the agent is to trust, where the server has a certificate.
	Pin string `json:"ca_pin,omitempty"`
}

// Agent is an enrolled agent. Schema "leeward.agent.v1".
type Agent struct {
	Schema    string    `json:"schema,omitempty"`
	Machine   string    `json:"machine"`
	PublicKey string    `json:"public_key"`
	Groups    []string  `json:"groups,omitempty"`
	Enrolled  time.Time `json:"enrolled"`
	Revoked   time.Time `json:"revoked,omitzero"`
}

// Grant is what an enrolled agent gets.
type Grant struct {
	Machine string   `json:"machine"`
	Groups  []string `json:"groups,omitempty"`
	JWT     string   `json:"jwt"`
	URL     string   `json:"url"` // of the data port
	CA      string   `json:"ca"`  // PEM, empty without TLS or where the system's will do
}

// stored is a token's entry.
type stored struct {
	Token
	Hash string `json:"hash"` // SHA-256 of the secret, hexadecimal
	By   string `json:"by,omitempty"`
}

// Options of a Service.
type Options struct {
	Issuer   Issuer
	Replicas int    // of the buckets
	URL      string // of the data port
	CA       string // PEM
	Pin      string
	Tell     func(*wire.Event) // publishes; nil: nobody is told
	Log      *slog.Logger
	Now      func() time.Time // nil: the clock
}

// Service is safe for use by several goroutines and processes.
type Service struct {
	o              Options
	tokens, agents jetstream.KeyValue
}

// New opens the buckets, makes them if they are missing, and sees that everybody
// who is noted as revoked is refused by the servers.
func New(ctx context.Context, js jetstream.JetStream, o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tell == nil {
		o.Tell = func(*wire.Event) {}
	}
	s := &Service{o: o}
	for _, b := range []struct {
		to    *jetstream.KeyValue
		name  string
		about string
		ttl   time.Duration
	}{
		{&s.tokens, streams.Tokens, "one-time tokens, hashed", 2 * MaxTTL},
		{&s.agents, streams.Agents, "enrolled agents", 0},
	} {
		kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: b.name, Description: b.about, TTL: b.ttl, Storage: jetstream.FileStorage, Replicas: max(o.Replicas, 1),
		})
		if err != nil {
			return nil, fmt.Errorf("create bucket %s: %w", b.name, err)
		}
		*b.to = kv
	}
	return s, s.reconcile(ctx)
}

// reconcile repeats the revocations: a crash may have come between noting one and
// telling the servers.
func (s *Service) reconcile(ctx context.Context) error {
	all, err := s.Agents(ctx)
	if err != nil {
		return err
	}
	var gone []string
	for _, a := range all {
		if !a.Revoked.IsZero() {
			gone = append(gone, a.PublicKey)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return s.o.Issuer.Revoke(ctx, gone...)
}

// NewToken makes a token for a machine.
func (s *Service) NewToken(ctx context.Context, machine string, groups []string, ttl time.Duration) (*Token, error) {
	if err := streams.ValidName("machine", machine); err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := streams.ValidName("group", g); err != nil {
			return nil, err
		}
	}
	if ttl < time.Second || ttl > MaxTTL {
		return nil, fmt.Errorf("a token that lives %v: choose 1s to %v", ttl, MaxTTL)
	}
	id, secret := rand.Text()[:12], rand.Text()
	now := s.o.Now().UTC()
	e := stored{Token: Token{ID: id, Machine: machine, Groups: groups, Created: now, Expires: now.Add(ttl)}, Hash: hash(secret)}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if _, err := s.tokens.Create(ctx, id, b); err != nil {
		return nil, fmt.Errorf("store the token: %w", err)
	}
	s.tell(machine, "token", wire.Info, fmt.Sprintf("token %s lets an agent in as %s until %s", id, machine, e.Expires.Format(time.RFC3339)), "")
	t := e.Token
	t.Schema, t.Text, t.Pin = "leeward.token.v1", "lw_"+id+"_"+secret, s.o.Pin
	return &t, nil
}

// conflict reports whether somebody else changed the entry meanwhile.
func conflict(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) || errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func hash(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(h[:])
}

// take uses a token up. It fails with ErrRefused for every reason that an attacker
// could learn from.
func (s *Service) take(ctx context.Context, text, publicKey string) (*stored, error) {
	t := strings.Split(strings.TrimSpace(text), "_")
	if len(t) != 3 || t[0] != "lw" || streams.ValidName("token", t[1]) != nil {
		return nil, ErrRefused
	}
	entry, err := s.tokens.Get(ctx, t[1])
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, ErrRefused
	}
	if err != nil {
		return nil, fmt.Errorf("look up the token: %w", err)
	}
	var e stored
	if err := json.Unmarshal(entry.Value(), &e); err != nil {
		return nil, fmt.Errorf("token %s is unreadable: %w", t[1], err)
	}
	if subtle.ConstantTimeCompare([]byte(hash(t[2])), []byte(e.Hash)) != 1 {
		s.o.Log.Warn("enrolment with a wrong secret", "token", e.ID, "machine", e.Machine)
		return nil, ErrRefused
	}
	refuse := func(why string) (*stored, error) {
		s.tell(e.Machine, "enrol-refused", wire.Warning, fmt.Sprintf("token %s was presented and refused: %s", e.ID, why), "if this was not you, see who has the token; make a new one: leeward token new")
		return nil, ErrRefused
	}
	now := s.o.Now().UTC()
	switch {
	case !e.Used.IsZero():
		return refuse("it was used at " + e.Used.Format(time.RFC3339))
	case now.After(e.Expires):
		return refuse("it expired at " + e.Expires.Format(time.RFC3339))
	}
	e.Used, e.By = now, publicKey
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if _, err := s.tokens.Update(ctx, t[1], b, entry.Revision()); err != nil {
		if conflict(err) {
			return refuse("another agent was quicker")
		}
		return nil, fmt.Errorf("use up the token: %w", err)
	}
	return &e, nil
}

// Redeem lets an agent in that brings a token and the public half of its key.
func (s *Service) Redeem(ctx context.Context, text, publicKey string) (*Grant, error) {
	// Before the token is used up: a key that is none must not cost it.
	if _, err := s.o.Issuer.Issue("check", publicKey, nil); err != nil {
		return nil, fmt.Errorf("%w (%v)", ErrRefused, err)
	}
	t, err := s.take(ctx, text, publicKey)
	if err != nil {
		return nil, err
	}
	if err := s.note(ctx, t, publicKey); err != nil {
		return nil, fmt.Errorf("note the agent of %s: %w", t.Machine, err)
	}
	token, err := s.o.Issuer.Issue(t.Machine, publicKey, t.Groups)
	if err != nil {
		return nil, err
	}
	s.tell(t.Machine, "enrolled", wire.Info, fmt.Sprintf("an agent with key %s was let in with token %s", publicKey, t.ID), "")
	return &Grant{Machine: t.Machine, Groups: t.Groups, JWT: token, URL: s.o.URL, CA: s.o.CA}, nil
}

// note makes the key the machine's, and revokes the one before.
func (s *Service) note(ctx context.Context, t *stored, publicKey string) error {
	b, err := json.Marshal(Agent{Machine: t.Machine, PublicKey: publicKey, Groups: t.Groups, Enrolled: s.o.Now().UTC()})
	if err != nil {
		return err
	}
	for {
		entry, err := s.agents.Get(ctx, t.Machine)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			if _, err = s.agents.Create(ctx, t.Machine, b); err == nil {
				return nil
			}
		} else if err == nil {
			var was Agent
			if err := json.Unmarshal(entry.Value(), &was); err != nil {
				return fmt.Errorf("the entry of %s is unreadable: %w", t.Machine, err)
			}
			if was.PublicKey == publicKey {
				return fmt.Errorf("%w (its key was let in before; make a new one)", ErrRefused)
			}
			// First the old one out: after a crash here the machine has no agent, and
			// enrols again.
			if err := s.o.Issuer.Revoke(ctx, was.PublicKey); err != nil {
				return err
			}
			if _, err = s.agents.Update(ctx, t.Machine, b, entry.Revision()); err == nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !conflict(err) {
			return err
		}
	}
}

// Revoke ends a machine's agent for good. Doing it again is harmless.
func (s *Service) Revoke(ctx context.Context, machine string) (*Agent, error) {
	if err := streams.ValidName("machine", machine); err != nil {
		return nil, err
	}
	for {
		entry, err := s.agents.Get(ctx, machine)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			return nil, fmt.Errorf("no agent of machine %s was enrolled: %w", machine, ErrUnknown)
		}
		if err != nil {
			return nil, fmt.Errorf("look up the agent of %s: %w", machine, err)
		}
		var a Agent
		if err := json.Unmarshal(entry.Value(), &a); err != nil {
			return nil, fmt.Errorf("the entry of %s is unreadable: %w", machine, err)
		}
		if a.Revoked.IsZero() {
			a.Revoked = s.o.Now().UTC()
			b, err := json.Marshal(a)
			if err != nil {
				return nil, err
			}
			// Noted first: what the servers are not told now, they are at the next start.
			if _, err := s.agents.Update(ctx, machine, b, entry.Revision()); err != nil {
				if conflict(err) && ctx.Err() == nil {
					continue // enrolled again meanwhile
				}
				return nil, fmt.Errorf("note that %s is revoked: %w", machine, err)
			}
		}
		if err := s.o.Issuer.Revoke(ctx, a.PublicKey); err != nil {
			return nil, fmt.Errorf("revoke the agent of %s: %w: run this again", machine, err)
		}
		s.tell(machine, "revoked", wire.Warning, fmt.Sprintf("the agent with key %s is refused from now on", a.PublicKey), "to protect the machine again: leeward token new --machine "+machine)
		a.Schema = "leeward.agent.v1"
		return &a, nil
	}
}

// Agents lists the enrolled agents, by machine.
func (s *Service) Agents(ctx context.Context) ([]Agent, error) {
	out, err := list[Agent](ctx, s.agents)
	slices.SortFunc(out, func(a, b Agent) int { return strings.Compare(a.Machine, b.Machine) })
	return out, err
}

// Tokens lists the tokens, the oldest first. Their secrets are not among it.
func (s *Service) Tokens(ctx context.Context) ([]Token, error) {
	all, err := list[stored](ctx, s.tokens)
	out := make([]Token, 0, len(all))
	for _, t := range all {
		out = append(out, t.Token)
	}
	slices.SortFunc(out, func(a, b Token) int { return a.Created.Compare(b.Created) })
	return out, err
}

// RemoveToken makes a token useless.
func (s *Service) RemoveToken(ctx context.Context, id string) error {
	if streams.ValidName("token", id) != nil {
		return fmt.Errorf("token %.40q: %w", id, ErrUnknown)
	}
	if _, err := s.tokens.Get(ctx, id); err != nil {
		return fmt.Errorf("token %s: %w", id, ErrUnknown)
	}
	return s.tokens.Delete(ctx, id)
}

// Who says which machine a user's key was enrolled as; "" if none.
func (s *Service) Who(ctx context.Context, publicKey string) (string, error) {
	all, err := s.Agents(ctx)
	for _, a := range all {
		if a.PublicKey == publicKey {
			return a.Machine, nil
		}
	}
	return "", err
}

func list[T any](ctx context.Context, kv jetstream.KeyValue) ([]T, error) {
	keys, err := kv.ListKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("list bucket %s: %w", kv.Bucket(), err)
	}
	defer keys.Stop() //nolint:errcheck // it ends with its list
	out := []T{}
	for k := range keys.Keys() {
		e, err := kv.Get(ctx, k)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s of bucket %s: %w", k, kv.Bucket(), err)
		}
		var v T
		if err := json.Unmarshal(e.Value(), &v); err != nil {
			return nil, fmt.Errorf("%s of bucket %s is unreadable: %w", k, kv.Bucket(), err)
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *Service) tell(machine, kind string, sev wire.Severity, what, try string) {
	s.o.Tell(&wire.Event{Time: s.o.Now().UnixNano(), Machine: machine, Kind: kind, Severity: sev, What: what, Try: try})
}
