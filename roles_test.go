package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	neturl "net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/control/api"
	"github.com/leeward-dr/leeward/control/console"
	"github.com/leeward-dr/leeward/control/enrol"
	"github.com/leeward-dr/leeward/embed"
	"github.com/leeward-dr/leeward/embed/appliance"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/trust"
)

// rolesPatience is for conditions on a busy machine.
const rolesPatience = 2 * time.Minute

// said is what a role has said. It is ended by the role's end.
type said struct {
	mu  sync.Mutex
	b   bytes.Buffer
	end error // why nothing more comes
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) find(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	found := ""
	until(t, "the output "+pattern, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		m := re.FindStringSubmatch(s.b.String())
		if m != nil {
			found = m[1]
		} else if s.end != nil {
			t.Fatalf("%v before the output %s; it said %s", s.end, pattern, s.b.String())
		}
		return m != nil
	})
	return found
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(rolesPatience); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

// role runs a role's command with a bus's directory until stop.
func role(t *testing.T, c *cobra.Command, dir string, args ...string) (out *said, stop func()) {
	t.Helper()
	root := &cobra.Command{Use: "leeward", SilenceUsage: true}
	for _, f := range []string{"dir", "server", "context"} {
		root.PersistentFlags().String(f, "", "")
	}
	root.AddCommand(c)
	out = &said{}
	root.SetOut(out)
	root.SetErr(out)
	root.SetArgs(append([]string{c.Name(), "--dir", dir, "--vault", "dir://" + filepath.Join(dir, "vault")}, args...))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		out.mu.Lock()
		out.end = fmt.Errorf("%s ended with %v", c.Name(), err)
		out.mu.Unlock()
		done <- err
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s ended with %v; it said %s", c.Name(), err, out.b.String())
			}
		})
	}
	t.Cleanup(stop)
	return out, stop
}

// get returns status and body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

// makeVault makes a vault and its key where roles look for them.
func makeVault(t *testing.T, dir string) {
	t.Helper()
	key := filepath.Join(dir, "keys", "vault.key")
	if err := appliance.MakeKey(key); err != nil {
		t.Fatal(err)
	}
	st, err := vault.OpenStore("dir://"+filepath.Join(dir, "vault"), true)
	if err != nil {
		t.Fatal(err)
	}
	k, err := vault.KeyFromFile(key)
	if err == nil {
		_, err = vault.Create(t.Context(), st, k)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// roleOf starts a server and makes a vault; the flags are those of a role beside them.
func roleOf(t *testing.T, r embed.Role) (*embed.Server, *roleFlags) {
	t.Helper()
	dir := t.TempDir()
	s, err := embed.Start(t.Context(), embed.Config{Dir: dir, Listen: "127.0.0.1:-1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	makeVault(t, dir)
	return s, &roleFlags{dir: dir, vault: "dir://" + filepath.Join(dir, "vault"), key: filepath.Join(dir, "keys", "vault.key"), connect: bus.Options{Context: embed.ContextFile(dir, r)}}
}

// A process server that is there before control has made the streams waits, longer than it
// would wait for anything else, and says so.
func TestProcessServerWaitsForControl(t *testing.T) {
	t.Parallel()
	s, f := roleOf(t, embed.Process)
	var log said
	type opened struct {
		b   *bus.Bus
		err error
	}
	done := make(chan opened, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const patience = 2 * time.Second
	tries := 0
	tried := make(chan struct{}, 1000)
	go func() {
		b, _, err := f.open(ctx, slog.New(slog.NewJSONHandler(&log, nil)), patience, func(ctx context.Context, b *bus.Bus) error {
			tried <- struct{}{}
			return made(ctx, b, "")
		})
		done <- opened{b, err}
	}()
	for end := time.Now().Add(3 * patience / 2); tries < 3 || time.Now().Before(end); tries++ {
		select {
		case <-tried:
		case o := <-done:
			t.Fatalf("it waits no longer: %v, after %d tries", o.err, tries)
		case <-time.After(rolesPatience):
			t.Fatal("it tries no more")
		}
	}
	log.find(t, `"msg":"(waiting for control)"`)
	b, err := s.Connect(t.Context(), embed.Control)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := streams.Ensure(t.Context(), b.JS, s.Streams()); err != nil {
		t.Fatal(err)
	}
	select {
	case o := <-done:
		if o.err != nil {
			t.Fatal(o.err)
		}
		o.b.Close()
	case <-time.After(rolesPatience):
		t.Fatal("it does not notice that control has made the streams")
	}
}

// A process server and two controls, each on its own: the process server has the
// rights of one and needs no other, control lets agents in, and when it ends the
// other takes over on its port.
func TestRolesOnTheirOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var refused sync.Map
	var natsLog said
	t.Cleanup(func() {
		if t.Failed() {
			natsLog.mu.Lock()
			defer natsLog.mu.Unlock()
			t.Logf("the NATS server said %s", natsLog.b.String())
		}
	})
	s, err := embed.Start(t.Context(), embed.Config{Dir: dir, Listen: "127.0.0.1:-1", Log: slog.New(slog.NewTextHandler(&natsLog, nil)), Refused: func(r embed.Refusal) { refused.Store(r, true) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) }) // the roles have ended; what is left of it goes with the test
	makeVault(t, dir)

	pout, pstop := role(t, processCommand(), dir, "--manage", "127.0.0.1:0")
	out, stop := role(t, controlCommand("1.0.0"), dir, "--manage", "127.0.0.1:0")
	url := out.find(t, `manage +(http://\S+)`)
	active := func(n string) bool {
		_, text := get(t, url+"/metrics")
		return strings.Contains(text, "\nleeward_control_active "+n)
	}
	until(t, "control to be ready, and active", func() bool {
		if !active("1") {
			return false
		}
		code, _ := get(t, url+"/readyz")
		return code == http.StatusOK
	})
	if code, text := get(t, url+"/metrics"); code != http.StatusOK || !strings.Contains(text, "leeward_stream_pending_bytes") || !strings.Contains(text, "go_goroutines") {
		t.Errorf("metrics of control: %d %s", code, text)
	}
	purl := pout.find(t, `manage +(http://\S+)`)
	if code, text := get(t, purl+"/metrics"); code != http.StatusOK || !strings.Contains(text, "leeward_process_commit_seconds_count") {
		t.Errorf("metrics of the process server: %d %s", code, text)
	}
	letIn(t, dir, url)
	signIn(t, dir, url)

	other, _ := role(t, controlCommand("1.0.0"), dir, "--manage", "127.0.0.1:0")
	url = other.find(t, `manage +(http://\S+)`)
	// It waits, could take over, and lets agents in: behind one address both are as good.
	until(t, "the one that waits to be ready", func() bool { code, _ := get(t, url+"/readyz"); return code == http.StatusOK })
	if !active("0") {
		t.Error("two controls are active")
	}
	letIn(t, dir, url)
	signIn(t, dir, url) // its console asks the one that is active
	stop()
	until(t, "the other control to take over", func() bool {
		if !active("1") {
			return false
		}
		code, _ := get(t, url+"/readyz")
		return code == http.StatusOK
	})
	pstop()
	refused.Range(func(r, _ any) bool {
		t.Errorf("the server refused %+v", r)
		return true
	})
}

// signIn gets in to the console at url with a one-time code.
func signIn(t *testing.T, dir, url string) {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Options{Context: filepath.Join(dir, "contexts", "viewer.json")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	l, err := api.NewClient(b.Conn).NewLogin(t.Context(), trust.Viewer)
	if err != nil || l.URL == "" {
		t.Fatalf("a code: %+v, %v", l, err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Jar: jar, Timeout: time.Minute}
	r, err := c.PostForm(url+"/login", neturl.Values{"code": {l.Code}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if page, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK || !strings.Contains(string(page), `aria-current="page">Overview`) {
		t.Errorf("the console at %s: %d, %v: %.400s", url, r.StatusCode, err, page)
	}
}

// letIn enrols an agent and connects as it.
func letIn(t *testing.T, dir, url string) {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Options{Context: filepath.Join(dir, "contexts", "admin.json")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	c := api.NewClient(b.Conn)
	c.Actor = "test"
	tok, err := c.NewToken(t.Context(), api.NewToken{Machine: "web1", TTLSeconds: 3600})
	if err != nil {
		t.Fatal(err)
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := user.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(console.Request{Token: tok.Text, PublicKey: public})
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.Post(url+"/v1/enrol", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var g enrol.Grant
	if err := json.NewDecoder(r.Body).Decode(&g); err != nil || r.StatusCode != http.StatusOK || g.Machine != "web1" {
		t.Fatalf("enrolment: %d %+v, %v", r.StatusCode, g, err)
	}
	nc, err := nats.Connect(g.URL, nats.UserJWT(func() (string, error) { return g.JWT, nil }, user.Sign), nats.Timeout(rolesPatience), nats.CustomInboxPrefix(bus.InboxPrefix(public)))
	if err != nil {
		t.Fatalf("connect to %s as the enrolled agent: %v", g.URL, err)
	}
	nc.Close()
}

// A bus that is there and slow is waited for, longer than one that is not there.
func TestControlWaitsForASlowBus(t *testing.T) {
	t.Parallel()
	_, f := roleOf(t, embed.Control)
	const patience = time.Second
	begun, tries := time.Now(), 0
	ctx, cancel := context.WithTimeout(t.Context(), rolesPatience)
	defer cancel()
	b, _, err := f.open(ctx, slog.New(slog.DiscardHandler), patience, func(context.Context, *bus.Bus) error {
		if tries++; time.Since(begun) < 3*patience || tries < 4 {
			return fmt.Errorf("create bucket X: %w", context.DeadlineExceeded)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("after %d tries in %v: %v", tries, time.Since(begun), err)
	}
	b.Close()
	// What no waiting cures ends it at once.
	if _, _, err := f.open(ctx, slog.New(slog.DiscardHandler), patience, func(context.Context, *bus.Bus) error { return errors.New("no") }); err == nil || err.Error() != "no" {
		t.Errorf("%v", err)
	}
}
