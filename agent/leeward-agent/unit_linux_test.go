package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnit has systemd read the agent's unit, and holds what restarts rely on.
func TestUnit(t *testing.T) {
	b, err := os.ReadFile("../../deploy/systemd/leeward-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := string(b)
	for line, why := range map[string]string{
		"RuntimeDirectory=leeward-agent":                       "the state directory is made by systemd",
		"RuntimeDirectoryPreserve=yes":                         "what is kept for the next agent must outlive a stop",
		"KillMode=process":                                     "the freeze guard must outlive the agent",
		"Restart=always":                                       "a machine is protected again after any end",
		"ExecReload=/bin/kill -HUP $MAINPID":                   "the list of disks is read again",
		"After=network-online.target sys-kernel-tracing.mount": "trace rings must be there",
	} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("%s is missing: %s", line, why)
		}
	}
	// These would keep the agent from the trace rings or from mounts.
	for _, line := range []string{"ProtectKernelTunables=yes", "PrivateTmp=yes", "PrivateDevices=yes", "PrivateMounts=yes"} {
		if strings.Contains(unit, "\n"+line) {
			t.Errorf("%s is set", line)
		}
	}
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Geteuid() == 0 || os.Getenv("CI") == "true" {
			t.Fatal("needs systemd-analyze")
		}
		t.Skip("no systemd-analyze to read the unit with")
	}
	// The programs are not installed here; everything else must be as it ships.
	dir := t.TempDir()
	file := filepath.Join(dir, "leeward-agent.service")
	unit = strings.Replace(unit, "ExecStart=/usr/bin/leeward-agent", "ExecStart=/bin/true", 1)
	if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool, "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), file) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// It can fail.
	if err := os.WriteFile(file, []byte(unit+"\n[Service]\nRestart=sometimes\nNoSuchThing=1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := exec.Command(tool, "verify", "--man=no", file).CombinedOutput(); !strings.Contains(string(out), "NoSuchThing") {
		t.Errorf("a bad unit passed:\n%s", out)
	}
}

// TestForgetAndStatusOfNobody are the two commands where no agent ever ran.
func TestForgetAndStatusOfNobody(t *testing.T) {
	c := statusCommand()
	c.SetArgs([]string{"--state-dir", t.TempDir()})
	c.SilenceErrors, c.SilenceUsage = true, true
	if err := c.Execute(); err == nil || !strings.Contains(err.Error(), "--state-dir") {
		t.Errorf("status: %v", err)
	}
	c = forgetCommand()
	c.SetArgs([]string{"--state-dir", t.TempDir()})
	if err := c.Execute(); err != nil {
		t.Errorf("forget: %v", err)
	}
}

func TestReadDisks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disks")
	if err := os.WriteFile(file, []byte("# of web1\n/dev/sda=system\n\n  /dev/sdb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := readDisks(file)
	if err != nil || len(d) != 2 || d[0].Name != "system" || d[1].Path != "/dev/sdb" || d[1].Name != "sdb" {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := readDisks(file + "x"); err == nil {
		t.Error("a list that is not there was read")
	}
}
