package api

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/session"
)

// ActorHeader is where a caller says who it is.
const ActorHeader = "Leeward-Actor"

// reads are the verbs that change nothing; every other one is kept in the audit trail.
var reads = []string{"ls", "show", "info", "trace", "versions", "forecast", "validate"}

// changes reports whether the endpoint changes something.
func (e *endpoint) changes() bool { return !slices.Contains(reads, e.verb) && e.noun != sessionNoun }

// audited reports whether a request is kept: also who signs in, though that changes nothing
// of what is protected; not every look at a session.
func (e *endpoint) audited() bool { return e.changes() || e.noun == sessionNoun && e.verb != "check" }

const (
	maxActor   = 200
	maxAudited = 4 << 10 // bytes of a request that are kept
)

// actor says who asks: the name that the caller gives itself, and the key that is in
// its inbox. A role's permissions bind it to its own inbox, so the key is the server's
// word and the name is only the caller's.
func actor(r micro.Request) Actor {
	a := Actor{Name: strings.ToValidUTF8(r.Headers().Get(ActorHeader), "")}
	if a.Name == "" {
		a.Name = "unknown"
	}
	a.Name = a.Name[:min(len(a.Name), maxActor)]
	if t := strings.Split(r.Reply(), "."); len(t) > 1 && strings.HasPrefix(t[0], "_INBOX") {
		a.Key = t[0] + "." + t[1]
	}
	return a
}

// audit keeps a record of a request that changes something, whatever came of it.
func (s *Server) audit(ctx context.Context, e endpoint, r micro.Request, v any, err error) {
	if !e.audited() {
		return
	}
	a := ActorOf(ctx)
	rec := Record{Time: time.Now().UTC(), Actor: a.Name, Key: a.Key, Action: e.noun + "-" + e.verb}
	b := r.Data()
	if !secret(e.noun) {
		rec.Request = strings.ToValidUTF8(string(b[:min(len(b), maxAudited)]), "?")
	}
	var names struct{ ID, Name, Plan, Machine, Group, Run string }
	if json.Unmarshal(b, &names) == nil { // else the request was refused, which is kept too
		for _, n := range []string{names.Machine, names.Group, names.Plan, names.Run, names.ID, names.Name} {
			if n != "" {
				rec.Object = n[:min(len(n), maxActor)]
				break
			}
		}
	}
	if k, ok := v.(*session.Session); ok && k != nil {
		rec.Object = k.Name // who was let in
	}
	if err != nil {
		rec.Error = err.Error()[:min(len(err.Error()), maxAudited)]
	}
	if err := s.backend.Audit(ctx, rec); err != nil {
		s.log.Error("an action is missing in the audit trail", "action", rec.Action, "actor", rec.Actor, "err", err)
	}
}
