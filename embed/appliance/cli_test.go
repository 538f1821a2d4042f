package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/leeward-dr/leeward/control/cli"
)

// lw runs the command line against the appliance in dir.
func lw(t *testing.T, ctx context.Context, dir string, args ...string) (code int, out, errs string) {
	t.Helper()
	return lwRaw(t, ctx, append(args, "--dir", dir)...)
}

// lwRaw runs the command line as it is given.
func lwRaw(t *testing.T, ctx context.Context, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = cli.Main(ctx, cli.Options{
		Args: args, In: strings.NewReader(""), Out: &o, Err: &e,
		Getenv: func(string) string { return "" }, Version: cli.ThisVersion("v1.2.3"), Roles: []*cobra.Command{ConfigCommand()},
	})
	return code, o.String(), e.String()
}

// Every command that asks a server, against a real one with a protected disk.
func TestCommandLine(t *testing.T) {
	t.Parallel()
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
	image := filepath.Join(t.TempDir(), "web.img")
	cases := []struct {
		args string
		code int
		want string // of stdout, or of stderr if the code is not 0
	}{
		{"status", 0, `(?m)^web +healthy +\S+ +3 +\S+ crash +offline +1 \(256 KiB\)`},
		{"status -o json", 0, `"schema": "leeward.status.v1"`},
		{"status -o yaml", 0, `(?m)^points: 3$`},
		{"check", 0, `^LEEWARD OK - 1 machines, worst RPO \S+ \| rpo=\d+s;60;300 points=3 backlog=0B\n$`},
		{"check --warn 1ns --crit 1ns", 2, `^LEEWARD CRITICAL - web: RPO`},
		{"check --warn 1ns", 1, `^LEEWARD WARNING - web: RPO`},
		{"check --machine mail", 3, `^LEEWARD UNKNOWN - no machine mail is known`},
		{"machine ls", 0, `(?m)^web `},
		{"machine show web", 0, `(?m)^sda +256 KiB +- +test +epoch 1, 7 `},
		{"machine show web -o json", 0, `"guarantee": "none"`},
		{"machine show mail", 4, `leeward: no machine mail is known\ntry: leeward machine ls`},
		{"point ls web", 0, `(?m)^p0002 `},
		{"point ls --limit 1 -o json", 0, `(?s)^((?:[^p]|p[^0])*)"id": "p0002"`},
		{"point ls mail", 4, `no machine or group mail`},
		{"point show p0001", 0, `(?m)^web +sda +256 KiB +1 +5 +false`},
		{"point show p0009", 4, `no such recovery point: "p0009"`},
		{"trace p0001", 0, `(?m)^stream, process, store +web/sda +\+`},
		{"trace p0001 -o json", 0, `(?s)"trace_id": "[0-9a-f]{32}".*"missing": \[\]`},
		{"trace p0009", 4, `no such recovery point`},
		{"event ls --kind point", 0, `recovery point p0000 \(crash-consistent\) listed`},
		{"event ls mail", 0, `nothing has happened`},
		{"stream ls", 0, `(?m)^CHANGES +0 `},
		{"job ls", 0, `no job yet`},
		{"job show tf-1", 4, `no such job: tf-1\ntry: leeward job ls`},
		{"failover cleanup tf-1", 4, `no such job`},
		{"failover test mail --serial x", 4, `no machine mail is known`},
		{"failover test web --target moon --serial x", 2, `unknown target "moon": use qemu, azure or disk`},
		{"failover test web --point p0009 --target disk --out " + image, 4, `no such recovery point`},
		{"failover test web --point p0001 --target disk --out " + image + " --request-id r1", 0, `(?m)^state +alive$`},
		{"failover test web --point p0001 --target disk --out " + image + " --request-id r1", 0, `(?m)^state +alive$`},
		{"failover test web --target disk --probe-and-exit --out " + image, 5, `exists`},
		{"vault ls", 0, `(?m)^web +sda +256 KiB +3 `},
		{"vault check --read-data", 0, `^1 disks, `},
		{"status --server nats://127.0.0.1:1", 6, `127.0.0.1:1`},
	}
	for _, c := range cases {
		code, out, errs := lw(t, t.Context(), dir, strings.Fields(c.args)...)
		text := out
		if code != 0 && !strings.HasPrefix(c.args, "check") {
			text = errs
		}
		if code != c.code || !regexp.MustCompile(c.want).MatchString(text) {
			t.Errorf("leeward %s: exit code %d, want %d and %s\nstdout: %sstderr: %s", c.args, code, c.code, c.want, out, errs)
		}
	}
	if got, err := os.ReadFile(image); err != nil || !bytes.Equal(got, a.images["p0001"]) {
		t.Errorf("the image is not the disk at its point: %v", err)
	}
	jobs(t, dir, image)
}

// jobs cleans up what TestCommandLine left.
func jobs(t *testing.T, dir, image string) {
	code, out, errs := lw(t, t.Context(), dir, "job", "ls", "web", "-o", "json")
	var doc struct {
		Schema string
		Items  []struct{ ID, State string }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || code != 0 || doc.Schema != "leeward.jobs.v1" || len(doc.Items) != 3 {
		t.Fatalf("job ls: %d, %v\n%s%s", code, err, out, errs)
	}
	for _, j := range doc.Items {
		if code, out, errs := lw(t, t.Context(), dir, "failover", "cleanup", j.ID); code != 0 || !strings.Contains(out, "is cleaned") {
			t.Errorf("cleanup of %s: %d\n%s%s", j.ID, code, out, errs)
		}
		if code, out, _ := lw(t, t.Context(), dir, "job", "show", j.ID); code != 0 || !strings.Contains(out, "cleaned") {
			t.Errorf("job show %s: %d\n%s", j.ID, code, out)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "jobs")); err != nil || len(left) != 1 {
		t.Errorf("the jobs left %v, %v", left, err)
	}
	if _, err := os.Stat(image); err != nil {
		t.Errorf("the file that was asked for is gone: %v", err)
	}
}

// interrupting is output that presses Ctrl-C after some lines.
type interrupting struct {
	locked
	lines int
	then  func()
}

func (o *interrupting) Write(p []byte) (int, error) {
	n, err := o.locked.Write(p)
	if strings.Count(o.String(), "\n") >= o.lines {
		o.then()
	}
	return n, err
}

// Ctrl-C ends a watch without complaint; with JSON each screen is one line.
func TestWatch(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	startHere(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, errs := &interrupting{lines: 3, then: cancel}, &locked{}
	code := cli.Main(ctx, cli.Options{
		Args: []string{"status", "--watch", "--interval", "200ms", "-o", "json", "--dir", dir}, In: strings.NewReader(""), Out: out, Err: errs,
		Getenv: func(string) string { return "" }, Version: cli.ThisVersion("v1.2.3"),
	})
	if code != 0 || errs.String() != "" {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < out.lines {
		t.Errorf("%d lines in %v", len(lines), patience)
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("not a document: %s", l)
		}
	}
}
