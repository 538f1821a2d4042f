package control

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/plan"
	"github.com/leeward-dr/leeward/streams/streamstest"
)

// sshd starts a real OpenSSH server on loopback that lets in a key of its own, and puts
// an ssh in front of PATH that knows both. It returns user@host:port.
func sshd(t *testing.T) string {
	t.Helper()
	server, err := exec.LookPath("sshd")
	if err != nil {
		server = "/usr/sbin/sshd"
	}
	if _, err := os.Stat(server); err != nil || os.Getuid() != 0 {
		what := fmt.Sprintf("MISSING: OpenSSH's server as root (deploy/ci/need.sh test): scripts of plans on other hosts were not tested: %v", err)
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	dir := t.TempDir()
	for _, k := range []string{"host", "user"} {
		if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, k)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	host, err := os.ReadFile(filepath.Join(dir, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	at := streamstest.Addresses(t, 1)[0]
	_, port, err := net.SplitHostPort(at)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // where it drops its rights
		t.Fatal(err)
	}
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("known", fmt.Sprintf("[127.0.0.1]:%s %s", port, host), 0o600)
	conf := write("sshd_config", fmt.Sprintf("ListenAddress %s\nHostKey %s/host\nAuthorizedKeysFile %s/user.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n", at, dir, dir), 0o600)
	write("ssh", fmt.Sprintf("#!/bin/sh\nexec /usr/bin/ssh -F none -o UserKnownHostsFile=%s/known -o IdentitiesOnly=yes -i %s/user \"$@\"\n", dir, dir), 0o700)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, server, "-D", "-e", "-f", conf)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed: the error says so
	})
	for end := time.Now().Add(patience); ; {
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err == nil {
			c.Close()
			return "root@" + at
		}
		if time.Now().After(end) {
			t.Fatalf("sshd does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// whenThere does something as soon as a file holds something, until stop.
func whenThere(file string, do func()) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if st, err := os.Stat(file); err == nil && st.Size() > 0 {
				do()
				return
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-ended }
}

// Scripts on other hosts get the run's environment, report their failure, and end when
// their time is over, there too.
func TestScriptOverSSH(t *testing.T) {
	host := sshd(t)
	run := &plan.Run{ID: "r-1", Plan: "shop", Mode: plan.Test}
	task := func(script string) *plan.Task {
		return &plan.Task{Stage: "data", Action: &plan.Action{Script: &plan.Script{Run: script, SSH: host}}}
	}
	out, err := perform(t.Context(), run, task("echo $LEEWARD_PLAN $LEEWARD_RUN $LEEWARD_MODE $LEEWARD_STAGE; test -n \"$SSH_CONNECTION\""))
	if err != nil || out != "shop r-1 test data" {
		t.Fatalf("%q, %v", out, err)
	}
	if out, err := perform(t.Context(), run, task("echo no disk >&2; exit 7")); err == nil || !strings.Contains(err.Error(), "no disk") || !strings.Contains(err.Error(), "7") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := perform(t.Context(), run, &plan.Task{Action: &plan.Action{Script: &plan.Script{Run: "true", SSH: "root@127.0.0.1:1"}}}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody there: %v", err)
	}
	// Its time is what ends it there: as much as a busy machine needs to begin.
	pid := filepath.Join(t.TempDir(), "pid")
	var b []byte
	for limit := 3 * time.Second; len(b) == 0; limit *= 4 {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		out, err := perform(ctx, run, task("echo $$ >"+pid+"; exec sleep 600"))
		cancel()
		if err == nil {
			t.Errorf("it ended: %q", out)
		}
		if b, err = os.ReadFile(pid); len(b) == 0 && limit > patience {
			t.Fatalf("the script did not begin: %v", err)
		}
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err != nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %s goes on at the host", b)
		}
	}
}
