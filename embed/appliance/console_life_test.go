package appliance

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/leeward-dr/leeward/control/console/webtest"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// A disaster by clicking: a machine is failed over, set back to an earlier point,
// committed, re-protected and brought home; a plan is run with a question in it, a drill is
// scheduled, run, reported and paused; two machines are failed over as a group.
func TestConsoleThroughADisaster(t *testing.T) {
	t.Parallel()
	targettest.Need(t, "qemu-system-x86_64")
	webtest.Find(t)
	dir := t.TempDir()
	db, web := &protected{T: t, dir: dir, name: "db"}, &protected{T: t, dir: dir, name: "web", manage: freePort(t)}
	t.Cleanup(func() { endAll(t, dir) })
	web.up() // a process of its own: its machines have keepers
	manage := "http://" + web.manage
	for _, p := range []*protected{db, web} {
		p.protect("tick")
	}
	first := web.pointOfNow()
	web.cli("point", "pin", first)
	web.cli("group", "create", "shop", "db", "web")
	v := visit(t, webtest.Start(t), dir, manage, "admin")
	v.plans(filepath.Join(t.TempDir(), "plan.yaml"))
	v.thereAndBack(web, first)
	v.together()
	for _, c := range v.Complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

// wizard goes through the steps of a failover from its second on, to the last look.
func (v *visitor) wizard(then func()) {
	v.Helper()
	v.See("To which recovery point?")
	v.Click("=Next")
	v.See("Proof of life")
	v.Fill("input[name=serial]", "t.ck=B")
	v.Fill("input[name=memory]", "128")
	webtest.Eval[string](v.Page, `document.querySelector("select[name=firmware]").value = "bios"`)
	if then != nil {
		then()
	}
	v.Click("=Look whether it works")
	v.See("What control found")
	v.Wait("its script", `document.documentElement.classList.contains("js")`)
}

// confirm types the name that a form asks for, and presses its button.
func (v *visitor) confirm(name string) {
	v.Helper()
	v.Wait("its script", `document.documentElement.classList.contains("js")`)
	if !webtest.Eval[bool](v.Page, `document.querySelector("button[data-off]").disabled`) {
		v.Errorf("it can be done without the name of %s", name)
	}
	v.Fill("input[name=confirm]", name)
	v.Click("button[data-off]")
}

// stands waits until a page says where a machine or group stands.
func (v *visitor) stands(text string) {
	v.Helper()
	v.Wait("it to be "+text, fmt.Sprintf(`[...document.querySelectorAll(".big-state .state, td .state")].some(e => e.innerText.trim() === %q)`, text))
}

// thereAndBack takes web through a failover and home again.
func (v *visitor) thereAndBack(web *protected, first string) {
	v.Helper()
	v.Open(v.manage + "/machines/web")
	v.Click("=Fail over")
	v.wizard(func() {
		if got := webtest.Eval[string](v.Page, `[...document.querySelectorAll("select[name=target] option")].map(o => o.value).join()`); got != "qemu,azure" {
			v.Errorf("the targets of a failover are %s", got)
		}
		webtest.Eval[bool](v.Page, `document.querySelector("details").open = true`)
		v.picture("wizard-3-failover")
	})
	v.confirm("web")
	v.stands("failed over")

	v.Click(".phase a[href^=\"/jobs/\"]")
	v.See("It is up.")
	v.See("tick=B")
	v.See("Its disks")
	v.Wait("a picture of its screen", `(document.querySelector("img.shot") || {}).naturalWidth > 0`)
	v.Fill("textarea[name=notes]", "the licence server was missed")
	v.Click("=Keep the notes")
	v.See("It is noted.")
	v.picture("job-failed-over")
	v.proper("a job")

	v.Open(v.manage + "/machines/web")
	v.Click("=Change the recovery point")
	v.Click(fmt.Sprintf("label:has(input[value=%q])", first))
	v.picture("change-point")
	v.confirm("web")
	web.until("it is up from the other point", func() error {
		if l := web.life(); l.Point != first || l.Phase != life.FailedOver {
			return fmt.Errorf("it is %s from %s", l.Phase, l.Point)
		}
		return nil
	})
	v.stands("failed over")
	v.Click("=Commit")
	v.See("The machine stays as it is now.")
	v.Click("main form button.main")
	v.stands("failed over and committed")
	v.Click("=Re-protect")
	v.Click("main form button.main")
	v.stands("re-protected, ready to fail back")
	v.picture("machine-ready")
	web.stop() // the machine at home is off
	v.Click("=Fail back")
	v.See("Where is each disk at home?")
	v.Fill(`input[name="home.sda"]`, web.disk)
	v.picture("failback")
	v.confirm("web")
	v.stands("failed back, not committed")
	v.Click("=Commit")
	v.Click("main form button.main")
	v.Wait("the machine to be protected at home again", `location.pathname === "/machines/web" && document.querySelector('.actions a[href*="kind=failover"]')`)
	web.agent()
	web.pointOfNow()
}

// plans runs a plan as a test, answers its question, and has a drill do the same.
func (v *visitor) plans(file string) {
	v.Helper()
	text := "schema: leeward.plan.v1\nname: site\nabout: the database, then the shop\nstages:\n  - name: database\n    machines:\n      - {machine: db, serial: \"t.ck=B\"}\n" +
		"    after:\n      - {name: look, ask: \"Is the database whole?\", only: [failover]}\n  - name: shop\n    machines:\n      - {machine: web, serial: \"t.ck=B\"}\n    after:\n      - {name: shop opens, ask: \"May the shop open?\"}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		v.Fatal(err)
	}
	v.cli("plan", "apply", file)
	v.Open(v.manage + "/plans")
	v.Click("=Test…")
	v.See("What it would do")
	v.picture("plan-forecast")
	v.Click("=Start the test")
	v.Wait("the question", `location.pathname.startsWith("/runs/") && document.querySelector("button[name=answer]")`)
	v.See("May the shop open?")
	v.picture("run-asks")
	v.Click(`button[name=answer][value=yes]`)
	v.Wait("the run to be done", `[...document.querySelectorAll("h1 .state")].some(e => e.innerText.trim() === "done")`)
	v.picture("run-done")
	v.proper("a run")

	// A drill has nobody to answer.
	if err := os.WriteFile(file, []byte("schema: leeward.plan.v1\nname: quiet\nstages:\n  - name: all\n    machines: [{machine: db, serial: \"t.ck=B\"}, {machine: web, serial: \"t.ck=B\"}]\n"), 0o600); err != nil {
		v.Fatal(err)
	}
	v.cli("plan", "apply", file)
	v.Open(v.manage + "/plans")
	v.Fill("#new-drill input[name=name]", "weekly")
	v.Fill("#new-drill input[name=at]", "03:00")
	v.Click("=Write the drill")
	v.See("The drill is written.")
	v.Click("#d-weekly button")
	v.Wait("the drill to be done", `[...document.querySelectorAll("h1 .state")].some(e => e.innerText.trim() === "done")`)
	v.Open(v.manage + "/plans")
	v.Wait("a report", `document.querySelector('a[href^="/reports/"]')`)
	v.Click("=Pause")
	v.See("The drill is written.")
	v.See("paused")
	v.picture("drills")
	v.Click(`a[href^="/reports/"]`)
	v.See("Report of drill weekly")
	v.Wait("pictures of the screens", `[...document.images].length > 0 && [...document.images].every(i => i.naturalWidth > 0)`)
	v.picture("report")
	v.proper("a report")
}

// together fails a group over, to a point that its machines have in common, and takes it
// back.
func (v *visitor) together() {
	v.Helper()
	v.Open(v.manage + "/policies")
	v.Click("=shop")
	v.See("that are cut together")
	v.Wait("a common point", `document.querySelector('.actions a[href*="kind=failover"]')`)
	v.Click("=Fail over")
	v.wizard(nil)
	v.picture("wizard-4-group")
	v.confirm("shop")
	v.Wait("both to be up", `[...document.querySelectorAll("td .state")].filter(e => e.innerText.trim() === "failed over").length === 2`)
	v.picture("group")
	v.Click("=Cancel")
	v.confirm("shop")
	v.Wait("both to be at home", `[...document.querySelectorAll("td .state")].filter(e => e.innerText.trim() === "protected").length === 2`)
}

// cli runs a command that succeeds.
func (v *visitor) cli(args ...string) {
	v.Helper()
	if code, _, errs := lw(v.T, v.Context(), v.dir, args...); code != 0 {
		v.Fatalf("leeward %v: code %d: %s", args, code, errs)
	}
}

// endAll ends machines that a test which failed has left.
func endAll(t *testing.T, dir string) {
	jobs := filepath.Join(dir, "jobs")
	for _, pid := range targettest.WorkIn(jobs) {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill() // it may have ended by itself
		}
	}
	targettest.WaitFor(t, lifeTime, "every machine has ended", func() bool { return len(targettest.WorkIn(jobs)) == 0 })
}
