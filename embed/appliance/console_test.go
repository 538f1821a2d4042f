package appliance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/leeward-dr/leeward/control/console/webtest"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// visitor is somebody with a browser at the console of an appliance.
type visitor struct {
	*testing.T
	*webtest.Page
	manage, pictures, dir string
}

// visit opens the console in a browser of its own, signed in with a code.
func visit(t *testing.T, b *webtest.Browser, dir, manage, role string) *visitor {
	t.Helper()
	pictures := os.Getenv("LEEWARD_PICTURES")
	if pictures == "" {
		pictures = t.TempDir()
	}
	v := &visitor{T: t, Page: b.Page(1280, 860), manage: manage, pictures: pictures, dir: dir}
	code, out, errs := lw(t, t.Context(), dir, "console", "login", "--role", role, "--url", manage)
	if code != 0 {
		t.Fatalf("console login: %d %s", code, errs)
	}
	v.Open(strings.TrimSpace(out))
	v.Click("=Sign in with the code")
	v.See("Sign out")
	return v
}

// look opens a page and holds it to what every page must keep.
func (v *visitor) look(path, name string) {
	v.Helper()
	v.Open(v.manage + path)
	v.Proper(path)
	v.picture(name)
}

// proper holds the page that is shown to the same. It is opened anew for that: one that has
// followed what happens for a while has had more bytes than a visit costs.
func (v *visitor) proper(where string) {
	v.Helper()
	v.Open(webtest.Eval[string](v.Page, "location.href"))
	v.Proper(where)
}

func (v *visitor) picture(name string) {
	v.Helper()
	v.Pictures(v.pictures, name)
}

// runAgent runs the real agent, let in with a token, over a disk that boots.
func runAgent(t *testing.T, binary, manage, pin, token string) {
	t.Helper()
	home := t.TempDir()
	disk, file, conf := filepath.Join(home, "disk.img"), filepath.Join(home, "token"), filepath.Join(home, "conf")
	for name, b := range map[string][]byte{disk: targettest.Ticking("tick"), file: []byte(token)} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if b, err := exec.CommandContext(ctx, binary, "enrol", "--server", manage, "--config-dir", conf, "--token-file", file, "--ca-pin", pin).CombinedOutput(); err != nil {
		t.Fatalf("enrol: %v: %s", err, b)
	}
	cmd := exec.Command(binary, "run", "--machine", "web", "--context", filepath.Join(conf, "agent.json"), "--disk", disk+"=sda", "--capture", "scan",
		"--interval", "500ms", "--state-dir", filepath.Join(home, "state"))
	cmd.Stderr, cmd.SysProcAttr = t.Output(), &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // ours
		_ = cmd.Wait()
	})
}

// The whole way in a real browser, on a real appliance, with a real agent and QEMU: a
// machine is protected, tested and cleaned up by clicking; failed over, and that
// cancelled, with the keyboard alone.
func TestConsoleInABrowser(t *testing.T) {
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64")
	webtest.Find(t)
	binary := buildAgent(t)
	dir := t.TempDir()
	var said locked
	manage, pin, _ := offBox(t, dir, &said)
	b := webtest.Start(t)
	v := visit(t, b, dir, manage, "admin")
	v.See("No machine is protected yet.")
	v.picture("overview-empty")

	v.Click("=Protect a machine")
	v.Wait("the form", `document.querySelector("input[name=machine]")`)
	v.Fill("input[name=machine]", "web")
	v.Click("=Make a token")
	v.Wait("the token", `document.querySelector("#token")`)
	runAgent(t, binary, manage, pin, webtest.Eval[string](v.Page, `document.querySelector("#token").innerText`))
	v.Click("=Watch for it")
	// From here on nobody loads the page again: it follows by itself.
	v.Wait("the machine to come", `document.querySelector('a[href="/machines/web"]')`)
	v.Click(`a[href="/machines/web"]`)
	v.Wait("a recovery point", `document.querySelector('.actions a[href*="kind=test"]')`)
	v.clickTest()
	v.pages()
	v.keyboard()
	v.others(b, dir)
	for _, c := range v.Complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

// clickTest runs a test failover with the mouse.
func (v *visitor) clickTest() {
	v.Helper()
	v.Click("=Test failover")
	v.See("To which recovery point?")
	v.Click("=Latest")
	v.Click("=Next")
	v.See("Proof of life")
	v.Fill("input[name=serial]", "t.ck=B")
	v.Fill("input[name=memory]", "128")
	webtest.Eval[string](v.Page, `document.querySelector("select[name=firmware]").value = "bios"`)
	v.Click("=Look whether it works")
	v.See("What control found")
	v.Click("=Start the test failover")
	v.See("It lives.")
	v.See("tick=B")
	v.picture("job-alive")
	v.Click("=Clean up")
	v.See("Nothing of it is left")
	v.proper("the way of a test failover")
}

// pages looks at every page.
func (v *visitor) pages() {
	v.Helper()
	file := filepath.Join(v.TempDir(), "shop.yaml")
	text := "schema: leeward.plan.v1\nname: shop\nabout: the shop, database first\nstages:\n  - name: database\n    machines:\n      - {machine: web, serial: \"t.ck=B\"}\n    after:\n      - {name: look, ask: \"Is the database whole?\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		v.Fatal(err)
	}
	v.Open(v.manage + "/plan-editor")
	webtest.Eval[bool](v.Page, fmt.Sprintf(`(document.querySelector("textarea").value = %q, true)`, text))
	v.Click("=Write it")
	v.See("A new version of the plan is written.")
	for path, name := range map[string]string{
		"/": "overview", "/machines": "machines", "/jobs": "jobs", "/plans": "plans", "/plans/shop": "plan", "/plans/shop/run?mode=test": "plan-run", "/plan-editor?plan=shop": "plan-editor",
		"/policies": "policies", "/policy-editor": "policy-editor", "/events": "events", "/site": "site", "/vault": "vault", "/protect": "protect", "/people": "people", "/machines/web/ask/disable": "disable",
		"/machines/web/failover": "wizard-1", "/machines/web/failover?kind=failover": "wizard-2", "/machines/web/failover?kind=test&point=latest": "wizard-3",
		"/machines/web/failover?kind=failover&point=latest&serial=tick&firmware=bios&memory=128&step=4": "wizard-4",
	} {
		v.look(path, name)
	}
	v.Open(v.manage + "/machines/web")
	v.Wait("charts", `document.querySelectorAll(".chart canvas").length === 3`)
	v.Wait("the page to be alive", `document.querySelector("#pulse.on")`)
	v.proper("/machines/web")
	v.picture("machine")
}

// keyboard fails the machine over without a mouse, and takes it back.
func (v *visitor) keyboard() {
	v.Helper()
	v.Open(v.manage + "/machines/web")
	v.TabTo("=Fail over")
	v.Press("Enter")
	v.See("To which recovery point?")
	v.TabTo("input[name=point]:checked")
	v.Press("ArrowDown", "ArrowUp")
	if got := webtest.Eval[string](v.Page, `document.querySelector("input[name=point]:checked").value`); got != "latest" {
		v.Errorf("the arrows choose %s", got)
	}
	v.TabTo("=Next")
	v.Press("Enter")
	v.See("Proof of life")
	v.TabTo("input[name=memory]")
	v.Type("128")
	v.TabTo("select[name=firmware]")
	v.Press("ArrowDown")
	v.TabTo("input[name=serial]")
	v.Type("t.ck=B")
	v.TabTo("=Look whether it works")
	v.Press("Enter")
	v.See("What you are about to lose")
	v.Wait("its script", `document.documentElement.classList.contains("js")`)
	if !webtest.Eval[bool](v.Page, `document.querySelector("button.danger").disabled`) {
		v.Error("a failover can be begun without the machine's name")
	}
	v.TabTo("input[name=confirm]")
	v.Type("web")
	v.TabTo("=Fail web over")
	v.Press("Enter")
	v.See("Where it stands")
	v.Wait("the copy to be up", `document.querySelector(".big-state .state.ok")`)
	v.picture("machine-failed-over")
	v.TabTo("=Cancel")
	v.Press("Enter")
	v.See("copy is ended and what it wrote is lost")
	v.TabTo("input[name=confirm]")
	v.Type("web")
	v.TabTo("button.danger")
	v.Press("Enter")
	v.Wait("the machine to be protected at home again", `location.pathname === "/machines/web" && document.querySelector('.actions a[href*="kind=failover"]')`)
	v.proper("the way of a failover")
}

// others sees that a viewer may look and no more, and that a session that is over lets
// nobody in.
func (v *visitor) others(b *webtest.Browser, dir string) {
	v.Helper()
	w := visit(v.T, b, dir, v.manage, "viewer")
	w.Open(w.manage + "/machines/web")
	w.See("Recovery points over time")
	if n := webtest.Eval[int](w.Page, `document.querySelectorAll("main form, main .button").length`); n != 0 {
		w.Errorf("a viewer is shown %d buttons", n)
	}
	w.proper("/machines/web of a viewer")
	if got := webtest.Eval[int](w.Page, `fetch("/protect", {method: "POST", body: new URLSearchParams({machine: "x"})}).then(r => r.status)`); got != 403 {
		w.Errorf("a viewer makes a token: %d", got)
	}
	_ = w.Complaints() // it told of the refusal
	w.Click("=Sign out")
	w.See("Sign in")
	w.Open(w.manage + "/machines")
	w.See("Sign in")
	w.proper("/login")
	w.picture("login")
}
