package enrol

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// issuer notes what it is asked to do.
type issuer struct {
	mu      sync.Mutex
	revoked []string
	fail    error
}

func (i *issuer) Issue(machine, publicKey string, groups []string) (string, error) {
	if !strings.HasPrefix(publicKey, "U") {
		return "", errors.New("no key")
	}
	return fmt.Sprint("jwt of ", machine, groups, publicKey), nil
}

func (i *issuer) Revoke(_ context.Context, keys ...string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fail != nil {
		return i.fail
	}
	i.revoked = append(i.revoked, keys...)
	return nil
}

type told struct {
	mu  sync.Mutex
	all []*wire.Event
}

func (e *told) tell(w *wire.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, w)
}

func (e *told) kinds() (out []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, w := range e.all {
		if _, err := wire.Encode(w); err != nil {
			out = append(out, err.Error())
			continue
		}
		out = append(out, w.Kind)
	}
	return out
}

func service(t *testing.T, s *streamstest.Server, i *issuer, e *told, now func() time.Time) *Service {
	t.Helper()
	out, err := New(within(t), s.Bus().JS, Options{Issuer: i, URL: "tls://x:1", CA: "pem", Pin: "abc", Tell: e.tell, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	bus, i, e := streamstest.StartWith(t, t.TempDir()), &issuer{}, &told{}
	s := service(t, bus, i, e, nil)
	tok, err := s.NewToken(within(t), "web1", []string{"shop"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(tok.Text, "lw_"+tok.ID+"_") || tok.Pin != "abc" {
		t.Errorf("%+v", tok)
	}
	// What is stored does not open the door.
	kv, err := bus.Bus().JS.KeyValue(within(t), streams.Tokens)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(within(t), tok.ID)
	if err != nil {
		t.Fatal(err)
	}
	secret := tok.Text[strings.LastIndexByte(tok.Text, '_')+1:]
	if strings.Contains(string(entry.Value()), secret) {
		t.Error("the secret is stored")
	}
	for _, bad := range []string{"", "lw", "lw_" + tok.ID + "_", "lw_" + tok.ID + "_x" + secret[1:], "lw_NOBODY_" + secret, "xx_" + tok.ID + "_" + secret, "lw_a.b_" + secret, tok.Text + "_"} {
		if _, err := s.Redeem(within(t), bad, "U1"); !errors.Is(err, ErrRefused) {
			t.Errorf("token %q: %v", bad, err)
		}
	}
	if _, err := s.Redeem(within(t), tok.Text, "not a key"); !errors.Is(err, ErrRefused) {
		t.Errorf("a key that is none: %v", err)
	}
	g, err := s.Redeem(within(t), tok.Text+"\n", "U1")
	if err != nil {
		t.Fatal(err)
	}
	if want := (Grant{Machine: "web1", Groups: []string{"shop"}, JWT: "jwt of web1[shop]U1", URL: "tls://x:1", CA: "pem"}); fmt.Sprint(*g) != fmt.Sprint(want) {
		t.Errorf("%+v", g)
	}
	// Another control, after a restart of the server too.
	bus.Restart()
	s = service(t, bus, i, e, nil)
	if _, err := s.Redeem(within(t), tok.Text, "U2"); !errors.Is(err, ErrRefused) {
		t.Errorf("used twice: %v", err)
	}
	if who, err := s.Who(within(t), "U1"); err != nil || who != "web1" {
		t.Errorf("%q, %v", who, err)
	}
	for _, k := range []string{"token", "enrolled", "enrol-refused"} {
		if !slices.Contains(e.kinds(), k) {
			t.Errorf("no event %s in %v", k, e.kinds())
		}
	}
	if all, err := s.Tokens(within(t)); err != nil || len(all) != 1 || all[0].Used.IsZero() || all[0].Text != "" {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestExpires(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := service(t, streamstest.StartWith(t, t.TempDir()), &issuer{}, &told{}, func() time.Time { return now })
	tok, err := s.NewToken(within(t), "web1", nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute + time.Second)
	if _, err := s.Redeem(within(t), tok.Text, "U1"); !errors.Is(err, ErrRefused) {
		t.Errorf("an expired token: %v", err)
	}
	for _, ttl := range []time.Duration{0, -1, MaxTTL + 1} {
		if _, err := s.NewToken(within(t), "web1", nil, ttl); err == nil {
			t.Errorf("a token for %v", ttl)
		}
	}
	if _, err := s.NewToken(within(t), "a.*", nil, time.Hour); err == nil {
		t.Error("a token for all machines")
	}
	if _, err := s.NewToken(within(t), "a", []string{">"}, time.Hour); err == nil {
		t.Error("a token for all groups")
	}
	tok, err = s.NewToken(within(t), "web1", nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveToken(within(t), tok.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Redeem(within(t), tok.Text, "U1"); !errors.Is(err, ErrRefused) {
		t.Errorf("a token that was removed: %v", err)
	}
	if err := s.RemoveToken(within(t), tok.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
}

// Of many agents that bring the same token to two controls at once, one gets in.
func TestOneWins(t *testing.T) {
	t.Parallel()
	bus, i, e := streamstest.StartWith(t, t.TempDir()), &issuer{}, &told{}
	both := []*Service{service(t, bus, i, e, nil), service(t, bus, i, e, nil)}
	for round := range 5 {
		tok, err := both[0].NewToken(within(t), fmt.Sprint("m", round), nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for n := range 12 {
			wg.Go(func() {
				_, err := both[n%2].Redeem(within(t), tok.Text, fmt.Sprintf("U%d-%d", round, n))
				if err != nil && !errors.Is(err, ErrRefused) {
					t.Error(err)
				}
				if err == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Fatalf("round %d: %d got in", round, won)
		}
	}
}

// Enrolling again ends the agent before; revoking is told to the servers, again
// after a crash between the two.
func TestRevoke(t *testing.T) {
	t.Parallel()
	bus, i, e := streamstest.StartWith(t, t.TempDir()), &issuer{}, &told{}
	s := service(t, bus, i, e, nil)
	in := func(key string) error {
		t.Helper()
		tok, err := s.NewToken(within(t), "web1", nil, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Redeem(within(t), tok.Text, key)
		return err
	}
	if err := in("U1"); err != nil {
		t.Fatal(err)
	}
	if err := in("U2"); err != nil || !slices.Equal(i.revoked, []string{"U1"}) {
		t.Fatalf("%v: %v", i.revoked, err)
	}
	if err := in("U2"); !errors.Is(err, ErrRefused) {
		t.Errorf("the same key again: %v", err)
	}
	i.fail = errors.New("the server is away")
	if _, err := s.Revoke(within(t), "web1"); err == nil {
		t.Fatal("no error when the servers were not told")
	}
	i.fail = nil
	service(t, bus, i, e, nil) // a restart
	if !slices.Contains(i.revoked, "U2") {
		t.Errorf("after the restart: %v", i.revoked)
	}
	a, err := s.Revoke(within(t), "web1")
	if err != nil || a.PublicKey != "U2" || a.Revoked.IsZero() {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := s.Revoke(within(t), "nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	all, err := s.Agents(within(t))
	if err != nil || len(all) != 1 || all[0].Revoked.IsZero() {
		t.Errorf("%+v, %v", all, err)
	}
	if !slices.Contains(e.kinds(), "revoked") {
		t.Errorf("%v", e.kinds())
	}
}

func TestConflict(t *testing.T) {
	if conflict(nil) || conflict(nats.ErrTimeout) || !conflict(&jetstream.APIError{ErrorCode: 10071}) || !conflict(jetstream.ErrKeyExists) {
		t.Error("conflicts are not told from other errors")
	}
}
