package apitest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/leeward-dr/leeward/control/api"
)

// Watch is what hears.
type Watch struct {
	t   *testing.T
	all map[string]*contract

	mu     sync.Mutex
	asked  map[string]string // by the subject of the answer: the endpoint
	seen   map[string]int    // answers that were no error, by endpoint
	failed map[string]bool
}

type contract struct{ request, response *jsonschema.Resolved }

// Start hears what passes on a connection that may hear everything, until the test ends,
// and reports each request and each answer that is not as the endpoint's schema says.
func Start(t *testing.T, nc *nats.Conn) *Watch {
	t.Helper()
	w := &Watch{t: t, all: map[string]*contract{}, asked: map[string]string{}, seen: map[string]int{}, failed: map[string]bool{}}
	for _, c := range api.Contracts() {
		one, err := api.ContractOf(c.Name)
		if err != nil {
			t.Fatal(err)
		}
		w.all[c.Name] = &contract{Resolve(t, one.Request), Resolve(t, one.Response)}
	}
	sub, err := nc.Subscribe(">", w.hear)
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() }) // the connection may be closed by now
	return w
}

// Resolve reads a schema, which must be a good one.
func Resolve(t *testing.T, text json.RawMessage) *jsonschema.Resolved {
	t.Helper()
	s := new(jsonschema.Schema)
	err := json.Unmarshal(text, s)
	var r *jsonschema.Resolved
	if err == nil {
		r, err = s.Resolve(nil)
	}
	if err != nil {
		t.Fatalf("no JSON schema: %v: %s", err, text)
	}
	return r
}

func (w *Watch) hear(m *nats.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, ok := strings.CutPrefix(m.Subject, api.Prefix+"."); ok {
		w.asked[m.Reply] = name
		if c := w.all[name]; c != nil && len(m.Data) > 0 && w.kept(m) {
			w.check("request", name, c.request, m.Data)
		}
		return
	}
	name, ok := w.asked[m.Subject]
	if !ok {
		return
	}
	delete(w.asked, m.Subject)
	c := w.all[name]
	if c == nil || m.Header.Get(micro.ErrorCodeHeader) != "" || strings.HasPrefix(m.Header.Get("Status"), "503") {
		return // an error, or nobody there
	}
	w.seen[strings.TrimSuffix(name, twin)]++
	w.check("answer", name, c.response, m.Data)
}

// kept reports whether a request comes from a client of ours, which sends what the schema
// allows; tests send other things, too.
func (w *Watch) kept(m *nats.Msg) bool { return m.Header.Get(api.ActorHeader) != "" }

func (w *Watch) check(what, name string, s *jsonschema.Resolved, text []byte) {
	var doc any
	err := json.Unmarshal(text, &doc)
	if err == nil {
		err = s.Validate(doc)
	}
	if key := what + name; err != nil && !w.failed[key] {
		w.failed[key] = true
		w.t.Errorf("%s of %s is not as its schema says: %v: %.2000s", what, name, err, text)
	}
}

// twin ends the names of endpoints that take what another one takes, and more.
const twin = ".admin"

// Want reports the endpoints that answered nobody within a while, of those that which
// chooses. What is heard here may come later than the answer to who asked.
func (w *Watch) Want(which func(name string) bool) {
	w.t.Helper()
	var left []string
	for end := time.Now().Add(patience); ; {
		if left = w.unseen(which); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			w.t.Errorf("nobody asked for %v; seen are %v", left, w)
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-w.t.Context().Done():
			return
		}
	}
}

const patience = 10 * time.Second

func (w *Watch) unseen(which func(name string) bool) (names []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.all {
		if w.seen[strings.TrimSuffix(name, twin)] == 0 && which(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// String says how often each endpoint was seen.
func (w *Watch) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.seen)
}
