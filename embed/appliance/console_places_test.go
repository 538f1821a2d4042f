package appliance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control"
	"github.com/leeward-dr/leeward/control/console/webtest"
	"github.com/leeward-dr/leeward/control/life"
	"github.com/leeward-dr/leeward/control/target/azure"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

const (
	placesHere  = "LEEWARD_TEST_PLACES" // this process is the test, in a network namespace of its own
	placeBridge = "lwplace0"
)

// Every place that a machine can go to, by clicking: into files, onto a bridge of the host by
// a planned failover that is completed, and to a cloud of the test, where its disk stands by.
func TestConsoleToEveryPlace(t *testing.T) {
	t.Parallel()
	if os.Getenv(placesHere) == "" {
		placesInNamespace(t)
		return
	}
	for _, line := range []string{"link set lo up", "link add " + placeBridge + " type bridge", "link set " + placeBridge + " up"} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	s := azuritetest.Start(t)
	cloud := armtest.New(t, s.Endpoint, azuritetest.Account, azuritetest.Key)
	dir := t.TempDir()
	manage := cloudy(t, dir, cloud)
	db, web := &protected{T: t, dir: dir, name: "db"}, &protected{T: t, dir: dir, name: "web"}
	for _, p := range []*protected{db, web} {
		p.protect("tick")
		p.pointOfNow()
	}
	web.cli("policy", "set", "near", "standby_interval=1m", "machines=[db]")
	v := visit(t, webtest.Start(t), dir, manage, "admin")
	v.intoFiles()
	v.ontoBridge(web)
	v.intoCloud(db, cloud)
	for _, c := range v.Complaints() {
		t.Errorf("the browser complains: %s", c)
	}
}

// placesInNamespace runs this test again in a network namespace that is gone afterwards.
func placesInNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("MISSING: root: it makes a network namespace and a bridge")
		}
		t.Skip("MISSING: root: the console was not seen to lead onto a bridge, to Azure and into files")
	}
	targettest.Need(t, "qemu-system-x86_64", "ip")
	webtest.Find(t)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this host has no bridges for guests: %v", err)
		}
		t.Skipf("this host has no bridges for guests: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestConsoleToEveryPlace$", "-test.v", "-test.timeout=8m")
	c.Env = append(os.Environ(), placesHere+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	c.WaitDelay = 10 * time.Second
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// cloudy runs an appliance whose Azure is the cloud, and returns the console's address.
func cloudy(t *testing.T, dir string, cloud *armtest.Cloud) string {
	t.Helper()
	c := config(t, dir)
	c.Manage = freePort(t)
	c.tune = func(cc *control.Config) {
		cc.StandbyEvery = time.Second
		cc.Azure.Config = azure.Config{Place: azure.Place{
			Subscription: armtest.Subscription, ResourceGroup: armtest.Group, Region: armtest.Region, Subnet: armtest.Subnet, Account: armtest.Account,
		}}.Tune(azure.Tuning{
			Transport: cloud, Credential: armtest.Credential(), Pause: 10 * time.Millisecond, PageBlob: cloud.PageBlob, Container: cloud.Container,
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	up, end := make(chan struct{}), make(chan error, 1)
	go func() { end <- Run(ctx, c, "1.0.0", &signalWriter{up: up}, t.Output()) }()
	select {
	case <-up:
	case err := <-end:
		cancel()
		t.Fatalf("the appliance did not start: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-end; err != nil {
			t.Errorf("the appliance ended: %v", err)
		}
	})
	return "http://" + c.Manage
}

// choose sets a list of the wizard.
func (v *visitor) choose(name, value string) {
	v.Helper()
	if got := webtest.Eval[string](v.Page, fmt.Sprintf(`(e => { e.value = %q; return e.value; })(document.querySelector("select[name=%s]"))`, value, name)); got != value {
		v.Fatalf("%s cannot be %s", name, value)
	}
}

// intoFiles writes a machine's disk into a file, as a test.
func (v *visitor) intoFiles() {
	v.Helper()
	file := filepath.Join(v.TempDir(), "web.qcow2")
	v.Open(v.manage + "/machines/web")
	v.Click("=Test failover")
	v.See("To which recovery point?")
	v.Click("=Next")
	v.See("Proof of life")
	v.choose("target", "disk")
	v.choose("format", "qcow2")
	v.Fill("input[name=out]", file)
	v.Click("=Look whether it works")
	v.See("files: " + file + ", qcow2")
	v.picture("wizard-4-files")
	v.proper("the last look before files")
	v.Click("=Start the test failover")
	v.See("It lives.")
	v.proper("a job that wrote files")
	v.Click("=Clean up")
	v.See("Nothing of it is left but " + file)
	f, err := os.Open(file)
	if err != nil {
		v.Fatal(err)
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil || !bytes.Equal(magic, []byte("QFI\xfb")) {
		v.Errorf("%s is no qcow2: %q, %v", file, magic, err)
	}
}

// ontoBridge fails a machine that still works over onto a bridge, and lets it stay there.
func (v *visitor) ontoBridge(web *protected) {
	v.Helper()
	v.Open(v.manage + "/machines/web")
	v.Click("=Fail over")
	v.Click("=make it a planned failover")
	v.See("makes its own, final point")
	v.wizard(func() {
		v.choose("network", "bridge")
		v.Fill("input[name=bridge]", "nosuch0")
	})
	v.See("It would fail.")
	v.onlyAnyway("web")
	v.picture("wizard-4-would-fail")
	v.proper("the last look before what would fail")
	v.Click("=Back")
	v.See("Proof of life")
	v.Refill("input[name=bridge]", placeBridge)
	v.Fill("input[name=quiesce]", "echo stopped")
	v.Click("=Look whether it works")
	v.See("bridge " + placeBridge)
	v.See("The failover goes on only if nothing changes after the final point.")
	v.picture("wizard-4-planned")
	v.proper("the last look before a planned failover")
	v.confirm("web")
	v.stands("failed over")
	v.See("nothing is lost")
	if out, err := exec.Command("ip", "-o", "link", "show", "master", placeBridge).Output(); err != nil || bytes.Count(out, []byte("\n")) != 1 {
		v.Errorf("the bridge has not one port: %v: %s", err, out)
	}
	v.picture("machine-planned")
	v.Click("=Commit")
	v.Click("main form button.main")
	v.stands("failed over and committed")
	v.Click("=Complete the migration")
	v.See("Its source stays fenced")
	v.picture("complete")
	v.confirm("web")
	v.stands("migrated")
	v.See("It stays where it runs.")
	v.proper("a machine that has migrated")
	if l := web.life(); l.Phase != life.Migrated || l.Loss == nil || *l.Loss != 0 {
		v.Errorf("it is %+v", l)
	}
}

// onlyAnyway sees that what would fail is not done by its name alone.
func (v *visitor) onlyAnyway(name string) {
	v.Helper()
	off := func() bool { return webtest.Eval[bool](v.Page, `document.querySelector("button[data-off]").disabled`) }
	v.Fill("input[name=confirm]", name)
	if !off() {
		v.Error("what would fail can be done by typing the name alone")
	}
	v.Click("input[name=anyway]")
	if off() {
		v.Error("what would fail cannot be done at all")
	}
	v.Click("input[name=anyway]")
	v.Refill("input[name=confirm]", "")
}

// intoCloud sees that a machine's disk stands by, fails it over to Azure and takes it back.
func (v *visitor) intoCloud(db *protected, cloud *armtest.Cloud) {
	v.Helper()
	v.Open(v.manage + "/machines/db")
	v.Wait("its disk to stand by", `[...document.querySelectorAll('[aria-labelledby="h-standby"] .state.ok')].some(e => e.innerText.trim() === "kept")`)
	t := v.T
	asPromised(t, "leeward.standbys.v1", db.cli("standby", "ls"))
	asPromised(t, "leeward.standby.v1", db.cli("standby", "show", "db", "sda"))
	v.picture("machine-standby")
	v.proper("a machine with a disk on standby")
	v.Click("=Fail over")
	v.See("To which recovery point?")
	v.Click("=Next")
	v.See("Proof of life")
	v.choose("target", "azure")
	v.Click("summary")
	v.choose("fixup", "off") // there is nothing to fix on its disk
	v.Fill("input[name=resource_group]", armtest.Group)
	v.Fill("input[name=region]", armtest.Region)
	v.Fill("input[name=subnet]", armtest.Subnet)
	v.Fill("input[name=memory]", "2048")
	v.Fill("input[name=serial]", "booted")
	v.picture("wizard-3-azure")
	v.Click("=Look whether it works")
	v.See("Azure, " + armtest.Region + ", " + armtest.Group)
	v.picture("wizard-4-azure")
	v.proper("the last look before Azure")
	v.confirm("db")
	v.stands("failed over")
	if n := len(cloud.Disks()); n != 1 {
		v.Errorf("there are %d disks in the cloud", n)
	}
	v.Click(".phase a[href^=\"/jobs/\"]")
	v.See("It is up.")
	v.See("booted")
	v.picture("job-azure")
	v.proper("a job in Azure")
	v.Open(v.manage + "/machines/db")
	v.Click("=Cancel")
	v.confirm("db")
	v.Wait("the machine to be protected at home again", `location.pathname === "/machines/db" && document.querySelector('.actions a[href*="kind=failover"]')`)
	if n := len(cloud.Disks()); n != 0 {
		v.Errorf("after it was taken back there are %d disks in the cloud", n)
	}
	db.pointOfNow()
}
