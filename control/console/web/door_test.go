package web

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/trust"
)

// control answers what the pages of these tests ask; the bus between is real.
type control struct {
	api.Backend
	sessions *session.Service

	mu       sync.Mutex
	machines []api.Machine
	err      error
	audited  []api.Record
	cleaned  []string
	bad      bool              // a failover would fail
	began    []api.LifeRequest // failovers
}

func (c *control) Sessions() (*session.Service, string) { return c.sessions, "" }

func (c *control) Machines(context.Context, api.Query) ([]api.Machine, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machines, c.err
}

func (c *control) Audit(_ context.Context, r api.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.audited = append(c.audited, r)
	return nil
}

func (c *control) Unpin(_ context.Context, id string) (*api.Point, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleaned = append(c.cleaned, id)
	return &api.Point{ID: id}, nil
}

func (c *control) set(machines []api.Machine, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.machines, c.err = machines, err
}

// site is a console in front of a control.
type site struct {
	*testing.T
	at   *control
	url  string
	door *session.Service
}

func serve(t *testing.T, secure bool) *site {
	t.Helper()
	n := streamstest.StartWith(t, t.TempDir())
	b := n.Bus()
	c := &control{sessions: session.New(b.JS, nil)}
	s, err := api.Serve(b.Conn, c, "1.0.0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(Config{Version: "1.0.0", Every: 20 * time.Millisecond, Connect: func(ctx context.Context, r trust.Role) (*bus.Bus, error) {
		return bus.Connect(ctx, bus.Options{Name: string(r), InProcess: n})
	}})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewUnstartedServer(w)
	if h.EnableHTTP2 = secure; secure {
		h.StartTLS()
	} else {
		h.Start()
	}
	t.Cleanup(func() {
		w.Close()
		h.CloseClientConnections()
		h.Close()
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &site{T: t, at: c, url: h.URL, door: c.sessions}
}

// visitor is a browser without a window.
func (s *site) visitor() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.Fatal(err)
	}
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: trusting()}
	s.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: tr, Timeout: time.Minute}
}

// in signs a visitor in.
func (s *site) in(role trust.Role) *http.Client {
	s.Helper()
	l, err := s.door.NewLogin(s.Context(), "ann", role)
	if err != nil {
		s.Fatal(err)
	}
	c := s.visitor()
	if code, page := s.get(c, "/login?code="+l.Code); code != 200 || !strings.Contains(page, l.Code) {
		s.Fatalf("the page of a code: %d", code)
	}
	if code, page := s.post(c, "/login", url.Values{"code": {l.Code}, "next": {"/machines"}}); code != 200 || !strings.Contains(page, "<h1>Machines</h1>") {
		s.Fatalf("signing in: %d %s", code, page)
	}
	return c
}

func (s *site) get(c *http.Client, path string) (int, string) {
	s.Helper()
	r, err := c.Get(s.url + path)
	if err != nil {
		s.Fatal(err)
	}
	return s.read(r)
}

func (s *site) post(c *http.Client, path string, form url.Values, header ...string) (int, string) {
	s.Helper()
	q, err := http.NewRequestWithContext(s.Context(), http.MethodPost, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("Sec-Fetch-Site", "same-origin")
	for i := 0; i+1 < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	r, err := c.Do(q)
	if err != nil {
		s.Fatal(err)
	}
	return s.read(r)
}

func (s *site) read(r *http.Response) (int, string) {
	s.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		s.Fatal(err)
	}
	if got := r.Header.Get("Content-Security-Policy"); got != contentPolicy {
		s.Errorf("%s: the content security policy is %q", r.Request.URL.Path, got)
	}
	return r.StatusCode, string(b)
}

// Nobody gets in without a session, and a session ends.
func TestTheDoor(t *testing.T) {
	t.Parallel()
	s := serve(t, true)
	c := s.visitor()
	for _, path := range []string{"/", "/machines", "/machines/web", "/jobs", "/people", "/protect", "/machines/web/history"} {
		if code, page := s.get(c, path); code != 200 || !strings.Contains(page, "<h1>Sign in</h1>") {
			t.Errorf("%s is open: %d", path, code)
		}
	}
	for _, path := range []string{"/live/machines", "/live/"} {
		if code, _ := s.get(c, path); code != 403 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _ := s.post(c, "/points/x/unpin", nil); code != 403 {
		t.Errorf("an action of nobody: %d", code)
	}
	if code, page := s.post(c, "/login", url.Values{"code": {"WRONG"}}); code != 403 || !strings.Contains(page, "leeward console login") {
		t.Errorf("a wrong code: %d %s", code, page)
	}
	ann := s.in(trust.Operator)
	u, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	if k := ann.Jar.Cookies(u); len(k) != 1 || k[0].Name != "__Host-leeward" {
		t.Errorf("the cookies are %v", k)
	}
	other := s.visitor()
	other.Jar.SetCookies(u, []*http.Cookie{{Name: "__Host-leeward", Value: "x" + ann.Jar.Cookies(u)[0].Value[1:], Path: "/", Secure: true}})
	if _, page := s.get(other, "/machines"); !strings.Contains(page, "Sign in") {
		t.Error("another secret lets in")
	}
	stolen := ann.Jar.Cookies(u)
	if code, page := s.post(ann, "/logout", nil); code != 200 || !strings.Contains(page, "Sign in") {
		t.Errorf("signing out: %d", code)
	}
	other.Jar.SetCookies(u, stolen)
	if _, page := s.get(other, "/machines"); !strings.Contains(page, "Sign in") {
		t.Error("a session that was ended lets in")
	}
}

// What changes something comes from a page of the console, from somebody who may, and is
// audited under their name.
func TestWhoMayChangeWhat(t *testing.T) {
	t.Parallel()
	s := serve(t, false)
	op := s.in(trust.Operator)
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"}} {
		if code, _ := s.post(op, "/points/p/unpin", url.Values{"machine": {"web"}}, header...); code != 403 {
			t.Errorf("%v: %d", header, code)
		}
	}
	if len(s.at.cleaned) != 0 {
		t.Fatal("a forged request was obeyed")
	}
	for _, role := range []trust.Role{trust.Viewer, trust.Tester} {
		if code, page := s.post(s.in(role), "/points/p/unpin", url.Values{"machine": {"web"}}); code != 403 || !strings.Contains(page, "may not do this") {
			t.Errorf("a %s: %d", role, code)
		}
	}
	if len(s.at.cleaned) != 0 {
		t.Fatal("somebody who may not was obeyed")
	}
	s.post(op, "/points/p/unpin", url.Values{"machine": {"web"}}) // the machine's page is not there: what counts is what was asked
	s.at.mu.Lock()
	defer s.at.mu.Unlock()
	if len(s.at.cleaned) != 1 || s.at.cleaned[0] != "p" {
		t.Fatalf("%v", s.at.cleaned)
	}
	last := s.at.audited[len(s.at.audited)-1]
	if last.Action != "point-unpin" || last.Actor != "ann (console)" || last.Object != "p" {
		t.Errorf("%+v", last)
	}
	for _, r := range s.at.audited {
		if strings.HasPrefix(r.Action, "session-") && r.Request != "" {
			t.Errorf("what signs in is in the audit trail: %+v", r)
		}
	}
}

// A living page tells what changes, and says it when control is in trouble.
func TestLivingPages(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"HTTP/1.1": false, "HTTP/2 over TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, secure)
			c := s.in(trust.Viewer)
			r, err := c.Get(s.url + "/live/machines")
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			if got := r.Header.Get("Content-Type"); got != "text/event-stream" || r.StatusCode != 200 {
				t.Fatalf("%d %s", r.StatusCode, got)
			}
			lines := bufio.NewScanner(r.Body)
			until := func(word string) {
				t.Helper()
				for lines.Scan() {
					if strings.Contains(lines.Text(), word) {
						return
					}
				}
				t.Fatalf("it ends before it says %s: %v", word, lines.Err())
			}
			until("No machine is known.")
			s.at.set([]api.Machine{{Machine: "web", Health: "healthy"}}, nil)
			until("/machines/web")
			s.at.set(nil, api.Errorf(api.CodeFailed, "try that", "the disk <b>burns"))
			until("It failed")
			until("the disk &lt;b&gt;burns")
			until("try that")
			s.at.set(nil, nil)
			until("No machine is known.")
		})
	}
}

func TestErrorsSayWhatWhereAndTry(t *testing.T) {
	t.Parallel()
	s := serve(t, false)
	c := s.in(trust.Viewer)
	for code, want := range map[api.Code]int{api.CodeFailed: 500, api.CodeNotFound: 404, api.CodeRefused: 409, api.CodeTimeout: 504, api.CodeNoConnection: 503, api.CodeUsage: 400} {
		s.at.set(nil, api.Errorf(code, "leeward try this", "what went wrong"))
		got, page := s.get(c, "/machines")
		for _, word := range []string{"what went wrong", "GET /machines", "leeward try this"} {
			if got != want || !strings.Contains(page, word) {
				t.Errorf("%s: %d, want %d; without %q", code, got, want, word)
			}
		}
	}
	if code, _ := s.get(c, "/nothing"); code != 404 {
		t.Errorf("a page that is not there: %d", code)
	}
}

// Files are fetched once and for ever, under an address that changes with them.
func TestStaticFiles(t *testing.T) {
	t.Parallel()
	w, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	whole := 0
	for name, a := range w.pages.assets {
		at, err := w.pages.address(name)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, at, nil)
		r.Header.Set("Accept-Encoding", "gzip")
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, r)
		if rec.Code != 200 || !strings.Contains(rec.Header().Get("Cache-Control"), "immutable") || rec.Header().Get("Content-Encoding") != "gzip" || a.kind == "" {
			t.Errorf("%s: %d %v", at, rec.Code, rec.Header())
		}
		whole += rec.Body.Len()
		rec = httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/static/"+name+"?v=old", nil))
		if rec.Code != 200 || rec.Header().Get("Cache-Control") != "no-store" || rec.Body.Len() != len(a.plain) {
			t.Errorf("%s of another version: %d %v", name, rec.Code, rec.Header())
		}
	}
	if whole > 120<<10 {
		t.Errorf("all files together weigh %d bytes, compressed", whole)
	}
	for _, at := range []string{"/static/", "/static/x", "/static/..%2fweb.go"} {
		rec := httptest.NewRecorder()
		w.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, at, nil))
		if rec.Code == 200 {
			t.Errorf("%s is served", at)
		}
	}
}
