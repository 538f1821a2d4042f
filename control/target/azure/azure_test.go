package azure

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/leeward-dr/leeward/consumers/vault/store/azuritetest"
	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/azure/armtest"
	"github.com/leeward-dr/leeward/control/target/targettest"
)

// All of this shares one Azurite.
func TestAzure(t *testing.T) {
	r := rig{azuritetest.Start(t)}
	t.Run("conforms", r.conforms)
	t.Run("round trip", r.roundTrip)
	t.Run("in isolation", r.isolation)
	t.Run("failover", r.failover)
	t.Run("no life", r.noLife)
	t.Run("only writing", r.onlyWriting)
	t.Run("operations end badly", r.badEnds)
	t.Run("every call fails once", r.everyCall)
	t.Run("killed at every call", r.killed)
	t.Run("sent once", r.sentOnce)
	t.Run("leftovers", r.leftovers)
	t.Run("the way home", r.home)
	t.Run("standby", r.standby)
	t.Run("standby: every call fails", r.standbyFaults)
	t.Run("standby: two at once", r.standbyTwo)
	t.Run("standby: killed in a failover", r.standbyFailover)
	t.Run("fit for Hyper-V", r.fit)
	t.Run("unfit", r.unfit)
	t.Run("a lie", r.lie)
	t.Run("all that is wrong is said", r.allWrong)
}

func (r rig) conforms(t *testing.T) {
	targettest.TestTarget(t, targettest.Kit{
		New: func(t *testing.T) target.Target { return testTarget(r.cloud(t)) },
		Live: func(t *testing.T) (*target.Machine, target.Probe) {
			return machine(content(1, 3<<20), content(2, 1<<20)), booted
		},
	})
}

// roundTrip: what Azure would get is, by qemu-img's account, what the point holds.
func (r rig) roundTrip(t *testing.T) {
	targettest.Need(t, "qemu-img")
	for name, c := range map[string]struct {
		via  string
		size int
	}{
		"upload": {Upload, 33<<20 + 1536}, "upload of whole MiB": {Upload, 24 << 20}, "small": {Upload, 1 << 20}, "import": {Import, 21<<20 + 512},
	} {
		t.Run(name, func(t *testing.T) {
			cloud, ctx, dir := r.cloud(t), ctxOf(t), t.TempDir()
			p := place()
			p.Via = c.via
			data := content(3, c.size)
			run, err := New(config(cloud, p, true)).Start(ctx, machine(data), dir)
			if err != nil {
				t.Fatal(err)
			}
			res, err := run.Probe(ctx, booted)
			if err != nil || !res.Alive {
				t.Fatalf("%v, %+v", err, res)
			}
			t.Log(strings.Join(res.Evidence, "\n"))
			vhd, raw := filepath.Join(t.TempDir(), "a.vhd"), filepath.Join(t.TempDir(), "a.raw")
			got := cloud.Download(t, cloud.Disks()[0])
			size := int(vhdSize(int64(c.size)))
			if len(got) != size+512 || (len(got)-512)%(1<<20) != 0 {
				t.Errorf("the VHD has %d bytes", len(got))
			}
			want := append(slices.Clone(data), make([]byte, size-len(data))...)
			if !bytes.Equal(got[:size], want) {
				t.Error("the bytes differ")
			}
			for file, b := range map[string][]byte{vhd: got, raw: want} {
				if err := os.WriteFile(file, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := exec.CommandContext(ctx, "qemu-img", "compare", "-s", "-f", "vpc", "-F", "raw", vhd, raw).CombinedOutput(); err != nil {
				t.Errorf("qemu-img: %v: %s", err, out)
			}
			if err := run.Stop(ctx); err != nil {
				t.Error(err)
			}
			clean(t, cloud, dir)
		})
	}
}

// isolation: a test's machine has a network that leads nowhere.
func (r rig) isolation(t *testing.T) {
	c, ctx := r.cloud(t), ctxOf(t)
	run, err := testTarget(c).Start(ctx, machine(content(4, 1<<20)), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer run.Stop(ctx)
	if _, err := run.Probe(ctx, booted); err != nil {
		t.Fatal(err)
	}
	if _, err := run.Probe(ctx, target.Probe{Port: 22}); err == nil || !strings.Contains(err.Error(), "isolation") {
		t.Errorf("a port of an isolated machine is asked for: %v", err)
	}
	base := run.(*Run).b.base()
	rules, _ := c.Properties("networkSecurityGroups/" + base + "-nsg")["securityRules"].([]any)
	denied := map[any]bool{}
	for _, x := range rules {
		p := x.(map[string]any)["properties"].(map[string]any)
		denied[p["direction"]] = p["access"] == "Deny" && p["protocol"] == "*" && p["sourceAddressPrefix"] == "*" && p["destinationAddressPrefix"] == "*" &&
			p["destinationPortRange"] == "*"
	}
	if !denied["Inbound"] || !denied["Outbound"] || len(rules) != 2 {
		t.Errorf("the rules are %v", rules)
	}
	net := c.Properties("virtualNetworks/" + base + "-net")
	subnet := net["subnets"].([]any)[0].(map[string]any)["properties"].(map[string]any)
	if net["virtualNetworkPeerings"] != nil || subnet["networkSecurityGroup"] == nil || subnet["defaultOutboundAccess"] != false {
		t.Errorf("the network is %v", net)
	}
	ip := c.Properties("networkInterfaces/" + base + "-nic")["ipConfigurations"].([]any)[0].(map[string]any)["properties"].(map[string]any)
	if id, _ := ip["subnet"].(map[string]any)["id"].(string); ip["publicIPAddress"] != nil || !strings.Contains(id, base+"-net") {
		t.Errorf("the interface is %v", ip)
	}
}

// failover: a real one goes into the subnet that is named, with all its disks and tags.
func (r rig) failover(t *testing.T) {
	c, ctx := r.cloud(t), ctxOf(t)
	m := machine(content(5, 1<<20), content(6, 22<<20))
	m.Firmware, m.CPUs = "uefi", 3
	dir := t.TempDir()
	run, err := New(config(c, place(), false)).Start(ctx, m, dir)
	if err != nil {
		t.Fatal(err)
	}
	p := booted
	p.Port = listener(t)
	res, err := run.Probe(ctx, p)
	if err != nil || !res.Alive || !strings.Contains(strings.Join(res.Evidence, "\n"), "accepts") {
		t.Fatalf("%v, %+v", err, res)
	}
	base := run.(*Run).b.base()
	vm := c.Machine(base)
	if vm == nil || string(*vm.Properties.HardwareProfile.VMSize) != "Standard_D4s_v5" || len(vm.Properties.StorageProfile.DataDisks) != 1 {
		t.Fatalf("the machine is %+v", vm)
	}
	if *vm.Tags[tagMachine] != "web" || *vm.Tags[tagKind] != "failover" || *vm.Tags[tagRun] == "" {
		t.Errorf("the tags are %v", vm.Tags)
	}
	ip := c.Properties("networkInterfaces/" + base + "-nic")["ipConfigurations"].([]any)[0].(map[string]any)["properties"].(map[string]any)
	if id, _ := ip["subnet"].(map[string]any)["id"].(string); !strings.HasSuffix(id, "virtualNetworks/site/subnets/servers") || ip["publicIPAddress"] != nil {
		t.Errorf("the interface is %v", ip)
	}
	if err := run.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	clean(t, c, dir)
}

// noLife: a machine that does not come up is no error; what it said is kept.
func (r rig) noLife(t *testing.T) {
	for name, spoil := range map[string]func(*armtest.Cloud){
		"says nothing": func(c *armtest.Cloud) { c.Says("kernel panic\n") }, "stops": (*armtest.Cloud).Sleep,
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx, dir := r.cloud(t), ctxOf(t), t.TempDir()
			spoil(c)
			run, err := testTarget(c).Start(ctx, machine(content(7, 1<<20)), dir)
			if err != nil {
				t.Fatal(err)
			}
			p := booted
			p.Serial, p.Timeout = "login:", 300*1e6
			res, err := run.Probe(ctx, p)
			if err != nil || res.Alive || res.Boot != 0 || len(res.Evidence) == 0 {
				t.Fatalf("%v, %+v", err, res)
			}
			if b, err := os.ReadFile(res.SerialLog); err != nil || len(b) == 0 {
				t.Errorf("serial log: %q, %v", b, err)
			}
			if name == "stops" {
				if err := run.Wait(ctx); err != nil {
					t.Error(err)
				}
			}
			if err := run.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			clean(t, c, dir)
		})
	}
}

// onlyWriting: where a signature does not allow to ask for pages, everything works, and
// what could not be verified is said.
func (r rig) onlyWriting(t *testing.T) {
	c, ctx := r.cloud(t), ctxOf(t)
	c.WriteOnly()
	data := content(8, 1<<20)
	run, err := testTarget(c).Start(ctx, machine(data), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer run.Stop(ctx)
	res, err := run.Probe(ctx, booted)
	if err != nil || !res.Alive || !strings.Contains(strings.Join(res.Evidence, "\n"), "would not list") {
		t.Fatalf("%v, %+v", err, res)
	}
	if got := c.Download(t, c.Disks()[0]); !bytes.Equal(got[:len(data)], data) {
		t.Error("the bytes differ")
	}
}

// lie: a point whose disk does not hold what it promises never becomes a machine.
func (r rig) lie(t *testing.T) {
	c, ctx, dir := r.cloud(t), ctxOf(t), t.TempDir()
	m := machine(content(9, 1<<20))
	m.Disks[0].(*targettest.Disk).Lie()
	run, err := testTarget(c).Start(ctx, m, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.Probe(ctx, booted); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a wrong digest is not found: %v", err)
	}
	if err := run.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	clean(t, c, dir)
}

// allWrong: whoever asks whether a machine can come up hears of everything at once.
func (r rig) allWrong(t *testing.T) {
	c, ctx := r.cloud(t), ctxOf(t)
	m := machine(content(40, 1<<20))
	if err := New(config(c, place(), false)).Validate(ctx, m); err != nil {
		t.Fatal(err)
	}
	m.Disks = append(m.Disks, bigDisk{targettest.Mem("sdb", nil), 40 << 40})
	p := place()
	p.Subnet, p.Via, p.Container = "site/gone", Import, "not-there"
	c.Quota(1)
	cfg := config(c, p, false)
	cfg.pageBlob = func(name string) (*pageblob.Client, error) {
		key, err := blob.NewSharedKeyCredential(azuritetest.Account, azuritetest.Key)
		if err != nil {
			return nil, err
		}
		return pageblob.NewClientWithSharedKeyCredential(r.Endpoint+"/not-there/"+name, key, nil)
	}
	cfg.Fixer = noKernel{}
	err := New(cfg).Validate(ctx, m)
	if err == nil {
		t.Fatal("nothing is wrong")
	}
	t.Log(err)
	for _, want := range []string{"disk sdb has", "page blob", "no kernel", "site/gone", "container not-there is not there", "1 of 8 are left", "quota cores", "quota standardDSv5Family"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s", want)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Error("it has several lines")
	}
}

// noKernel lacks what looking into disks takes.
type noKernel struct{ noFixer }

func (noKernel) CanFit(*target.Machine) error { return errors.New("no kernel for helpers") }
