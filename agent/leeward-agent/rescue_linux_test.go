package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/agent/disk/home"
)

// Nothing is overwritten that nobody confirmed, and nothing that is in use.
func TestRescueAsks(t *testing.T) {
	image := filepath.Join(t.TempDir(), "sda")
	if err := os.WriteFile(image, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(said string, args ...string) (string, error) {
		var out bytes.Buffer
		c := rescueCommand()
		c.SetArgs(append(args, "--config-dir", t.TempDir()))
		c.SetIn(strings.NewReader(said))
		c.SetOut(&out)
		c.SilenceErrors, c.SilenceUsage = true, true
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	for what, c := range map[string]struct {
		said string
		args []string
	}{
		"was not confirmed": {"yes\n", []string{"--disk", "sda=" + image}},
		"not enrolled":      {image + "\n", []string{"--disk", "sda=" + image}},
		"write NAME=PATH":   {"", []string{"--disk", image}},
		"given twice":       {"", []string{"--disk", "sda=" + image, "--disk", "sda=" + image}},
		"no such file":      {"", []string{"--disk", "sda=" + image + "x"}},
	} {
		out, err := run(c.said, c.args...)
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v, %s", what, err, out)
		}
		if what == "was not confirmed" && !strings.Contains(out, "WILL BE OVERWRITTEN with protected disk sda") {
			t.Errorf("it is not said what would happen: %s", out)
		}
	}
	if out, err := run(""); err != nil || !strings.Contains(out, "PATH") {
		t.Errorf("the disks: %v, %s", err, out)
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("MISSING: mounting needs root")
		}
		t.Skip("MISSING: mounting needs root")
	}
	dir := t.TempDir()
	if b, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	loop, err := exec.Command("losetup", "-f", "--show", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	dev := strings.TrimSpace(string(loop))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", dev).Run() })
	if b, err := exec.Command("mount", dev, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	t.Cleanup(func() { _ = exec.Command("umount", dir).Run() })
	for _, path := range []string{dev, image} {
		if out, err := run("", "--disk", "sda="+path, "--confirm", path); !errors.Is(err, home.ErrRefused) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s is mounted: %v, %s", path, err, out)
		}
	}
}
