package armtest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// Fate is what becomes of a request.
type Fate int

// The fates of requests.
const (
	Good    Fate = iota
	Lost         // it is done, and its answer is lost
	Busy         // it is not done: 503
	Refused      // it is not done: 409, which is not tried again
	Dead         // it is done, and the process dies before it hears of it
)

// String names a fate.
func (f Fate) String() string { return [...]string{"good", "lost", "busy", "refused", "dead"}[f] }

// Switch is what all requests go through. It is a policy.Transporter.
type Switch struct {
	serve func(*http.Request) (*http.Response, error)

	mu    sync.Mutex
	calls []string
	at    int // the request with a fate, counted from 1; 0: none
	fate  Fate
	dead  bool
	died  chan struct{}
	last  func() // called when a process dies
	out   bool   // nobody is let in
}

// errLost is what a request whose answer is lost ends with.
var errLost = errors.New("connection reset, as the test wants it")

// died is an error that nothing is tried again after.
type died struct{ error }

// NonRetriable implements errorinfo.NonRetriable.
func (died) NonRetriable() {}

// At gives the request with a number, from now on and counted from 1, a fate. The channel
// is closed when a process has died.
func (s *Switch) At(n int, f Fate) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls, s.at, s.fate, s.dead, s.died = nil, n, f, false, make(chan struct{})
	return s.died
}

// OnDeath sets what is done at the moment when a process dies, such as keeping what is on
// its disk: what it does from then on has never been.
func (s *Switch) OnDeath(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = do
}

// Calls lists the requests since At.
func (s *Switch) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// Forbid takes our rights away, or gives them back.
func (s *Switch) Forbid(out bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = out
}

// Revive lets a new process speak.
func (s *Switch) Revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead, s.at = false, 0
}

// Do implements policy.Transporter.
func (s *Switch) Do(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.dead {
		s.mu.Unlock()
		return nil, died{errLost}
	}
	if s.out {
		s.mu.Unlock()
		return fault(req, http.StatusForbidden, "AuthorizationFailed"), nil
	}
	s.calls = append(s.calls, describe(req))
	fate := Good
	if len(s.calls) == s.at {
		fate = s.fate
	}
	if fate == Dead {
		s.dead = true
		if s.last != nil {
			s.last()
		}
		close(s.died)
	}
	s.mu.Unlock()
	switch fate {
	case Busy:
		return fault(req, http.StatusServiceUnavailable, "ServerBusy"), nil
	case Refused:
		return fault(req, http.StatusConflict, "Conflict"), nil
	}
	resp, err := s.serve(req)
	if fate == Good || err != nil {
		return resp, err
	}
	resp.Body.Close()
	if fate == Dead {
		return nil, died{errLost}
	}
	return nil, errLost
}

// describe names a request without what signs it.
func describe(req *http.Request) string {
	parts := strings.Split(req.URL.Path, "/")
	what := strings.Join(parts[max(0, len(parts)-3):], "/")
	if comp := req.URL.Query().Get("comp"); comp != "" {
		what += " " + comp
	}
	return fmt.Sprintf("%s %s", req.Method, what)
}
