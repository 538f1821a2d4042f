package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api/apitest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
)

// locked is a buffer for several writers.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// offBox runs an appliance that other machines could reach. said is all that it
// printed and logged.
func offBox(t *testing.T, dir string, said *locked) (manage, pin string, stop func()) {
	t.Helper()
	c := config(t, dir)
	c.Listen, c.Manage, c.LogLevel = "0.0.0.0:-1", "0.0.0.0:0", "debug"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var out locked
	go func() { done <- Run(ctx, c, "1.0.0", io.MultiWriter(&out, said), said) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("the appliance does not stop")
			}
		})
	}
	t.Cleanup(stop)
	find := regexp.MustCompile(`manage +https://\S+:(\d+)\n +ca pin +([0-9a-f]{64})`)
	for end := time.Now().Add(patience); ; pause(t) {
		if m := find.FindStringSubmatch(out.String()); m != nil {
			return "https://127.0.0.1:" + m[1], m[2], stop
		}
		select {
		case err := <-done:
			t.Fatalf("the appliance ended: %v", err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the appliance does not come up:\n%s", out.String())
		}
	}
}

// buildAgent makes the real agent.
func buildAgent(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "leeward-agent")
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	b, err := exec.CommandContext(ctx, "go", "build", "-o", file, "github.com/leeward-dr/leeward/agent/leeward-agent").CombinedOutput()
	if err != nil {
		t.Fatalf("build the agent: %v\n%s", err, b)
	}
	return file
}

// A machine is let in over TLS with a one-time token, does its work, is refused and
// noticed when it reaches for another's, and is thrown out for good. No secret of
// all this is in what was printed or logged, or in the arguments of a process.
func TestEnrolment(t *testing.T) {
	t.Parallel()
	dir, home := t.TempDir(), t.TempDir()
	var said locked
	binary := buildAgent(t)
	manage, pin, stop := offBox(t, dir, &said)
	admin := connect(t, dir, "admin")
	defer admin.Close()
	watch := apitest.Start(t, admin.Conn)

	agent := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		b, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
		_, _ = said.Write(b)
		return string(b), err
	}
	token := func(machine string) (file, text string) {
		t.Helper()
		code, out, errs := lw(t, t.Context(), dir, "token", "new", "--machine", machine)
		if code != 0 || !strings.Contains(errs, pin) {
			t.Fatalf("token new: %d %s", code, errs)
		}
		_, _ = said.Write([]byte(errs))
		file = filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		return file, strings.TrimSpace(out)
	}
	file, text := token("web1")
	conf := filepath.Join(home, "web1")
	enrol := func(words ...string) (string, error) {
		return agent(append([]string{"enrol", "--server", manage, "--config-dir", conf}, words...)...)
	}
	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"no pin":       {[]string{"--token-file", file}, "certificate"},
		"another's":    {[]string{"--token-file", file, "--ca-pin", strings.Repeat("00", 32)}, "not from the pinned authority"},
		"half a pin":   {[]string{"--token-file", file, "--ca-pin", pin[:10]}, "64 hexadecimal"},
		"no token":     {[]string{"--token-file", binary, "--ca-pin", pin}, "holds no token"},
		"plain":        {[]string{"--token-file", file, "--server", "http://192.0.2.1"}, "use https"},
		"no directory": {[]string{"--token-file", file, "--ca-pin", pin, "--config-dir", "/proc/x"}, "/proc/x"},
	} {
		if out, err := enrol(c.args...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %v %s", what, err, out)
		}
	}
	// None of those cost the token. With it, the machine is let in, and once only.
	if out, err := enrol("--token-file", file, "--ca-pin", pin); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := agent("enrol", "--server", manage, "--config-dir", filepath.Join(home, "thief"), "--token-file", file, "--ca-pin", pin); err == nil || !strings.Contains(out, "was used") {
		t.Errorf("a second use: %v %s", err, out)
	}

	context := filepath.Join(conf, "agent.json")
	nc, err := bus.Connect(t.Context(), bus.Options{Context: context})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.JS.Publish(t.Context(), streams.ChangesSubject("web1", "sda"), []byte("not a change, but stored")); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := nc.Conn.Publish(streams.ChangesSubject("db1", "sda"), []byte("x")); err != nil {
		t.Fatal(err)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !ok(); pause(t) {
			if time.Now().After(end) {
				t.Fatalf("waiting for: %s", what)
			}
		}
	}
	until("the refusal to be told", func() bool {
		_, out, _ := lw(t, t.Context(), dir, "event", "ls", "web1", "--kind", "refused")
		return strings.Contains(out, "was refused: publish "+streams.ChangesSubject("db1", "sda"))
	})
	watchers(t, manage, dir)

	// Thrown out, at once and after a restart.
	code, out, errs := lw(t, t.Context(), dir, "agent", "revoke", "web1", "-o", "json")
	if code != 0 {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	asPromised(t, "leeward.agent.v1", out)
	until("the connection to end", func() bool { return !nc.Conn.IsConnected() })
	refused := func() {
		t.Helper()
		b, err := bus.Connect(t.Context(), bus.Options{Context: context})
		if err == nil {
			b.Close()
			t.Fatal("the revoked agent is let in")
		}
	}
	refused()
	spare, _ := token("spare")
	_, out, _ = lw(t, t.Context(), dir, "token", "new", "--machine", "spare", "-o", "json")
	asPromised(t, "leeward.token.v1", out)
	var doc struct {
		Items []struct{ ID, Machine string }
	}
	if _, out, _ := lw(t, t.Context(), dir, "token", "ls", "-o", "json"); json.Unmarshal([]byte(out), &doc) != nil || len(doc.Items) == 0 {
		t.Fatalf("tokens: %s, %s", out, spare)
	}
	for _, args := range [][]string{{"token", "rm", doc.Items[len(doc.Items)-1].ID}, {"agent", "ls"}} {
		if code, _, errs := lw(t, t.Context(), dir, args...); code != 0 {
			t.Errorf("%v: %s", args, errs)
		}
	}
	watch.Want(func(name string) bool { // pushes need a host to push to: TestPushInstall
		return strings.HasPrefix(name, "token.") || strings.HasPrefix(name, "agent.") && name != "agent.push"
	})
	argv(t, secrets(t, dir, home, text))
	stop()
	_, _, stop = offBox(t, dir, &said)
	if b, err := os.ReadFile(context); err != nil {
		t.Fatal(err)
	} else { // the port is another one now
		op, err := os.ReadFile(filepath.Join(dir, "contexts", "admin.json"))
		if err != nil {
			t.Fatal(err)
		}
		url := regexp.MustCompile(`"url": "[^"]*"`)
		if err := os.WriteFile(context, url.ReplaceAll(b, url.Find(op)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refused()
	if code, out, _ := lw(t, t.Context(), dir, "agent", "ls"); code != 0 || !regexp.MustCompile(`(?m)^web1 +revoked `).MatchString(out) {
		t.Errorf("%d %s", code, out)
	}
	stop()
	for name, secret := range secrets(t, dir, home, text) {
		if strings.Contains(said.String(), secret) {
			t.Errorf("%s is in what was printed or logged", name)
		}
	}
}

// watchers looks at the management port as Prometheus and a load balancer do.
func watchers(t *testing.T, manage, dir string) {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, // what is tested is what it says
	}}
	get := func(path string) (int, string) {
		t.Helper()
		r, err := client.Get(manage + path)
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
	if code, text := get("/healthz"); code != 200 || text != "ok\n" {
		t.Errorf("healthz: %d %s", code, text)
	}
	for end := time.Now().Add(patience); ; pause(t) {
		code, text := get("/readyz")
		if code == 200 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("readyz: %d %s", code, text)
		}
	}
	code, text := get("/metrics")
	for _, want := range []string{`leeward_build_info{version="1.0.0"} 1`, "leeward_metrics_complete 1", `leeward_stream_pending_bytes{stream="CHANGES"} `, "leeward_process_in_bytes_total ", "leeward_vault_up 1"} {
		if code != 200 || !strings.Contains(text, want) {
			t.Errorf("metrics: %d, without %q:\n%s", code, want, text)
		}
	}
	if code, _ := get("/v1/enrol"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET of enrol: %d", code)
	}
	if st, err := os.Stat(filepath.Join(dir, "keys", "metrics.token")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("token of metrics: %v, %v", st, err)
	}
}

// secrets are all that may not be shown anywhere.
func secrets(t *testing.T, dir, home, token string) map[string]string {
	t.Helper()
	out := map[string]string{"the token": token}
	seed := regexp.MustCompile(`\bS[AOU][A-Z2-7]{56}\b`)
	for _, root := range []string{dir, home} {
		err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return ignore(err)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return ignore(err)
			}
			for i, s := range seed.FindAllString(string(b), -1) {
				out[fmt.Sprint(path, " ", i)] = s
			}
			if strings.HasSuffix(path, "vault.key") || strings.HasSuffix(path, "metrics.token") {
				out[path] = strings.TrimSpace(string(b))
			}
			if strings.HasSuffix(path, ".key") && bytes.Contains(b, []byte("PRIVATE KEY")) {
				out[path] = strings.Split(string(b), "\n")[1]
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d secrets found", len(out))
	}
	return out
}

func ignore(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// argv looks for secrets in the arguments of every process.
func argv(t *testing.T, secrets map[string]string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		for name, s := range secrets {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s is in the arguments of %s", name, strings.ReplaceAll(string(b), "\x00", " "))
			}
		}
	}
}
