package web

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/streams/trust"
)

func (w *Web) siteRoutes(m *http.ServeMux) {
	w.show(m, "/events", w.events)
	w.show(m, "/site", w.site)
	w.show(m, "/vault", w.vault)
	w.show(m, "/protect", w.protect)
	w.do(m, "/protect", "token.new", w.newToken)
	w.do(m, "/tokens/{id}/remove", "token.rm", func(a *ask) (string, error) {
		return "/protect?did=token-rm", a.RemoveToken(a, a.r.PathValue("id"))
	})
	w.do(m, "/agents/{machine}/revoke", "agent.revoke", func(a *ask) (string, error) {
		name := a.r.PathValue("machine")
		if a.r.PostForm.Get("confirm") != name {
			return "", api.Errorf(api.CodeRefused, "type the machine's name", "revoking the agent of %s is not confirmed", name)
		}
		_, err := a.RevokeAgent(a, name)
		return "/protect?did=revoke", err
	})
	w.show(m, "/people", w.people)
	w.do(m, "/people", "user.set", func(a *ask) (string, error) {
		f := a.r.PostForm
		_, err := a.SetUser(a, api.UserRequest{Name: strings.TrimSpace(f.Get("name")), Role: trust.Role(f.Get("role")), Password: f.Get("password")})
		return "/people?did=user", err
	})
	w.do(m, "/people/{name}/delete", "user.delete", func(a *ask) (string, error) {
		return "/people?did=user-rm", a.DeleteUser(a, a.r.PathValue("name"))
	})
}

// eventsPage is what happened, and what was looked for.
type eventsPage struct {
	Machine, Kind string
	Events        []api.Event
	Kinds         []string
}

const (
	shownEvents = 200
	kindPoint   = "point" // of the events that tell of new recovery points
)

// happened lists the newest n events that a query chooses, the newest first. Of new
// recovery points, which would drown the others, it tells only if it is asked for them.
func (a *ask) happened(q api.Query, n int) ([]api.Event, error) {
	all, err := a.Events(a, q)
	if err != nil {
		return nil, err
	}
	if q.Kind == "" {
		all = slices.DeleteFunc(all, func(e api.Event) bool { return e.Kind == kindPoint })
	}
	slices.Reverse(all)
	return all[:min(len(all), n)], nil
}

func (w *Web) events(a *ask) (*view, error) {
	q := a.r.URL.Query()
	p := &eventsPage{Machine: strings.TrimSpace(q.Get("machine")), Kind: strings.TrimSpace(q.Get("kind"))}
	var err error
	if p.Events, err = a.happened(api.Query{Machine: p.Machine, Kind: p.Kind}, shownEvents); err != nil {
		return nil, err
	}
	for _, e := range p.Events {
		if !slices.Contains(p.Kinds, e.Kind) {
			p.Kinds = append(p.Kinds, e.Kind)
		}
	}
	slices.Sort(p.Kinds)
	return &view{page: "events", section: "events", title: "Events", data: p}, nil
}

// sitePage is what runs between machines and vault.
type sitePage struct {
	Processes []api.ProcessServer
	Streams   []api.Stream
}

func (w *Web) site(a *ask) (*view, error) {
	p := &sitePage{}
	var err error
	if p.Processes, err = a.Processes(a); err != nil {
		return nil, err
	}
	if p.Streams, err = a.Streams(a); err != nil {
		return nil, err
	}
	return &view{page: "site", section: "site", title: "Process servers", data: p}, nil
}

func (w *Web) vault(a *ask) (*view, error) {
	v, err := a.Vault(a)
	if err != nil {
		return nil, err
	}
	return &view{page: "vault", section: "vault", title: "Vault", data: v, still: true}, nil
}

// protectPage lets machines in.
type protectPage struct {
	Token   *enrol.Token // just made: its text is shown once
	Server  string
	Tokens  []enrol.Token
	Agents  []enrol.Agent
	Problem string
	Machine string
}

func (w *Web) protectOf(a *ask) (*protectPage, error) {
	p := &protectPage{Server: "http://" + a.r.Host}
	if a.r.TLS != nil {
		p.Server = "https://" + a.r.Host
	}
	var err error
	if p.Tokens, err = a.Tokens(a); err != nil {
		return nil, err
	}
	slices.Reverse(p.Tokens)
	p.Agents, err = a.Agents(a)
	return p, err
}

func (w *Web) protect(a *ask) (*view, error) {
	p, err := w.protectOf(a)
	if err != nil {
		return nil, err
	}
	return &view{page: "protect", section: "machines", title: "Protect a machine", data: p, still: true}, nil
}

// newToken makes a token and shows it: it is never seen again.
func (w *Web) newToken(a *ask) (string, error) {
	f := a.r.PostForm
	q := api.NewToken{Machine: strings.TrimSpace(f.Get("machine")), TTLSeconds: 3600}
	for g := range strings.FieldsSeq(strings.ReplaceAll(f.Get("groups"), ",", " ")) {
		q.Groups = append(q.Groups, g)
	}
	t, err := a.NewToken(a, q)
	status := http.StatusOK
	p, perr := w.protectOf(a)
	if perr != nil {
		return "", perr
	}
	if err != nil {
		if api.AsError(err).Code != api.CodeUsage {
			return "", err
		}
		p.Problem, p.Machine, status = err.Error(), q.Machine, http.StatusBadRequest
	}
	p.Token = t
	return "", &again{&view{page: "protect", section: "machines", title: "Protect a machine", data: p, still: true}, status}
}

// peoplePage is who signs in, and who did what.
type peoplePage struct {
	Users   []session.User
	Roles   []trust.Role
	Records []api.Record
}

const shownRecords = 100

func (w *Web) people(a *ask) (*view, error) {
	p := &peoplePage{Roles: session.Roles()}
	var err error
	if p.Users, err = a.Users(a); err != nil {
		return nil, err
	}
	if p.Records, err = a.Records(a, api.Query{Limit: shownRecords}); err != nil {
		return nil, err
	}
	slices.Reverse(p.Records)
	return &view{page: "people", section: "people", title: "People", data: p, still: true}, nil
}

// signed is a drill's report as a file, as it was signed.
func (w *Web) signed(rw http.ResponseWriter, r *http.Request) {
	a := w.signedIn(rw, r)
	if a == nil {
		return
	}
	k, err := a.Report(a, r.PathValue("id"))
	if err != nil {
		w.fail(rw, r, a.who, err)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Content-Disposition", `attachment; filename="drill-report.json"`)
	_ = json.NewEncoder(rw).Encode(k) // who went away needs no answer
}
