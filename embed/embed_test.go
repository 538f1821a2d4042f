package embed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	if os.Getenv(childNode) != "" {
		node()
	}
	goleak.VerifyTestMain(m)
}

// patience is for a busy machine.
const patience = 2 * time.Minute

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func config(dir string) Config {
	c := Default()
	c.Dir, c.Listen = dir, "127.0.0.1:-1"
	return c
}

// start runs a server with its streams until the test ends.
func start(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, s *Server, r Role) *bus.Bus {
	t.Helper()
	b, err := s.Connect(within(t), r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ensured(t *testing.T, s *Server) *bus.Bus {
	t.Helper()
	b := connect(t, s, Admin)
	if err := streams.Ensure(within(t), b.JS, s.Streams()); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStartUseStopAgain(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "place")
	var keys [len(roles)]string
	for round := range 3 {
		s, err := Start(within(t), config(dir))
		if err != nil {
			t.Fatal(err)
		}
		b := ensured(t, s)
		if _, err := b.JS.Publish(within(t), streams.ChangesSubject("m", "d"), []byte("x")); err != nil {
			t.Fatal(err)
		}
		st, err := b.JS.Stream(within(t), streams.Changes)
		if err != nil || st.CachedInfo().State.Msgs != uint64(round+1) {
			t.Fatalf("round %d: %+v, %v", round, st, err)
		}
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		// Over TCP with the context file, as any other process would.
		tcp, err := bus.Connect(within(t), bus.Options{Context: s.ContextFile(Tap)})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(s.ClientURL(), "nats://127.0.0.1:") || tcp.Conn.ConnectedUrl() != s.ClientURL() {
			t.Errorf("URL %s, connected to %s", s.ClientURL(), tcp.Conn.ConnectedUrl())
		}
		tcp.Close()
		for i, r := range roles {
			k, err := os.ReadFile(s.CredsFile(r))
			if err != nil || round > 0 && string(k) != keys[i] {
				t.Errorf("key of %s changed or is gone: %v", r, err)
			}
			keys[i] = string(k)
			if st, err := os.Stat(s.CredsFile(r)); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("key of %s: %v, %v", r, st, err)
			}
		}
		stop(t, s)
		stop(t, s)
		if s.Ready() == nil {
			t.Error("ready after it was stopped")
		}
	}
}

// secret matches a user's seed or token: letters that a public key has too by chance,
// but not so many behind them.
var secret = regexp.MustCompile(`\bSU[A-Z2-7]{56}|\beyJ[0-9A-Za-z_-]{8}`)

func TestContextFile(t *testing.T) {
	t.Parallel()
	s := start(t, config(t.TempDir()))
	for _, r := range roles {
		b, err := os.ReadFile(s.ContextFile(r))
		if err != nil {
			t.Fatal(err)
		}
		var c map[string]string
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
		if c["url"] != s.ClientURL() || c["creds"] != s.CredsFile(r) || c["inbox_prefix"] != "_INBOX."+public(t, s, r) {
			t.Errorf("context of %s: %v", r, c)
		}
		creds, err := os.ReadFile(s.CredsFile(r))
		if err != nil || !secret.Match(creds) {
			t.Errorf("no seed is seen in the credentials of %s: %v", r, err)
		}
		if secret.Match(b) {
			t.Errorf("the context of %s holds a seed", r)
		}
	}
}

func refused(t *testing.T, c Config, words ...string) {
	t.Helper()
	s, err := Start(within(t), c)
	if err == nil {
		stop(t, s)
		t.Fatalf("%+v started", c)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error lacks %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %q", err)
	}
}

func TestRefusedConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	with := func(f func(*Config)) Config { c := config(dir); f(&c); return c }
	refused(t, Config{}, "--dir")
	for _, l := range []string{"", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:70000"} {
		refused(t, with(func(c *Config) { c.Listen = l }), "--listen", "host:port")
	}
	refused(t, with(func(c *Config) { c.Cert = "x" }), "--tls-key")
	refused(t, with(func(c *Config) { c.Cert, c.Key = "missing.pem", "missing.key" }), "missing.pem")
	refused(t, with(func(c *Config) { c.CA = "x" }), "--tls-ca")
	refused(t, with(func(c *Config) { c.MaxStore = -1 }), "nats.max_store")
	refused(t, with(func(c *Config) { c.MaxStore = 1 << 20 }), "nats.max_store is 1 MiB", "512 MiB")
	refused(t, with(func(c *Config) { c.Advertise = "x" }), "--advertise")
	// Nothing of all that left the directory locked.
	start(t, config(dir))
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := config(t.TempDir())
	c.Listen = l.Addr().String()
	refused(t, c, "port "+strconv.Itoa(l.Addr().(*net.TCPAddr).Port), "in use", "--listen")
	c.Listen = "127.0.0.77:-1"
	start(t, c)
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := start(t, c)
	refused(t, c, c.Dir, "in use", fmt.Sprintf("process %d", os.Getpid()))
	stop(t, s)
	start(t, c)
}

func TestBadDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, config(file), file, "not a directory")
	refused(t, config(filepath.Join(file, "below")), "not a directory")
	refused(t, config("/proc/leeward"), "/proc/leeward")
}

func TestDamagedKey(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := start(t, c)
	stop(t, s)
	if err := os.WriteFile(s.CredsFile(Agent), []byte("SUNONSENSE"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, c, s.CredsFile(Agent), "damaged", "restore it")
	if err := os.Remove(s.CredsFile(Agent)); err != nil {
		t.Fatal(err)
	}
	start(t, c)
}

func TestDamagedStore(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	if err := os.WriteFile(filepath.Join(c.Dir, "jetstream"), []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, c, c.Dir)
}

func TestStartGivesUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := config(t.TempDir())
	if s, err := Start(ctx, c); !errors.Is(err, context.Canceled) {
		stop(t, s)
		t.Errorf("%v", err)
	}
	start(t, c)
}

// The wrong key is told from a server that is away, and names the key.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	a, b := start(t, config(t.TempDir())), start(t, config(t.TempDir()))
	_, err := bus.Connect(within(t), bus.Options{URL: a.ClientURL(), CredsFile: b.CredsFile(Agent)})
	for _, w := range []string{a.ClientURL(), "refuses user " + public(t, b, Agent), b.CredsFile(Agent)} {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("lacks %q: %v", w, err)
		}
	}
	_, err = bus.Connect(within(t), bus.Options{URL: a.ClientURL()})
	if err == nil || !strings.Contains(err.Error(), "without a key") {
		t.Errorf("%v", err)
	}
}

func TestStoreLimit(t *testing.T) {
	t.Parallel()
	const m = 1 << 20
	for _, c := range []struct{ want, used, free, limit int64 }{
		{0, 0, 10_000 * m, 9872 * m},
		{2000 * m, 0, 10_000 * m, 2000 * m},
		{20_000 * m, 0, 10_000 * m, 9872 * m},
		{0, 8000 * m, 200 * m, 8072 * m}, // full of our own messages: run, so that they can drain
		{0, 0, 640 * m, 512 * m},
		{0, 0, 639 * m, 0},
		{0, 8000 * m, 127 * m, 0},
		{100 * m, 0, 10_000 * m, 0},
	} {
		limit, err := storeLimit("/x", c.want, c.used, c.free)
		if limit != c.limit || (err == nil) != (c.limit > 0) {
			t.Errorf("%+v: %d MiB, %v", c, limit/m, err)
		}
		if c.limit > 0 && streams.Default().Validate() == nil {
			s := Server{store: limit}
			if err := s.Streams().Validate(); err != nil {
				t.Errorf("%+v: %v", c, err)
			}
		}
	}
	_, err := storeLimit("/x", 0, 0, 100*m)
	if want := "disk of /x has 100 MiB free and needs 640 MiB"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// When the disk has less room than last time, the streams are still there and
// what they hold is not thrown away.
func TestSmallerStore(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.MaxStore = 1 << 30
	s := start(t, c)
	b := ensured(t, s)
	payload := bytes.Repeat([]byte("x"), 1000<<10)
	const sent = 160
	for i := range sent {
		if _, err := b.JS.Publish(within(t), streams.ChangesSubject("m", fmt.Sprint("d", i)), payload); err != nil {
			t.Fatal(err)
		}
	}
	stop(t, s)
	c.MaxStore = 512 << 20
	s = start(t, c)
	b = ensured(t, s)
	st, err := b.JS.Stream(within(t), streams.Changes)
	if err != nil {
		t.Fatal(err)
	}
	if i := st.CachedInfo(); i.State.Msgs != sent || i.Config.MaxBytes != 128<<20 {
		t.Fatalf("%d messages, at most %d bytes", i.State.Msgs, i.Config.MaxBytes)
	}
	if _, err := b.JS.Publish(within(t), streams.ChangesSubject("m", "e"), payload); !streams.IsFull(err) {
		t.Fatalf("over its limit: %v", err)
	}
	if _, err := b.JS.Publish(within(t), streams.MarkersSubject("g"), []byte("x")); err != nil {
		t.Fatalf("a marker while CHANGES is full: %v", err)
	}
}

func TestLameDuck(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	c.LameDuck = 200 * time.Millisecond
	s := start(t, c)
	told := make(chan struct{})
	nc, err := nats.Connect(s.ClientURL(), nats.UserCredentials(s.CredsFile(Admin)), nats.Timeout(patience), nats.LameDuckModeHandler(func(*nats.Conn) { close(told) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	stop(t, s)
	select {
	case <-told:
	case <-within(t).Done():
		t.Fatal("the client was not told")
	}
	c.Dir, c.LameDuck = t.TempDir(), time.Hour
	s = start(t, c)
	nc2, err := nats.Connect(s.ClientURL(), nats.UserCredentials(s.CredsFile(Admin)), nats.Timeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	defer nc2.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > patience { // of an hour
		t.Errorf("stopping took %v", took)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	c := config(t.TempDir())
	c.Log = slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := start(t, c)
	stop(t, s)
	if !strings.Contains(text.String(), "nats: ") || !strings.Contains(text.String(), "JetStream") {
		t.Errorf("the server's own log is missing:\n%s", text.String())
	}
	if strings.Contains(text.String(), "level=ERROR") || strings.Contains(text.String(), "level=WARN") {
		t.Errorf("a plain start complains:\n%s", text.String())
	}
}
