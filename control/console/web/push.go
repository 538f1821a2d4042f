package web

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/push"
	"github.com/leeward-dr/leeward/control/push/crew"
)

// verbPush is what who goes to hosts may ask for; the bus lets admins only.
const verbPush = "agent.push"

func (w *Web) pushRoutes(m *http.ServeMux) {
	if w.c.Crew == nil {
		return
	}
	w.show(m, "/push", w.pushForm)
	w.do(m, "/push/look", verbPush, w.pushLook)
	w.do(m, "/push", verbPush, w.pushBegin)
	w.show(m, "/push/{id}", w.pushRound)
}

// pushPage asks where to go, then which keys are right and who we are there.
type pushPage struct {
	Do, User, Hosts string
	Machine         string // whose page led here
	Seen            []crew.Seen
	Accepted        map[string]bool // hosts whose key was accepted, when the form comes again
	One             bool            // host
	Word            string          // to be typed
	Manage, Name    string
	Group, Disks    string
	Local           bool // Manage is an address that only this machine has
	Problem         string
	Rounds          []*crew.Round
}

// pushTitles say what is done.
var pushTitles = map[string]string{crew.Install: "Add machines", crew.Upgrade: "Upgrade agents", crew.Uninstall: "Remove agents"}

func (p *pushPage) view() *view {
	title := pushTitles[p.Do]
	if p.Machine != "" {
		title = map[string]string{crew.Upgrade: "Upgrade the agent of ", crew.Uninstall: "Remove the agent of ", crew.Install: "Add "}[p.Do] + p.Machine
	}
	return &view{page: "push", section: "machines", title: title, data: p, still: true}
}

// pushOf reads what a form or an address says of a push.
func pushOf(f url.Values) *pushPage {
	g := func(n string) string { return strings.TrimSpace(f.Get(n)) }
	p := &pushPage{
		Do: g("do"), User: cmp.Or(g("user"), "root"), Hosts: g("hosts"), Machine: g("machine"), Manage: g("manage"), Name: g("name"), Group: g("group"), Disks: g("disks"),
	}
	if pushTitles[p.Do] == "" {
		p.Do = crew.Install
	}
	return p
}

func (w *Web) pushForm(a *ask) (*view, error) {
	if err := a.must(verbPush); err != nil {
		return nil, err
	}
	p := pushOf(a.r.URL.Query())
	if p.Machine != "" && p.Hosts == "" {
		m, err := a.Client.Machine(a, p.Machine)
		if err != nil {
			return nil, err
		}
		p.Hosts = cmp.Or(m.Host, p.Machine)
	}
	p.Rounds = w.c.Crew.Rounds()
	return p.view(), nil
}

// targets reads the hosts, one a line.
func (p *pushPage) targets() ([]push.Target, error) {
	var all []push.Target
	for h := range strings.FieldsFuncSeq(p.Hosts, func(r rune) bool { return strings.ContainsRune(" \t\r\n,", r) }) {
		t, err := push.ParseTarget(h, p.User)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(all, t) {
			all = append(all, t)
		}
	}
	switch {
	case len(all) == 0:
		return nil, api.Errorf(api.CodeUsage, "", "name a host")
	case len(all) > crew.MaxHosts:
		return nil, api.Errorf(api.CodeUsage, "", "%d hosts, at most %d at once", len(all), crew.MaxHosts)
	}
	return all, nil
}

// pushLook goes to the hosts for their keys. It is a POST: no link makes the server knock
// on doors.
func (w *Web) pushLook(a *ask) (string, error) {
	p := pushOf(a.r.PostForm)
	return "", w.pushAgain(a, p, http.StatusOK)
}

// pushAgain shows the second step, or the first with what is wrong.
func (w *Web) pushAgain(a *ask, p *pushPage, status int) *again {
	targets, err := p.targets()
	if err != nil {
		p.Problem, p.Rounds = err.Error(), w.c.Crew.Rounds()
		return &again{p.view(), http.StatusBadRequest}
	}
	ctx, cancel := context.WithTimeout(a, askTime)
	defer cancel()
	p.Seen, p.One = crew.LookAt(ctx, targets), len(targets) == 1
	if p.Do == crew.Uninstall {
		p.Word = cmp.Or(p.Machine, "remove")
	}
	if p.Manage == "" {
		p.Manage = "http://" + a.r.Host
		if a.r.TLS != nil {
			p.Manage = "https://" + a.r.Host
		}
	}
	if u, err := url.Parse(p.Manage); err == nil {
		ip := net.ParseIP(u.Hostname())
		p.Local = u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	}
	return &again{p.view(), status}
}

// pushBegin sends the crew out. The secrets go from the form to the crew and nowhere else:
// a form that comes again has them no more.
func (w *Web) pushBegin(a *ask) (string, error) {
	f := a.r.PostForm
	p := pushOf(f)
	secret := func(name string) []byte { // browsers send lines with CR LF
		b := []byte(strings.ReplaceAll(f.Get(name), "\r\n", "\n"))
		f.Del(name)
		a.r.Form.Del(name)
		return b
	}
	o := crew.Order{
		Do: p.Do, Password: secret("password"), Key: secret("key"), Passphrase: secret("passphrase"), By: a.who.Name, Machine: p.Name, Group: p.Group,
		Disks: strings.Fields(p.Disks),
	}
	o.Key = keyText(o.Key)
	note := api.PushNote{Do: p.Do}
	p.Accepted = map[string]bool{}
	for _, v := range f["accept"] {
		host, print, _ := strings.Cut(v, " ")
		t, err := push.ParseTarget(host, p.User)
		if err != nil {
			return "", api.Errorf(api.CodeUsage, "", "%w", err)
		}
		p.Accepted[t.String()] = true
		o.Hosts = append(o.Hosts, crew.Host{Target: t, Fingerprint: print})
		note.Hosts, note.Keys = append(note.Hosts, t.String()), append(note.Keys, print)
	}
	if p.Do == crew.Uninstall && f.Get("confirm") != cmp.Or(p.Machine, "remove") {
		return "", api.Errorf(api.CodeRefused, "type the word that the form asks for", "removing agents is not confirmed")
	}
	o.Server = crew.Server{Client: a.Client, Manage: p.Manage}
	if err := o.Validate(); err != nil {
		p.Problem = err.Error()
		return "", w.pushAgain(a, p, http.StatusBadRequest)
	}
	if err := a.NotePush(a, note); err != nil { // what is not in the audit trail is not done
		return "", err
	}
	id, err := w.c.Crew.Begin(o)
	if err != nil {
		return "", api.Errorf(api.CodeRefused, "", "%w", err)
	}
	return "/push/" + id, nil
}

// keyText gives a key the line end that people lose when they copy it.
func keyText(b []byte) []byte {
	if len(b) == 0 || b[len(b)-1] == '\n' {
		return b
	}
	defer clear(b)
	return append(slices.Clone(b), '\n')
}

// pushVisit is a round with how long it took.
type pushVisit struct {
	*crew.Round
	Title string
	Took  time.Duration
}

func (w *Web) pushRound(a *ask) (*view, error) {
	if err := a.must(verbPush); err != nil {
		return nil, err
	}
	r := w.c.Crew.Round(a.r.PathValue("id"))
	if r == nil {
		return nil, api.Errorf(api.CodeNotFound, "look at the machines; who did what is in the audit trail", "this round is not remembered any more: rounds are kept until control is started again")
	}
	p := &pushVisit{Round: r, Title: pushTitles[r.Do]}
	if p.Took = time.Since(r.Started); r.Over() {
		p.Took = r.Ended.Sub(r.Started)
	}
	return &view{page: "round", section: "machines", title: p.Title, data: p}, nil
}
