package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api/apitest"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/streams"
)

// cliContract is docs/ops/cli.md: the exit codes and the documents that it promises.
func cliContract(t *testing.T) (codes, documents []string) {
	t.Helper()
	b, err := os.ReadFile("../../docs/ops/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(string(b), -1) {
		codes = append(codes, m[1])
	}
	for _, m := range regexp.MustCompile("`(leeward\\.[a-z-]+\\.v\\d+)`").FindAllStringSubmatch(string(b), -1) {
		documents = append(documents, m[1])
	}
	slices.Sort(documents)
	return codes, slices.Compact(documents)
}

// What the page about the command line promises is what the commands print: each document
// by name and as its schema says, on a real appliance.
func TestDocumentsAreAsPromised(t *testing.T) {
	t.Parallel()
	_, promised := cliContract(t)
	if got := cli.Documents(); !slices.Equal(got, promised) {
		t.Errorf("the page names\n%v\nthe commands print\n%v", promised, got)
	}
	dir := t.TempDir()
	startHere(t, dir)
	a := newAgent(t, dir)
	b := connect(t, dir, "agent")
	defer b.Close()
	for range 3 {
		a.point()
	}
	a.send(b)
	a.listed()
	work := t.TempDir()
	plan := filepath.Join(work, "plan.yaml")
	text := "schema: leeward.plan.v1\nname: site\ntarget: {kind: disk, out: " + work + "}\nstages:\n  - name: all\n    machines: [{machine: web}]\n"
	if err := os.WriteFile(plan, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	print := func(schema string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), lifeTime)
		defer cancel()
		code, out, errs := lw(t, ctx, dir, append(args, "-o", "json")...)
		if code != 0 {
			t.Errorf("leeward %s: code %d: %s%s", strings.Join(args, " "), code, out, errs)
			return out
		}
		asPromised(t, schema, out)
		return out
	}
	print("leeward.status.v1", "status")
	print("leeward.machines.v1", "machine", "ls")
	print("leeward.machine.v1", "machine", "show", "web")
	print("leeward.points.v1", "point", "ls", "web")
	print("leeward.point.v1", "point", "show", "p0001")
	print("leeward.point.v1", "point", "name", "p0001", "good")
	print("leeward.trace.v1", "trace", "p0001")
	print("leeward.events.v1", "event", "ls")
	print("leeward.streams.v1", "stream", "ls")
	print("leeward.version.v1", "version")
	print("leeward.config.v1", "config", "show")
	print("leeward.endpoints.v1", "api", "schema")
	print("leeward.endpoint.v1", "api", "schema", "machine.ls", "--offline")

	print("leeward.job.v1", "failover", "test", "web", "--target", "disk", "--out", filepath.Join(work, "one.img"))
	print("leeward.jobs.v1", "job", "ls")
	print("leeward.validation.v1", "failover", "start", "web", "--dry-run", "--serial", "x")
	print("leeward.life.v1", "failover", "show", "web")
	print("leeward.lives.v1", "machine", "disable", "web", "--wait")
	print("leeward.fences.v1", "fence", "ls")
	print("leeward.lives.v1", "machine", "enable", "web", "--wait")
	print("leeward.lives.v1", "failover", "ls")
	leftFence(t, dir)
	print("leeward.fence.v1", "fence", "lift", "gone", "--confirm", "gone")

	print("leeward.group.v1", "group", "create", "shop", "web")
	print("leeward.groups.v1", "group", "ls")
	print("leeward.policies.v1", "policy", "set", "gold", "point_interval=2s", "machines=[web]")
	print("leeward.policy.v1", "policy", "show", "gold")
	print("leeward.plan.v1", "plan", "validate", plan)
	print("leeward.plan-version.v1", "plan", "apply", plan)
	print("leeward.plan-version.v1", "plan", "show", "site")
	print("leeward.plans.v1", "plan", "ls")
	print("leeward.forecast.v1", "plan", "run", "site", "--dry-run")
	print("leeward.run.v1", "plan", "run", "site")
	print("leeward.runs.v1", "plan", "runs")
	if err := os.RemoveAll(filepath.Join(work, "web")); err != nil { // the drill writes it again
		t.Fatal(err)
	}
	print("leeward.drills.v1", "drill", "set", "weekly", "--plan", "site")
	print("leeward.drills.v1", "drill", "run", "weekly")
	id := ""
	for end := time.Now().Add(lifeTime); id == ""; pause(t) {
		var all struct{ Items []struct{ ID string } }
		if _, out, _ := lw(t, t.Context(), dir, "drill", "reports", "-o", "json"); json.Unmarshal([]byte(out), &all) == nil && len(all.Items) > 0 {
			id = all.Items[0].ID
		}
		if time.Now().After(end) {
			t.Fatal("the drill does not report")
		}
	}
	print("leeward.drill-reports.v1", "drill", "reports")
	report := filepath.Join(work, "report.json")
	if err := os.WriteFile(report, []byte(print("leeward.signed-drill-report.v1", "drill", "report", id)), 0o600); err != nil {
		t.Fatal(err)
	}
	print("leeward.signed-drill-report.v1", "drill", "verify", report)
	told := make(chan string, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // half a message is not as promised
		select {
		case told <- string(b):
		default: // the first is enough
		}
	}))
	defer hook.Close()
	notify := filepath.Join(work, "notify.yaml")
	if err := os.WriteFile(notify, fmt.Appendf(nil, "level: critical\nwebhooks: [{url: %q}]\n", hook.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := lw(t, t.Context(), dir, "notify", "set", notify); code != 0 {
		t.Error(errs)
	}
	print("leeward.notify.v1", "notify", "show")
	print("leeward.notify-test.v1", "notify", "test")
	asPromised(t, "leeward.notification.v1", <-told)
	print("leeward.audit.v1", "audit", "ls")
	print("leeward.tokens.v1", "token", "ls")
	print("leeward.agents.v1", "agent", "ls")
	password := filepath.Join(work, "password")
	if err := os.WriteFile(password, []byte("correct horse battery staple\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	print("leeward.login.v1", "console", "login")
	print("leeward.user.v1", "console", "user", "set", "ann", "--role", "viewer", "--password-file", password)
	print("leeward.users.v1", "console", "user", "ls")

	print("leeward.vault-disks.v1", "vault", "ls")
	print("leeward.vault-objects.v1", "vault", "ls", "--objects")
	print("leeward.vault-check.v1", "vault", "check")
	print("leeward.vault-prune.v1", "vault", "prune", "--dry-run")
	print("leeward.restore.v1", "vault", "restore", "--point", "p0001", "--machine", "web", "--disk", "sda", "--to", filepath.Join(work, "two.img"))
	home := filepath.Join(work, "home.img")
	if err := os.WriteFile(home, make([]byte, blocks*4096), 0o600); err != nil {
		t.Fatal(err)
	}
	print("leeward.mastertarget.v1", "mastertarget", "--machine", "web", "--disk", "sda="+home, "--other-disk", "--state", filepath.Join(work, "state"), "--point", "p0001",
		"--vault", "dir://"+filepath.Join(dir, "vault"), "--key-file", filepath.Join(dir, "keys", "vault.key"))
	print("leeward.vault.v1", "vault", "init", "--vault", "dir://"+filepath.Join(work, "vault"), "--key-file", filepath.Join(work, "key"))
	print("leeward.vault-keys.v1", "vault", "key", "ls")
	print("leeward.vault-key.v1", "vault", "key", "add", "--new-key-file", filepath.Join(work, "other.key"))

	// What needs more than an appliance is held against its schema elsewhere: the root's
	// TestEveryDocumentHasATest sees that nothing is left out.
}

// asPromised holds a document against its schema.
func asPromised(t *testing.T, schema, text string) {
	t.Helper()
	var doc any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Errorf("%s: %v: %s", schema, err, text)
		return
	}
	if m, ok := doc.(map[string]any); !ok || m["schema"] != schema {
		t.Errorf("this is no %s: %s", schema, text)
	}
	if err := apitest.Resolve(t, cli.DocumentSchema(schema)).Validate(doc); err != nil {
		t.Errorf("not as %s says: %v: %s", schema, err, text)
	}
}

// leftFence leaves a fence of a machine that nobody knows.
func leftFence(t *testing.T, dir string) {
	t.Helper()
	b := connect(t, dir, "admin")
	defer b.Close()
	f := streams.Fence{Machine: "gone", Generation: 1, Since: time.Now(), Why: "left over"}
	text, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	kv, err := b.JS.KeyValue(t.Context(), streams.Fences)
	if err == nil {
		_, err = kv.Put(t.Context(), f.Machine, text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Every exit code that is promised comes from a command, and an error says what to try.
func TestExitCodesAreAsPromised(t *testing.T) {
	t.Parallel()
	codes, _ := cliContract(t)
	dir := t.TempDir()
	startHere(t, dir)
	a := newAgent(t, dir)
	b := connect(t, dir, "agent")
	defer b.Close()
	a.point()
	a.send(b)
	a.listed()
	work := t.TempDir()
	plan := func(name, step string) string {
		file := filepath.Join(work, name+".yaml")
		text := "schema: leeward.plan.v1\nname: " + name + "\nstages:\n  - name: all\n    before:\n      - " + step + "\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := lw(t, t.Context(), dir, "plan", "apply", file); code != 0 {
			t.Fatal(errs)
		}
		return name
	}
	other := filepath.Join(work, "other.key")
	if err := MakeKey(other); err != nil {
		t.Fatal(err)
	}
	viewer := "--context=" + filepath.Join(dir, "contexts", "viewer.json")
	operator := "--context=" + filepath.Join(dir, "contexts", "operator.json")
	seen := map[string]bool{}
	for _, c := range []struct {
		code int
		args string
		try  string // a part of what is said to try; "" if there is nothing to do
	}{
		{0, "status", ""},
		{1, "plan run " + plan("bad", "{name: x, script: {run: \"false\"}}"), "leeward plan status"},
		{2, "point ls --since tuesday", ""},
		{2, "machine show", "--help"},
		{3, "plan run " + plan("so-so", "{name: x, script: {run: \"false\"}, on_error: continue}"), ""},
		{4, "machine show mail", "leeward machine ls"},
		{4, "vault ls --vault dir://" + work + "/none", "leeward vault init"},
		{5, "failover start web --serial x", "--confirm web"},
		{5, "plan run bad --mode failover", "--confirm bad"},
		{5, "plan run bad --mode failover --confirm bda", "confirmation"},
		{5, "failover commit web", "leeward failover show web"},
		{6, "status --server nats://127.0.0.1:1", ""},
		{7, "vault ls --key-file " + other, "--key-file"},
		{7, "failover test web --serial x " + viewer, "tester.json"},
		{7, "failover start web --serial x --confirm web --shutdown true " + operator, "admin.json"},
		{7, "policy set default point_interval=2s " + operator, "admin.json"},
		{8, "plan run " + plan("slow", "{name: x, script: {run: sleep 30}}") + " --wait-limit 10ms", "leeward plan status"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), lifeTime)
		code, _, errs := lw(t, ctx, dir, strings.Fields(c.args)...)
		cancel()
		seen[fmt.Sprint(c.code)] = true
		_, try, _ := strings.Cut(errs, "\ntry: ")
		if code != c.code || !strings.Contains(try, c.try) || c.try == "" && strings.Contains(errs, "\ntry: \n") {
			t.Errorf("leeward %s: exit code %d, want %d, try %q: %s", c.args, code, c.code, c.try, errs)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs bytes.Buffer
	first := make(chan struct{})
	go func() {
		<-first
		cancel()
	}()
	code := cli.Main(ctx, cli.Options{
		Args: []string{"plan", "run", "slow", "--dir", dir}, In: strings.NewReader(""), Out: &out, Err: &noticed{&errs, first, false},
		Getenv: func(string) string { return "" }, Version: cli.ThisVersion("v1.2.3"),
	})
	seen[fmt.Sprint(code)] = true
	if code != 130 || !strings.Contains(errs.String(), "goes on\ntry: leeward plan status") {
		t.Errorf("interrupted: exit code %d, %s", code, errs.String())
	}
	for _, code := range codes {
		if !seen[code] {
			t.Errorf("exit code %s is promised and not tested", code)
		}
	}
	if len(codes) != 10 || len(seen) != 10 {
		t.Errorf("promised are %v, seen are %v", codes, seen)
	}
}

// noticed says when something is written for the first time.
type noticed struct {
	b     *bytes.Buffer
	first chan struct{}
	told  bool
}

func (n *noticed) Write(p []byte) (int, error) {
	if !n.told {
		n.told = true
		close(n.first)
	}
	return n.b.Write(p)
}
