package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/control/api/apitest"
	"github.com/leeward-dr/leeward/control/cli"
	"github.com/leeward-dr/leeward/control/console/webtest"
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
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	webtest.Find(t)
	printed := t.TempDir()
	// The script ends by itself before its patience and that of the test's are over.
	c := exec.CommandContext(ctx, "deploy/ci/try-push.sh", bin, self, printed)
	c.Env = append(os.Environ(), "HOSTS_SECONDS=400", "TMPDIR="+t.TempDir())
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 20 * time.Second
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"install": 1, "uninstall": 1, "partial": 2} {
		var doc map[string]any
		b, err := os.ReadFile(filepath.Join(printed, name+".json"))
		if err == nil {
			err = json.Unmarshal(b, &doc)
		}
		if err != nil {
			t.Fatalf("what leeward agent printed, %s: %v: %s", name, err, b)
		}
		items, _ := doc["items"].([]any)
		if doc["schema"] != "leeward.pushes.v1" || len(items) != want {
			t.Errorf("%s: %s", name, b)
		}
		if err := apitest.Resolve(t, cli.DocumentSchema("leeward.pushes.v1")).Validate(doc); err != nil {
			t.Errorf("%s: not as its schema says: %v: %s", name, err, b)
		}
		for _, one := range items {
			if err := apitest.Resolve(t, cli.DocumentSchema("leeward.push.v1")).Validate(one); err != nil {
				t.Errorf("%s: an item is not as its schema says: %v: %s", name, err, b)
			}
		}
	}
}

// TestPushInTheConsole does it with a browser: an admin adds a machine, upgrades its agent
// and removes it by clicking. TestPushInstall runs it, where the hosts are.
func TestPushInTheConsole(t *testing.T) {
	login := strings.TrimSpace(os.Getenv("TRY_LOGIN"))
	if login == "" {
		t.Skip("run by TestPushInstall, in front of the hosts that it makes")
	}
	pictures := os.Getenv("LEEWARD_PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	b := webtest.Start(t)
	c := &clicker{T: t, Page: b.Page(1280, 860), pictures: pictures, site: login[:strings.Index(login, "/login")], print: os.Getenv("TRY_PRINT")}
	c.enter(login)
	c.refused()
	c.install()
	c.upgrade()
	c.remove()
	operator := &clicker{T: t, Page: b.Page(1280, 860), site: c.site}
	operator.enter(strings.TrimSpace(os.Getenv("TRY_VIEWER")))
	operator.Open(c.site + "/machines")
	operator.See("Machines")
	if n := webtest.Eval[int](operator.Page, `document.querySelectorAll('a[href^="/push"]').length`); n != 0 {
		t.Errorf("an operator is shown %d ways to push agents", n)
	}
	for path, method := range map[string]string{"/push": "GET", "/push/look": "POST", "/push?x=1": "POST"} {
		if got := webtest.Eval[int](operator.Page, fmt.Sprintf(`fetch(%q, {method: %q}).then(r => r.status)`, path, method)); got != http.StatusForbidden {
			t.Errorf("an operator asks for %s %s: %d", method, path, got)
		}
	}
}

// clicker is an admin in front of the console.
type clicker struct {
	*testing.T
	*webtest.Page
	pictures, site, print string
}

func (c *clicker) enter(login string) {
	c.Helper()
	c.Open(login)
	c.Click("=Sign in with the code")
	c.See("Sign out")
}

// look goes to the step where keys are compared, and accepts the host's.
func (c *clicker) look(hosts string) {
	c.Helper()
	c.Refill("textarea[name=hosts]", hosts)
	c.Click("=Look at their keys")
	c.See("Is it really them?")
	c.See(c.print)
	c.Wait("its script", `document.documentElement.classList.contains("js")`)
	if webtest.Eval[bool](c.Page, `document.querySelector("input[name=accept]").checked`) {
		c.Error("a key was accepted that nobody has looked at")
	}
}

func (c *clicker) accept() {
	c.Helper()
	c.Click("input[name=accept]")
}

// refused: without an accepted key, and with a wrong password, nothing is done.
func (c *clicker) refused() {
	c.Helper()
	c.Open(c.site + "/machines")
	c.Click("=Add machines")
	c.See("One a line")
	c.Proper("/push")
	c.Pictures(c.pictures, "push-1")
	c.look("admin@10.77.0.1:2222\nroot@10.77.0.9:2222")
	c.See("the host does not answer")
	c.Pictures(c.pictures, "push-2")
	c.Proper("/push/look")
	c.Fill("input[name=password]", "wrong horse")
	c.Click("=Install the agent")
	c.See("no host's key was accepted")
	_ = c.Complaints() // it told of the status
	if webtest.Eval[bool](c.Page, `document.documentElement.outerHTML.includes("wrong horse")`) {
		c.Error("a password comes back in a page")
	}
	c.accept()
	c.Fill("input[name=password]", "wrong horse")
	c.Click("=Install the agent")
	c.See("It failed.")
	c.See("the host does not let us in")
	c.Pictures(c.pictures, "push-failed")
	c.Proper("a round that failed")
}

func (c *clicker) install() {
	c.Helper()
	c.Open(c.site + "/push")
	c.look("admin@10.77.0.1:2222")
	c.accept()
	c.Fill("input[name=password]", os.Getenv("TRY_PASSWORD"))
	c.Fill("input[name=disks]", os.Getenv("TRY_DISK"))
	c.Click("=Install the agent")
	c.See("Installed, and heard of.")
	c.See("waiting for the first heartbeat")
	c.Pictures(c.pictures, "push-done")
	c.Proper("a round")
	c.Click(`a[href="/machines/webserver"]`)
	c.Wait("a recovery point", `document.querySelector('.actions a[href*="kind=test"]')`)
}

// upgrade is done with a key, from the machine's page.
func (c *clicker) upgrade() {
	c.Helper()
	key, err := os.ReadFile(os.Getenv("TRY_KEY"))
	if err != nil {
		c.Fatal(err)
	}
	c.Open(c.site + "/machines/webserver")
	c.Click("=Upgrade its agent")
	c.See("Upgrade the agent of webserver")
	c.look("root@10.77.0.1:2222")
	c.accept()
	c.Fill("textarea[name=key]", string(key))
	c.Click("=Upgrade the agent")
	c.See("Upgraded.")
	c.Proper("an upgrade")
}

func (c *clicker) remove() {
	c.Helper()
	c.Open(c.site + "/machines/webserver")
	c.Click("=Remove its agent")
	c.look("admin@10.77.0.1:2222")
	if !webtest.Eval[bool](c.Page, `document.querySelector("button.danger").disabled`) {
		c.Error("an agent can be removed without the machine's name")
	}
	c.accept()
	c.Fill("input[name=password]", os.Getenv("TRY_PASSWORD"))
	c.Fill("input[name=confirm]", "webserver")
	c.Click("button.danger")
	c.See("Nothing is left.")
	c.Proper("a removal")
}
