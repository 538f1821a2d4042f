package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestPushInstall puts the agent on a host with a systemd and an sshd of its own, upgrades
// and removes it, by the command line alone: deploy/ci/try-push.sh.
func TestPushInstall(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("MISSING: root: a host to install the agent on cannot be made")
		}
		t.Skip("MISSING: root: installing the agent on other hosts was not tested")
	}
	t.Parallel()
	bin := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	for out, args := range map[string][]string{
		"leeward":              {"."},
		"leeward-agent":        {"./agent/leeward-agent"},
		"new/leeward-agent":    {"-ldflags=-X main.Version=v9.9.9-try", "./agent/leeward-agent"},
		"broken/leeward-agent": {"./testdata/brokenagent"},
	} {
		c := exec.CommandContext(ctx, "go", append([]string{"build", "-buildvcs=false", "-o", filepath.Join(bin, out)}, args...)...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", out, err, said)
		}
	}
	// The script ends by itself before its patience and that of the test's are over.
	c := exec.CommandContext(ctx, "deploy/ci/try-push.sh", bin)
	c.Env = append(os.Environ(), "HOSTS_SECONDS=400", "TMPDIR="+t.TempDir())
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 20 * time.Second
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
