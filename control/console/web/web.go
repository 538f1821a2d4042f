package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/push/crew"
	"github.com/leeward-dr/leeward/control/session"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// Config of the console.
type Config struct {
	// Connect opens a connection to the bus with the rights of a role. The console keeps
	// one of each that is needed, and closes it.
	Connect func(ctx context.Context, r trust.Role) (*bus.Bus, error)
	Version string
	Every   time.Duration // how often a living page looks for changes; 0: 2 s
	Log     *slog.Logger
	Crew    *crew.Crew // goes to hosts with agents; nil: nobody does. The console closes it.
}

const (
	askTime  = 15 * time.Second // to render a page
	maxBody  = 300 << 10
	maxLive  = 128 // living pages at once
	connTime = 10 * time.Second
)

// Web is the console. It is an http.Handler.
type Web struct {
	c       Config
	handler http.Handler
	pages   *pages
	closing chan struct{}
	living  chan struct{}

	mu    sync.Mutex // guards conns; held while one is opened, which has a deadline
	conns map[trust.Role]*bus.Bus
}

// New makes the console. It connects when somebody comes.
func New(c Config) (*Web, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Every <= 0 {
		c.Every = 2 * time.Second
	}
	w := &Web{c: c, closing: make(chan struct{}), living: make(chan struct{}, maxLive), conns: map[trust.Role]*bus.Bus{}}
	var err error
	if w.pages, err = loadPages(); err != nil {
		return nil, err
	}
	m := http.NewServeMux()
	m.HandleFunc("GET /static/{file}", w.pages.static)
	m.HandleFunc("GET /login", w.loginPage)
	m.HandleFunc("POST /login", w.login)
	m.HandleFunc("POST /logout", w.logout)
	w.routes(m)
	// Requests that change something must come from a page of this console.
	w.handler = headers(http.NewCrossOriginProtection().Handler(m))
	return w, nil
}

// Close ends living pages and connections. Requests in work may fail.
func (w *Web) Close() {
	if w.c.Crew != nil {
		w.c.Crew.Close()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.closing:
		return
	default:
	}
	close(w.closing)
	for _, b := range w.conns {
		b.Close()
	}
	clear(w.conns)
}

// ServeHTTP implements http.Handler.
func (w *Web) ServeHTTP(rw http.ResponseWriter, r *http.Request) { w.handler.ServeHTTP(rw, r) }

// contentPolicy is the content security policy of every answer.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(rw, r.Body, maxBody)
		next.ServeHTTP(rw, r)
	})
}

// client asks control in a role, in somebody's name.
func (w *Web) client(ctx context.Context, r trust.Role, actor string) (*api.Client, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.conns[r]
	if b == nil {
		select {
		case <-w.closing:
			return nil, api.Errorf(api.CodeNoConnection, "", "the console is stopping")
		default:
		}
		ctx, cancel := context.WithTimeout(ctx, connTime)
		defer cancel()
		var err error
		if b, err = w.c.Connect(ctx, r); err != nil {
			return nil, api.Errorf(api.CodeNoConnection, "see that NATS runs and that control reaches it", "the console cannot reach the bus as %s: %w", r, err)
		}
		w.conns[r] = b
	}
	c := api.NewClient(b.Conn)
	c.Actor = actor
	return c, nil
}

// door is the client that asks who is signed in.
func (w *Web) door(ctx context.Context, actor string) (*api.Client, error) {
	return w.client(ctx, trust.Control, actor)
}

// ask is a request of somebody who is signed in.
type ask struct {
	context.Context
	*api.Client
	r      *http.Request
	who    *session.Session
	living bool // only the living part is wanted
}

// may reports whether the reader may ask control for a verb like "failover.test".
func (a *ask) may(verb string) bool { return may(a.who.Role, verb) }

// may reports whether a role may ask for a verb. Some verbs have a twin that ends in .admin,
// for requests that name commands or files of control's host.
func may(r trust.Role, verb string) bool { return trust.MayPublish(r, api.Prefix+"."+verb) }

// view is a page to show.
type view struct {
	page    string // its template
	section string // of the navigation
	title   string
	data    any
	still   bool // nothing on it changes by itself
	script  string
}

// build makes a page.
type build func(*ask) (*view, error)

// act does something and says where to go then.
type act func(*ask) (to string, err error)

// signedIn finds out who asks. It answers itself when nobody is signed in.
func (w *Web) signedIn(rw http.ResponseWriter, r *http.Request) *ask {
	who, err := w.sessionOf(r)
	if err != nil {
		if api.AsError(err).Code != api.CodeNotAuthorised {
			w.fail(rw, r, nil, err)
			return nil
		}
		if r.Method != http.MethodGet || strings.HasPrefix(r.URL.Path, "/live/") {
			w.fail(rw, r, nil, api.Errorf(api.CodeNotAuthorised, "sign in again, then repeat it", "nobody is signed in here any more"))
			return nil
		}
		http.Redirect(rw, r, loginURL(r), http.StatusSeeOther)
		return nil
	}
	c, err := w.client(r.Context(), who.Role, who.Name+" (console)")
	if err != nil {
		w.fail(rw, r, who, err)
		return nil
	}
	return &ask{Context: r.Context(), Client: c, r: r, who: who}
}

// show serves a page, and its living part below /live.
func (w *Web) show(m *http.ServeMux, pattern string, b build) {
	m.HandleFunc("GET "+pattern, func(rw http.ResponseWriter, r *http.Request) {
		a := w.signedIn(rw, r)
		if a == nil {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTime)
		defer cancel()
		a.Context = ctx
		v, err := b(a)
		if err != nil {
			w.fail(rw, r, a.who, err)
			return
		}
		w.render(rw, r, a.who, v, http.StatusOK)
	})
	m.HandleFunc("GET /live"+strings.TrimSuffix(pattern, "{$}"), func(rw http.ResponseWriter, r *http.Request) { w.live(rw, r, b) })
}

// part serves one template of a page alone.
func (w *Web) part(m *http.ServeMux, pattern, template string, b build) {
	m.HandleFunc("GET "+pattern, func(rw http.ResponseWriter, r *http.Request) {
		a := w.signedIn(rw, r)
		if a == nil {
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), askTime)
		defer cancel()
		a.Context = ctx
		v, err := b(a)
		var out bytes.Buffer
		if err == nil {
			err = w.draw(&out, template, w.shellOf(r, a.who, v))
		}
		if err != nil {
			w.fail(rw, r, a.who, err)
			return
		}
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = rw.Write(out.Bytes()) // who went away needs no answer
	})
}

// do serves an action that needs a right.
func (w *Web) do(m *http.ServeMux, pattern, verb string, fn act) {
	m.HandleFunc("POST "+pattern, func(rw http.ResponseWriter, r *http.Request) {
		a := w.signedIn(rw, r)
		if a == nil {
			return
		}
		if err := r.ParseForm(); err != nil {
			w.fail(rw, r, a.who, api.Errorf(api.CodeUsage, "", "the form is unreadable: %w", err))
			return
		}
		to, err := "", error(nil)
		if verb != "" {
			err = a.must(verb)
		}
		if err == nil {
			to, err = fn(a)
		}
		var again *again
		switch {
		case errors.As(err, &again):
			w.render(rw, r, a.who, again.view, again.status)
		case err != nil:
			w.fail(rw, r, a.who, err)
		default:
			http.Redirect(rw, r, to, http.StatusSeeOther)
		}
	})
}

// again shows a page instead of going to one: a form with what was typed and what was
// wrong with it, or what is shown only once.
type again struct {
	*view
	status int
}

// Error makes it what an act may return.
func (a *again) Error() string { return a.title }

// must refuses what the reader may not ask for.
func (a *ask) must(verb string) error {
	if a.may(verb) {
		return nil
	}
	return api.Errorf(api.CodeNotAuthorised, "ask somebody who may, or sign in in another role", "the role %s may not do this (%s)", a.who.Role, verb)
}

var statuses = map[api.Code]int{
	api.CodeUsage: http.StatusBadRequest, api.CodeNotFound: http.StatusNotFound, api.CodeRefused: http.StatusConflict,
	api.CodeNoConnection: http.StatusServiceUnavailable, api.CodeNotAuthorised: http.StatusForbidden, api.CodeTimeout: http.StatusGatewayTimeout,
}

var headlines = map[api.Code]string{
	api.CodeUsage: "That cannot be done so", api.CodeNotFound: "There is no such thing", api.CodeRefused: "Refused",
	api.CodeNoConnection: "Control does not answer", api.CodeNotAuthorised: "Not allowed", api.CodeTimeout: "No answer in time",
}

// trouble is what an error page shows.
type trouble struct {
	Head, What, Where, Try, Back string
}

func troubleOf(r *http.Request, err error) (trouble, int) {
	e := api.AsError(err)
	status, head := statuses[e.Code], headlines[e.Code]
	if status == 0 {
		status, head = http.StatusInternalServerError, "It failed"
	}
	t := trouble{Head: head, What: e.Message, Try: e.Try, Where: fmt.Sprintf("%s %s", r.Method, r.URL.Path)}
	if e.Code == api.CodeNoConnection || e.Code == api.CodeTimeout {
		t.Where += ", asked of control over the bus"
	}
	if ref := r.Header.Get("Referer"); r.Method == http.MethodPost && ref != "" {
		t.Back = pathOf(ref)
	}
	return t, status
}

func (w *Web) fail(rw http.ResponseWriter, r *http.Request, who *session.Session, err error) {
	if errors.Is(err, context.Canceled) {
		return // nobody waits any more
	}
	t, status := troubleOf(r, err)
	if status >= http.StatusInternalServerError {
		w.c.Log.Warn("a page of the console failed", "path", r.URL.Path, "err", err)
	}
	w.render(rw, r, who, &view{page: "error", title: t.Head, data: t, still: true}, status)
}
