package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/target/targettest"
	"github.com/leeward-dr/leeward/streams/docstest"
)

// session is a part of a page that is typed in one go.
type session struct {
	name, page, heading string
	before              []string // what the page says in words, or what was there before
}

// sessions are what is run, in this order, on one host with a systemd: README's five
// minutes, its bad day and its vault alone; the first day; and what is done every day, on
// what the first day has made.
var sessions = []session{
	{name: "readme", page: "README.md", heading: "Five minutes with it", before: []string{"export PATH=/root/readme/bin:$PATH"}},
	{name: "first-day", page: "docs/quickstart.md", heading: "The first day"},
	{name: "every-day", page: "README.md", heading: "Every day", before: []string{"leeward agent uninstall root@web1:2222"}},
}

// notRun are commands that are not run here, and why.
var notRun = map[string]string{
	"make demo": "a test of its own: make demo", "make test": "what runs this", "nats --context": "the nats CLI is no package of Debian: embed's TestTap reads the same streams as its user",
}

// change is made to what a page says before it is run.
type change struct{ session, from, to, why string }

var changes = []change{
	{"readme", "make build", "ln -s /srv/bin bin", "it was built for this test"},
	{"", "'login:'", "'tick='", "what the disk's boot sector says instead of a whole Linux"},
	{"first-day", "root@web1", "root@web1:2222 --disk /dev/DISK=sda --manage https://10.77.0.2", "the hosts' sshd are at 2222 of one loopback, and their disks would be this machine's"},
	{"every-day", "root@web1 root@db1", "root@web1:2222 root@db1:2222 --disk /dev/DISK=sda --agent-arg=--capture=scan --manage https://10.77.0.2", "the same; and one disk for both, so it is not traced"},
}

// afterwards are what a person does by waiting a moment, after lines that begin so.
var afterwards = []struct{ session, begins, wait string }{
	{"readme", "bin/leeward up", "bin/leeward status"},
	{"readme", "bin/leeward-agent run", `bin/leeward point ls web1 -o json | grep '"id"'`},
	{"first-day", "systemctl enable --now leeward", "leeward status"},
	{"first-day", "leeward agent install", `leeward point ls web1 -o json | grep '"id"'`},
	{"every-day", "leeward agent install", `leeward point ls db1 -o json | grep '"id"'`},
}

// steps writes what try-docs.sh does. disk is the device's name.
func steps(t *testing.T, disk string) string {
	t.Helper()
	var out strings.Builder
	used, skipped := map[string]bool{}, map[string]bool{}
	for _, s := range sessions {
		add := func(where, what, text string) {
			fmt.Fprintf(&out, "%s\t%s\t%s\t%s\n", s.name, where, what, strings.ReplaceAll(text, "/dev/DISK", disk))
		}
		for _, b := range s.before {
			add("before", "run", b)
		}
		n := 0
		for _, b := range docstest.Blocks(t, ".", s.page) {
			if b.Heading != s.heading {
				continue
			}
			for _, l := range b.Lines {
				text := l.Text
				if s.name == "readme" && strings.HasPrefix(text, "leeward vault ls ") {
					add(l.Where, "run", "cp $LEEWARD_DIR/keys/vault.key vault.key; pkill -x leeward; pkill -x leeward-agent; true") // nothing else runs
					add(l.Where, "wait", "! pgrep -x leeward && ! pgrep -x leeward-agent")
					add(l.Where, "run", "bin/leeward-agent forget")
				}
				if s.name == "readme" && strings.HasPrefix(text, "leeward failover test --vault") {
					text += " --probe-and-exit" // else it runs until Ctrl-C
				}
				for _, c := range changes {
					if (c.session == "" || c.session == s.name) && strings.Contains(text, c.from) {
						text, used[c.from+c.session] = strings.ReplaceAll(text, c.from, c.to), true
					}
				}
				add(l.Where, "run", text)
				n++
				for _, a := range afterwards {
					if a.session == s.name && strings.HasPrefix(l.Text, a.begins) {
						add(l.Where, "wait", a.wait)
					}
				}
			}
		}
		if n < 5 {
			t.Fatalf("%s: found %d lines under %q", s.page, n, s.heading)
		}
	}
	for _, c := range changes {
		if !used[c.from+c.session] {
			t.Errorf("nothing is changed from %q any more: take it out", c.from)
		}
	}
	notCovered(t, skipped)
	for k, why := range notRun {
		if !skipped[k] {
			t.Errorf("%q stands nowhere any more (%s): take it out", k, why)
		}
	}
	return out.String()
}

// notCovered finds commands of the two pages that are neither run nor excused.
func notCovered(t *testing.T, skipped map[string]bool) {
	t.Helper()
	for _, page := range []string{"README.md", "docs/quickstart.md"} {
		for _, b := range docstest.Blocks(t, ".", page) {
			if slices.ContainsFunc(sessions, func(s session) bool { return s.page == page && s.heading == b.Heading }) {
				continue
			}
			for _, l := range b.Lines {
				excused := false
				for k := range notRun {
					if strings.HasPrefix(l.Text, k) {
						excused, skipped[k] = true, true
					}
				}
				first, _, _ := strings.Cut(l.Text, " ")
				if !excused && slices.Contains([]string{"leeward", "leeward-agent", "make", "nats", "systemctl", "dpkg"}, filepath.Base(first)) {
					t.Errorf("%s is run by no test: %s", l.Where, l.Text)
				}
			}
		}
	}
}

// Every command of README and of the first day does what it says, typed line by line.
func TestPagesRun(t *testing.T) {
	if os.Getuid() != 0 {
		steps(t, "/dev/sdb")
		if os.Getenv("CI") != "" {
			t.Fatal("MISSING: root: what README says was not run")
		}
		t.Skip("MISSING: root: what README says was not run")
	}
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64")
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	for out, pkg := range map[string]string{"leeward": ".", "leeward-agent": "./agent/leeward-agent"} {
		c := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, out), pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", out, err, said)
		}
	}
	for name, text := range map[string][]byte{
		"disk.img": targettest.Ticking("tick"), "steps": []byte(steps(t, "/dev/sdb")),
		"notify.yaml": []byte("level: critical\nwebhooks: [{url: \"http://127.0.0.1:9/hook\"}]\n"),
		"plan.yaml":   []byte("schema: leeward.plan.v1\nname: shop\nabout: the shop\nstages:\n  - name: front\n    machines: [{machine: web1, serial: 'tick='}]\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(ctx, "deploy/ci/try-docs.sh", dir)
	c.Env = append(os.Environ(), "HOSTS_SECONDS=400", "TMPDIR="+t.TempDir())
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 20 * time.Second
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
