package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for a busy machine.
const patience = 2 * time.Minute

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until ok, or fails the test.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// free is a loopback address where nothing listens.
func free(t *testing.T) string { return streamstest.Addresses(t, 1)[0] }

func refuses(t *testing.T, o bus.Options, words ...string) error {
	t.Helper()
	start := time.Now()
	b, err := bus.Connect(within(t), o)
	if err == nil {
		b.Close()
		t.Fatalf("connected with %+v", o)
	}
	if time.Since(start) > patience/2 { // not as long as it is given
		t.Errorf("took %v to say no", time.Since(start))
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error lacks %q: %v", w, err)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %q", err)
	}
	return err
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	url := "nats://" + free(t)
	refuses(t, bus.Options{URL: url}, "cannot reach "+url+": connection refused: is `leeward up` running there?")
	refuses(t, bus.Options{URL: strings.Replace(url, "127.0.0.1", "user:pass@localhost", 1)}, "connection refused", "nats://localhost:")
	err := refuses(t, bus.Options{URL: strings.Replace(url, "127.0.0.1", "user:secret@localhost", 1)})
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows a password: %v", err)
	}
	refuses(t, bus.Options{URL: "nats://nowhere.invalid:4222"}, "cannot reach nats://nowhere.invalid:4222", "no such host")
}

// A listener that never speaks must not hang the caller.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err = bus.Connect(ctx, bus.Options{URL: "nats://" + l.Addr().String()}); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
	<-ctx.Done()
	if _, err = bus.Connect(ctx, bus.Options{URL: "nats://" + l.Addr().String()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with an expired context: %v", err)
	}
}

// Law 9: nothing leaves the machine in the clear, whatever the name says.
func TestPlainOffTheMachine(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"nats://192.0.2.1:4222", "nats://[2001:db8::1]:4222", "192.0.2.1", "ws://192.0.2.1:80", "nats://192.0.2.1:4222,tls://192.0.2.2:4222"} {
		err := refuses(t, bus.Options{URL: url}, "will not connect", "not encrypted", "tls://")
		if strings.Contains(err.Error(), "cannot reach") {
			t.Errorf("%s: it was tried: %v", url, err)
		}
	}
}

func TestURLs(t *testing.T) {
	for _, url := range []string{"http://127.0.0.1:4222", "nats://", "nats://a b", "unix:///run/x", ","} {
		refuses(t, bus.Options{URL: url}, "server URL", "tls")
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestFiles(t *testing.T) {
	url := "tls://" + free(t)
	missing := filepath.Join(t.TempDir(), "missing")
	nonsense := write(t, "nonsense", "hello")
	refuses(t, bus.Options{URL: url, NKeyFile: missing}, missing)
	refuses(t, bus.Options{URL: url, NKeyFile: nonsense}, nonsense, "no user key")
	refuses(t, bus.Options{URL: url, CredsFile: nonsense}, nonsense, "no user key")
	refuses(t, bus.Options{URL: url, CAFile: missing}, missing)
	refuses(t, bus.Options{URL: url, CAFile: nonsense}, nonsense, "no PEM certificate")
	refuses(t, bus.Options{URL: url, CertFile: nonsense, KeyFile: nonsense}, nonsense, "certificate")
	refuses(t, bus.Options{Context: missing}, "there is no context", missing)
	refuses(t, bus.Options{Context: write(t, "x.json", "{")}, "is not a nats CLI context")
	refuses(t, bus.Options{Context: write(t, "x.json", `{"socks_proxy":"x"}`)}, "socks_proxy", "does not support")
}

func TestContexts(t *testing.T) {
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	dir := filepath.Join(config, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at := free(t)
	text := fmt.Sprintf(`{"description":"x","url":"nats://%s","nkey":"%s","color_scheme":""}`, at, filepath.Join(config, "gone.nk"))
	file := filepath.Join(dir, "site.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	refuses(t, bus.Options{Context: "site"}, "gone.nk")
	refuses(t, bus.Options{Context: file}, "gone.nk")
	refuses(t, bus.Options{Context: "other"}, `no context "other"`, filepath.Join(dir, "other.json"))
	// Options win over the context.
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key := write(t, "user.nk", string(seed))
	refuses(t, bus.Options{Context: "site", NKeyFile: key}, at, "connection refused")
	refuses(t, bus.Options{Context: "site", NKeyFile: key, URL: "nats://127.0.0.1:1"}, "127.0.0.1:1:")
}

// Once connected, a bus comes back by itself, however long the server was away.
func TestReconnects(t *testing.T) {
	t.Parallel()
	s := streamstest.StartWith(t, t.TempDir())
	b := s.Connect("patient")
	s.Kill()
	eventually(t, "the disconnect is seen", func() bool { return !b.Conn.IsConnected() })
	s.Restart()
	eventually(t, "it is connected again", b.Conn.IsConnected)
	if _, err := b.JS.Publish(within(t), streams.MarkersSubject("g"), []byte("x")); err != nil {
		t.Fatal(err)
	}
}

func TestCloseTwiceAndWhileDown(t *testing.T) {
	t.Parallel()
	(*bus.Bus)(nil).Close()
	s := streamstest.StartWith(t, t.TempDir())
	b := s.Connect("a")
	s.Kill()
	b.Close()
	b.Close()
	if !b.Conn.IsClosed() {
		t.Fatal("still open")
	}
}

// An answer that is lost while the connection stays up, as when the node that led the
// stream is cut off, is an error after a while: nobody waits for ever.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	b := streamstest.Start(t)
	mute := jetstream.StreamConfig{Name: "MUTE", Subjects: []string{"mute"}, NoAck: true, Storage: jetstream.MemoryStorage}
	if _, err := b.JS.CreateStream(within(t), mute); err != nil {
		t.Fatal(err)
	}
	f, err := b.JS.PublishAsync("mute", []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-f.Err():
		if !errors.Is(err, jetstream.ErrAsyncPublishTimeout) || !streams.Retryable(err) {
			t.Errorf("%v", err)
		}
	case <-f.Ok():
		t.Error("a stream that does not answer has answered")
	case <-within(t).Done():
		t.Fatal("waiting for ever")
	}
}
