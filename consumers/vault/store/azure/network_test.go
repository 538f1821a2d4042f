package azure

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
)

// line is the network between us and the service. bad decides about a request; it
// gets what sends it on.
type line struct {
	bad atomic.Pointer[func(*http.Request, func() (*http.Response, error)) (*http.Response, error)]
	n   atomic.Int32
}

func (l *line) Do(r *http.Request) (*http.Response, error) {
	l.n.Add(1)
	send := func() (*http.Response, error) { return http.DefaultClient.Do(r) }
	if bad := l.bad.Load(); bad != nil {
		return (*bad)(r, send)
	}
	return send()
}

// once lets the first request with a method fall to bad.
func (l *line) once(method string, bad func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error)) {
	var done atomic.Bool
	f := func(r *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
		if r.Method != method || done.Swap(true) {
			return send()
		}
		return bad(r, send)
	}
	l.bad.Store(&f)
}

// stalled is a body that stops in the middle until its request is given up.
type stalled struct {
	ctx  context.Context
	some io.Reader
}

func (s stalled) Read(b []byte) (int, error) {
	if n, err := s.some.Read(b); err == nil {
		return n, nil
	}
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func (stalled) Close() error { return nil }

type sender = func() (*http.Response, error)

func lostAnswer(_ *http.Request, send sender) (*http.Response, error) {
	r, err := send()
	if err == nil {
		r.Body.Close()
	}
	return nil, errors.New("connection reset by peer")
}

func noAnswer(r *http.Request, send sender) (*http.Response, error) {
	if a, err := send(); err == nil {
		a.Body.Close()
	}
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func cutBody(_ *http.Request, send sender) (*http.Response, error) {
	r, err := send()
	if err == nil {
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(r.Body, 1000), r.Body}
	}
	return r, err
}

func stall(q *http.Request, send sender) (*http.Response, error) {
	r, err := send()
	if err == nil {
		r.Body = stalled{q.Context(), io.LimitReader(r.Body, 1000)}
	}
	return r, err
}

func throttle(status int) func(*http.Request, sender) (*http.Response, error) {
	return func(r *http.Request, _ sender) (*http.Response, error) {
		return &http.Response{
			StatusCode: status, Request: r, Body: io.NopCloser(strings.NewReader("")),
			Header: http.Header{"X-Ms-Error-Code": {"ServerBusy"}, "Retry-After": {"1"}},
		}, nil
	}
}

// badNetwork: whatever the network does to one request, Retry makes it good, and a put
// never ends as somebody else's.
func badNetwork(t *testing.T, r *rig) {
	c := r.config()
	c.Patience, c.Create = 2*time.Second, true
	r.open(t, c)
	c.Create = false
	connect := func() (*line, *Store) {
		l := &line{}
		raw, err := open(c, l)
		if err != nil {
			t.Fatal(err)
		}
		return l, raw
	}
	data := bytes.Repeat([]byte("leeward "), 10_000)
	var all sync.WaitGroup
	for name, c := range map[string]struct {
		method string
		bad    func(*http.Request, sender) (*http.Response, error)
	}{
		"put-lost": {"PUT", lostAnswer}, "put-silent": {"PUT", noAnswer}, "put-429": {"PUT", throttle(429)}, "put-503": {"PUT", throttle(503)},
		"get-lost": {"GET", lostAnswer}, "get-cut": {"GET", cutBody}, "get-stalled": {"GET", stall}, "get-500": {"GET", throttle(500)},
	} {
		l, raw := connect()
		s := store.Retry(raw, store.Policy{Tries: 8, Base: 10 * time.Millisecond, Max: 2 * time.Second})
		l.once(c.method, c.bad)
		all.Go(func() {
			if err := s.Put(t.Context(), name, data); err != nil {
				t.Errorf("%s: put: %v", name, err)
			}
			if b, err := s.Get(t.Context(), name, 0, -1); err != nil || !bytes.Equal(b, data) {
				t.Errorf("%s: get: %d bytes, %v", name, len(b), err)
			}
			if l.n.Load() == 2 {
				t.Errorf("%s: nothing went wrong", name)
			}
		})
	}
	all.Wait()
	l, raw := connect()
	// Without Retry the reasons are told apart.
	l.once("PUT", throttle(503))
	var busy *store.BusyError
	if err := raw.Put(t.Context(), "busy", nil); !errors.As(err, &busy) || busy.After != time.Second {
		t.Errorf("throttled: %v, want a BusyError after 1s", err)
	}
	l.once("GET", cutBody)
	if _, err := raw.Get(t.Context(), "get-cut", 0, -1); err == nil || store.Final(err) {
		t.Errorf("cut: %v, want an error worth another try", err)
	}
}

// signedAccess opens with a shared access signature, which shows in no error, also when
// the transport puts the whole URL into its own.
func signedAccess(t *testing.T, r *rig) {
	c := r.config()
	r.open(t, c)
	cred, err := container.NewSharedKeyCredential(azuritetest.Account, azuritetest.Key)
	if err != nil {
		t.Fatal(err)
	}
	q, err := sas.BlobSignatureValues{
		Protocol: sas.ProtocolHTTPSandHTTP, ExpiryTime: time.Now().Add(time.Hour), ContainerName: c.Container,
		Permissions: (&sas.ContainerPermissions{Read: true, Create: true, List: true}).String(), // as a process server's
	}.SignWithSharedKey(cred)
	if err != nil {
		t.Fatal(err)
	}
	token := q.Encode()
	c.Create, c.Secret = false, NewSecret("?"+token)
	s := r.open(t, c)
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Get(t.Context(), "a/b", 0, -1); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	var all []error
	err = s.Delete(t.Context(), "a/b")
	if !errors.Is(err, store.ErrDenied) {
		t.Errorf("delete without the right: %v, want ErrDenied", err)
	}
	all = append(all, err)
	c.Endpoint = "http://127.0.0.1:1/" + azuritetest.Account
	gone := r.open(t, c)
	_, err = gone.Get(t.Context(), "a/b", 0, -1)
	all = append(all, err, gone.Put(t.Context(), "k", nil))
	for _, err := range all {
		if err == nil || strings.Contains(err.Error(), "sig=") || strings.Contains(err.Error(), q.Signature()) {
			t.Errorf("%v: want an error without the signature", err)
		}
	}
}
