package armtest

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8/fake"
)

// Where the cloud has things.
const (
	Subscription = "11111111-2222-3333-4444-555555555555"
	Group        = "recovery"
	Region       = "westeurope"
	Subnet       = "site/servers" // a subnet that was there before
	Account      = "/subscriptions/" + Subscription + "/resourceGroups/" + Group + "/providers/Microsoft.Storage/storageAccounts/leewardtest"
)

// Cloud is one resource group.
type Cloud struct {
	Switch
	blobs   *blobs
	compute compute

	mu        sync.Mutex
	disks     map[string]*Disk
	machines  map[string]*armcompute.VirtualMachine
	nets      map[string]*thing // by kind/name
	ops       map[string]int    // operation → questions until it is done
	off       map[string]bool   // machines that are deallocated
	power     func(name string, on bool)
	console   string // what every machine says
	asleep    bool   // machines do not run
	writeOnly bool
	broken    map[string]string // what an operation ends with, once
	quota     int64             // CPUs that are left
}

// Disk is a managed disk.
type Disk struct {
	armcompute.Disk
	State armcompute.DiskState
	blob  string
}

// thing is a resource of a network.
type thing struct {
	id, kind string
	body     map[string]any
	tags     map[string]string
}

// Credential is one that this cloud believes.
func Credential() azcore.TokenCredential { return &azfake.TokenCredential{} }

// New makes a cloud with a network that was there before.
func New(t testing.TB, endpoint, name, key string) *Cloud {
	t.Helper()
	c := &Cloud{
		disks: map[string]*Disk{}, machines: map[string]*armcompute.VirtualMachine{}, nets: map[string]*thing{}, ops: map[string]int{},
		off: map[string]bool{}, broken: map[string]string{}, console: "booted\n", quota: 100,
	}
	c.blobs = newBlobs(t, endpoint, name, key)
	site := c.path("virtualNetworks/site")
	c.nets["virtualnetworks/site"] = &thing{id: site, kind: "Microsoft.Network/virtualNetworks", body: map[string]any{"id": site, "location": Region}}
	c.compute.servers = fake.ServerFactory{DisksServer: c.diskServer(), VirtualMachinesServer: c.machineServer(), ResourceSKUsServer: c.sizeServer(), UsageServer: c.usageServer()}
	c.Switch.serve = c.serve
	return c
}

func (c *Cloud) path(what string) string {
	return "/subscriptions/" + Subscription + "/resourceGroups/" + Group + "/providers/Microsoft.Network/" + what
}

// Says sets what machines write to their serial lines.
func (c *Cloud) Says(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.console = text
}

// Sleep makes machines stop.
func (c *Cloud) Sleep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asleep = true
}

// OnPower sets what is done when a machine has been turned off, before it is said, and when
// it has been turned on.
func (c *Cloud) OnPower(do func(name string, on bool)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.power = do
}

// Fill writes into a managed disk, as the machine does that it is attached to.
func (c *Cloud) Fill(t testing.TB, name string, content []byte) {
	t.Helper()
	c.mu.Lock()
	d := c.disks[name]
	c.mu.Unlock()
	if d == nil {
		t.Fatalf("there is no disk %s", name)
	}
	if err := c.blobs.fill(d.blob, content); err != nil {
		t.Fatal(err)
	}
}

// Quota sets how many CPUs the subscription may still have.
func (c *Cloud) Quota(cpus int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quota = cpus
}

// WriteOnly makes signatures for disks good for writing only.
func (c *Cloud) WriteOnly() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeOnly = true
}

// Break makes the next operation of a kind, such as "put disk", begin well and end with
// an error.
func (c *Cloud) Break(kind, code string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken[kind] = code
}

// Left lists what is there that was not there before any run, also blobs.
func (c *Cloud) Left(t testing.TB) (all []string) {
	t.Helper()
	c.mu.Lock()
	for n, d := range c.disks {
		all = append(all, fmt.Sprintf("disk %s (%s)", n, d.State))
	}
	for n := range c.machines {
		all = append(all, "machine "+n)
	}
	for n := range c.nets {
		if n != "virtualnetworks/site" {
			all = append(all, n)
		}
	}
	c.mu.Unlock()
	all = append(all, c.blobs.left(t)...)
	sort.Strings(all)
	return all
}

// Disks lists the names of managed disks.
func (c *Cloud) Disks() (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.disks {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// Download returns what a managed disk holds, with the footer.
func (c *Cloud) Download(t testing.TB, name string) []byte {
	t.Helper()
	c.mu.Lock()
	d := c.disks[name]
	c.mu.Unlock()
	if d == nil {
		t.Fatalf("there is no disk %s", name)
	}
	return c.blobs.download(t, d.blob)
}

// Machine returns a virtual machine, nil if there is none of that name.
func (c *Cloud) Machine(name string) *armcompute.VirtualMachine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.machines[name]
}

// Properties returns what was sent for a resource of a network, such as
// networkInterfaces/NAME.
func (c *Cloud) Properties(what string) map[string]any {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nets[strings.ToLower(what)]; n != nil {
		p, _ := n.body["properties"].(map[string]any)
		return p
	}
	return nil
}

// serve answers a request.
func (c *Cloud) serve(req *http.Request) (*http.Response, error) {
	switch {
	case req.URL.Host == diagnosticsHost:
		return c.diagnostics(req)
	case req.URL.Host != "management.azure.com":
		return c.blob(req)
	case strings.Contains(req.URL.Path, "/providers/Microsoft.Compute/"):
		return c.compute.do(req)
	}
	return c.manage(req)
}

// blob passes a request to Azurite, if the disk that it is for is open.
func (c *Cloud) blob(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	open := true
	for _, d := range c.disks {
		if d.blob != "" && strings.HasSuffix(req.URL.Path, "/"+d.blob) {
			reads := req.Method == http.MethodGet || req.Method == http.MethodHead
			open = d.State == armcompute.DiskStateActiveUpload || d.State == armcompute.DiskStateActiveSAS && reads
		}
	}
	c.mu.Unlock()
	if !open {
		return answer(req, http.StatusForbidden, map[string]string{"x-ms-error-code": "AuthenticationFailed"}, nil), nil
	}
	return http.DefaultTransport.RoundTrip(req)
}

// refuse makes a fake answer an error.
func refuse(e *azfake.ErrorResponder, status int, code string) { e.SetResponseError(status, code) }

// take returns what an operation that begins now is to end with.
func (c *Cloud) take(kind string) string {
	code := c.broken[kind]
	delete(c.broken, kind)
	return code
}

// ends fills the answers of an operation of a fake.
func ends[T any](r *azfake.PollerResponder[T], begun, status int, broken string, result T) {
	r.AddNonTerminalResponse(begun, nil)
	if broken != "" {
		r.SetTerminalError(http.StatusConflict, broken)
		return
	}
	r.SetTerminalResponse(status, result, nil)
}
