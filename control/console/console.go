package console

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/control/enrol"
)

// Config of the listener.
type Config struct {
	Listen string // host:port; port 0 takes any free one
	TLS    *tls.Config
	// Token lets readers of metrics in that are on other machines; empty lets none.
	Token   string
	Enrol   func() (*enrol.Service, error)
	Ready   func(ctx context.Context) error // nil error: it can do its work
	Metrics []func(ctx context.Context) ([]Family, error)
	Pages   Pages // for people; nil: none
	Log     *slog.Logger
}

// Pages are what people see (package web). Close ends what does not end by itself.
type Pages interface {
	http.Handler
	Close()
}

// Validate names what cannot work.
func (c Config) Validate() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("--manage is %q: write host:port", c.Listen)
	}
	if ip := net.ParseIP(host); c.TLS == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("--manage is %s, which other machines can reach, but --listen is not: let agents reach --listen too, then both speak TLS", c.Listen)
	}
	return nil
}

const (
	maxRequest = 16 << 10
	enrolTime  = 30 * time.Second
	askTime    = 10 * time.Second
	maxEnrol   = 16 // enrolments at once
)

// Server answers on the management port.
type Server struct {
	c    Config
	l    net.Listener
	http *http.Server
	busy chan struct{}
	done chan struct{}
}

// Start listens and serves until Stop.
func Start(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("--manage: listen on %s: %w: choose another port, or none", c.Listen, err)
	}
	s := &Server{c: c, l: l, busy: make(chan struct{}, maxEnrol), done: make(chan struct{})}
	s.http = &http.Server{
		Handler: s.handler(), TLSConfig: c.TLS, MaxHeaderBytes: 16 << 10,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(c.Log.Handler(), slog.LevelDebug),
	}
	if c.Pages != nil {
		s.http.RegisterOnShutdown(c.Pages.Close)
	}
	go func() {
		defer close(s.done)
		err := error(nil)
		if c.TLS != nil {
			err = s.http.ServeTLS(l, "", "")
		} else {
			err = s.http.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			c.Log.Error("the management port ended", "err", err)
		}
	}()
	return s, nil
}

// URL is where it answers.
func (s *Server) URL() string {
	if s.c.TLS != nil {
		return "https://" + s.l.Addr().String()
	}
	return "http://" + s.l.Addr().String()
}

// Reached is where people reach it: URL, but where it listens on every address the name
// of advertise (host or host:port), or this machine's, stands for them.
func (s *Server) Reached(advertise string) string {
	u := s.URL()
	scheme, at, _ := strings.Cut(u, "://")
	host, port, err := net.SplitHostPort(at)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return u
	}
	name := advertise
	if h, _, err := net.SplitHostPort(advertise); err == nil {
		name = h
	}
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return u
		}
	}
	return scheme + "://" + net.JoinHostPort(name, port)
}

// Stop waits for requests in work until ctx ends.
func (s *Server) Stop(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.done
	return err
}

func (s *Server) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/enrol", s.enrol)
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok") })
	m.HandleFunc("GET /readyz", s.ready)
	m.HandleFunc("GET /metrics", s.metrics)
	if s.c.Pages != nil {
		m.Handle("/", s.c.Pages)
		m.HandleFunc("/v1/", func(w http.ResponseWriter, _ *http.Request) { // no page
			say(w, http.StatusMethodNotAllowed, "agents enrol here: POST /v1/enrol")
		})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		m.ServeHTTP(w, r)
	})
}

func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // who went away needs no answer
}

// Request is what an agent sends to be let in.
type Request struct {
	Token     string `json:"token"`
	PublicKey string `json:"public_key"`
}

func (s *Server) enrol(w http.ResponseWriter, r *http.Request) {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		w.Header().Set("Retry-After", "2")
		say(w, http.StatusTooManyRequests, "too many agents enrol at once: try again in a moment")
		return
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	var q Request
	if err := d.Decode(&q); err != nil {
		say(w, http.StatusBadRequest, "the request is unreadable: "+err.Error())
		return
	}
	e, err := s.c.Enrol()
	if err != nil {
		say(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), enrolTime)
	defer cancel()
	g, err := e.Redeem(ctx, q.Token, q.PublicKey)
	switch {
	case errors.Is(err, enrol.ErrRefused):
		say(w, http.StatusForbidden, enrol.ErrRefused.Error())
	case err != nil:
		s.c.Log.Error("an enrolment failed", "from", r.RemoteAddr, "err", err)
		say(w, http.StatusServiceUnavailable, "the server cannot enrol now; its log says why. If the token was used up, ask for a new one")
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(g) // the agent notices, and asks for a new token
	}
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	if err := s.c.Ready(ctx); err != nil {
		say(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	say(w, http.StatusOK, "ready")
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if !s.mayRead(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		say(w, http.StatusUnauthorized, "metrics need the token of keys/metrics.token: Authorization: Bearer …")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTime)
	defer cancel()
	var all []Family
	up := 1.0
	for _, source := range s.c.Metrics {
		f, err := source(ctx)
		if err != nil {
			s.c.Log.Warn("a source of metrics does not answer", "err", err)
			up = 0
		}
		all = append(all, f...)
	}
	// A part that is missing must not look like a part without troubles.
	all = append(all, Of("leeward_metrics_complete", "1 if every part of the process could be asked", Gauge, up))
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = write(w, all)
}

// mayRead lets this machine in, and who has the token.
func (s *Server) mayRead(r *http.Request) bool {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
			return true
		}
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && s.c.Token != "" && subtle.ConstantTimeCompare([]byte(token), []byte(s.c.Token)) == 1
}
