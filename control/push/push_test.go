package push

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]Target{
		"web1":                {"me", "web1", 22},
		"root@web1":           {"root", "web1", 22},
		"root@10.0.0.1:2222":  {"root", "10.0.0.1", 2222},
		"a@b@web1":            {"a@b", "web1", 22},
		"root@[fd00::1]:2222": {"root", "fd00::1", 2222},
		"root@fd00::1":        {"root", "fd00::1", 22},
	} {
		if got, err := ParseTarget(in, "me"); err != nil || got != want {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "@web1", "root@", "root@web1:0", "root@web1:x", "-oProxyCommand=x", "root@we b", "a'b@web1"} {
		if got, err := ParseTarget(in, ""); err == nil {
			t.Errorf("%q passed as %+v", in, got)
		}
	}
}

const good = "Welcome!\nsystem=Linux\narch=x86_64\nuid=1000\nname=web1.example.org\nsystemd=yes\nsudo=yes\nroom=1000\n"

func TestFacts(t *testing.T) {
	for name, c := range map[string]struct {
		change   [2]string
		password bool
		sudo     string
		bad      string
	}{
		"sudo with a password": {password: true, sudo: sudoWithPassword},
		"sudo, and none given": {bad: "wants a password"},
		"sudo without one":     {change: [2]string{"sudo=yes\n", "sudo=yes\nnopasswd=yes\n"}, password: true, sudo: sudoAlone},
		"root":                 {change: [2]string{"uid=1000", "uid=0"}, password: true},
		"no sudo":              {change: [2]string{"sudo=yes\n", ""}, password: true, bad: "no sudo"},
		"another system":       {change: [2]string{"Linux", "FreeBSD"}, bad: "FreeBSD"},
		"another processor":    {change: [2]string{"x86_64", "ppc64le"}, bad: "ppc64le"},
		"no systemd":           {change: [2]string{"systemd=yes\n", ""}, bad: "systemd"},
		"no shell":             {change: [2]string{good, "This account is currently not available.\n"}, bad: "not available"},
	} {
		f, sudo, err := parseFacts(strings.Replace(good, c.change[0], c.change[1], 1), c.password)
		if c.bad != "" {
			if !errors.Is(err, ErrHost) || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || sudo != c.sudo || f.Name != "web1" || f.Arch != "amd64" || f.RoomBytes != 1000<<10 {
			t.Errorf("%s: %+v, %q, %v", name, f, sudo, err)
		}
	}
}

func TestChoose(t *testing.T) {
	const found = `[{"path":"/dev/disk/by-id/wwn-1","name":"sda"},{"path":"/dev/sdb","name":"sdb","error":"too odd"},{"path":"/dev/cciss/c0d0","name":"cciss!c0d0"}]`
	use, left, err := choose(found, nil)
	if err != nil || !slices.Equal(use, []string{"/dev/disk/by-id/wwn-1=sda", "/dev/cciss/c0d0=cciss-c0d0"}) || !slices.Equal(left, []string{"/dev/sdb: too odd"}) {
		t.Errorf("%q, %q, %v", use, left, err)
	}
	// What was named is taken as it was named, or not at all.
	use, left, err = choose(`[{"path":"/dev/sda","name":"sda"}]`, []string{"/dev/sda=system"})
	if err != nil || !slices.Equal(use, []string{"/dev/sda=system"}) || left != nil {
		t.Errorf("%q, %q, %v", use, left, err)
	}
	for _, c := range [][2]string{{found, "/dev/sda"}, {`[{"path":"/dev/sda","error":"gone"}]`, "/dev/sda"}, {`{}`, "/dev/sda"}, {`[{"path":"/dev/sda"}]`, "/dev/sda\n/dev/sdb"}} {
		if use, _, err := choose(c[0], []string{c[1]}); err == nil {
			t.Errorf("%q passed: %q", c, use)
		}
	}
}

func TestNames(t *testing.T) {
	if got := names([]string{"/dev/disk/by-id/wwn-1=sda", "/dev/sdb"}); !slices.Equal(got, []string{"sda", "sdb"}) {
		t.Errorf("%q", got)
	}
}

func TestArchitecture(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if a, err := architecture(text); err == nil {
		t.Errorf("a script is for %s", a)
	}
	// Programs of the system use its libraries.
	if a, err := architecture("/bin/sh"); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("/bin/sh: %s, %v", a, err)
	}
}

// What a host says is not to be trusted: it may be anything.
func FuzzHostSays(f *testing.F) {
	f.Add(good, true)
	f.Add("uid=0\nsystem=Linux\narch=aarch64\nsystemd=yes", false)
	f.Add(`[{"path":"/dev/sda","name":"sda"}]`, false)
	f.Fuzz(func(t *testing.T, text string, password bool) {
		facts, sudo, err := parseFacts(text, password)
		if err == nil && (facts.Arch == "" || sudo != "" && sudo != sudoAlone && sudo != sudoWithPassword) {
			t.Errorf("%q: %+v, %q", text, facts, sudo)
		}
		use, _, err := choose(text, nil)
		for _, line := range use {
			if err == nil && strings.ContainsAny(line, "\r\n") {
				t.Errorf("%q becomes two lines of a file", line)
			}
		}
	})
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$(x)": "'$(x)'"} {
		if got := quote(in); got != want {
			t.Errorf("%q becomes %s", in, got)
		}
	}
}
