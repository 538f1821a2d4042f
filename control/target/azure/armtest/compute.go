package armtest

import (
	"context"
	"net/http"
	"slices"
	"strings"

	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

const (
	mib        = 1 << 20
	footerSize = 512
	leastSize  = 20*mib + footerSize
	mostSize   = 35_183_298_347_520
)

func (c *Cloud) diskServer() fake.DisksServer {
	return fake.DisksServer{
		BeginCreateOrUpdate: c.putDisk, BeginDelete: c.deleteDisk, Get: c.getDisk, BeginGrantAccess: c.grant, BeginRevokeAccess: c.revoke,
	}
}

func (c *Cloud) putDisk(_ context.Context, group, name string, d armcompute.Disk, _ *armcompute.DisksClientBeginCreateOrUpdateOptions) (r azfake.PollerResponder[armcompute.DisksClientCreateOrUpdateResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case group != Group:
		refuse(&e, http.StatusNotFound, "ResourceGroupNotFound")
		return
	case d.Location == nil || *d.Location != Region || d.Properties == nil || d.Properties.CreationData == nil || d.Properties.CreationData.CreateOption == nil:
		refuse(&e, http.StatusBadRequest, "InvalidParameter")
		return
	}
	from := d.Properties.CreationData
	broken := c.take("put disk")
	if old := c.disks[name]; old == nil && broken == "" {
		k := &Disk{Disk: d}
		switch *from.CreateOption {
		case armcompute.DiskCreateOptionUpload:
			n := from.UploadSizeBytes
			if n == nil || *n < leastSize || *n > mostSize || (*n-footerSize)%mib != 0 {
				refuse(&e, http.StatusBadRequest, "InvalidParameter")
				return
			}
			k.State, k.blob = armcompute.DiskStateReadyToUpload, "managed/"+name
			c.blobs.make(k.blob, *n)
		case armcompute.DiskCreateOptionImport:
			if from.SourceURI == nil || from.StorageAccountID == nil || *from.StorageAccountID != Account || strings.Contains(*from.SourceURI, "sig=") {
				refuse(&e, http.StatusBadRequest, "InvalidParameter")
				return
			}
			k.State, k.blob = armcompute.DiskStateUnattached, "managed/"+name
			if !c.blobs.copy(*from.SourceURI, k.blob) {
				refuse(&e, http.StatusBadRequest, "InvalidParameter")
				return
			}
		default:
			refuse(&e, http.StatusBadRequest, "InvalidParameter")
			return
		}
		c.disks[name] = k
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.DisksClientCreateOrUpdateResponse{Disk: d})
	return
}

func (c *Cloud) getDisk(_ context.Context, _, name string, _ *armcompute.DisksClientGetOptions) (r azfake.Responder[armcompute.DisksClientGetResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.disks[name]
	if k == nil {
		refuse(&e, http.StatusNotFound, "ResourceNotFound")
		return
	}
	d := k.Disk
	p := *d.Properties
	p.DiskState = to.Ptr(k.State)
	d.Properties = &p
	r.SetResponse(http.StatusOK, armcompute.DisksClientGetResponse{Disk: d}, nil)
	return
}

func (c *Cloud) deleteDisk(_ context.Context, _, name string, _ *armcompute.DisksClientBeginDeleteOptions) (r azfake.PollerResponder[armcompute.DisksClientDeleteResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.disks[name]
	if k != nil && k.State != armcompute.DiskStateUnattached && k.State != armcompute.DiskStateReadyToUpload {
		refuse(&e, http.StatusConflict, "OperationNotAllowed")
		return
	}
	broken := c.take("delete disk")
	if k != nil && broken == "" {
		delete(c.disks, name)
		c.blobs.remove(k.blob)
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.DisksClientDeleteResponse{})
	return
}

func (c *Cloud) grant(_ context.Context, _, name string, g armcompute.GrantAccessData, _ *armcompute.DisksClientBeginGrantAccessOptions) (r azfake.PollerResponder[armcompute.DisksClientGrantAccessResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.disks[name]
	switch {
	case k == nil:
		refuse(&e, http.StatusNotFound, "ResourceNotFound")
		return
	case g.Access == nil || g.DurationInSeconds == nil || *g.DurationInSeconds <= 0:
		refuse(&e, http.StatusBadRequest, "InvalidParameter")
		return
	}
	var may sas.BlobPermissions
	next := armcompute.DiskStateActiveUpload
	switch { // stricter than Azure may be
	case *g.Access == armcompute.AccessLevelWrite && k.State == armcompute.DiskStateReadyToUpload:
		may = sas.BlobPermissions{Write: true, Read: !c.writeOnly}
	case *g.Access == armcompute.AccessLevelRead && (k.State == armcompute.DiskStateReserved || k.State == armcompute.DiskStateUnattached):
		may, next = sas.BlobPermissions{Read: true}, armcompute.DiskStateActiveSAS
	default:
		refuse(&e, http.StatusConflict, "OperationNotAllowed")
		return
	}
	broken := c.take("grant")
	if broken == "" {
		k.State = next
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.DisksClientGrantAccessResponse{AccessURI: armcompute.AccessURI{AccessSAS: to.Ptr(c.blobs.sign(k.blob, may))}})
	return
}

func (c *Cloud) revoke(_ context.Context, _, name string, _ *armcompute.DisksClientBeginRevokeAccessOptions) (r azfake.PollerResponder[armcompute.DisksClientRevokeAccessResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.disks[name]
	if k == nil {
		refuse(&e, http.StatusNotFound, "ResourceNotFound")
		return
	}
	broken := c.take("revoke")
	if broken == "" && (k.State == armcompute.DiskStateActiveUpload || k.State == armcompute.DiskStateReadyToUpload || k.State == armcompute.DiskStateActiveSAS) {
		k.State = armcompute.DiskStateUnattached
		for vm, off := range c.off {
			if off && c.machines[vm] != nil && slices.Contains(uses(c.machines[vm]), name) {
				k.State = armcompute.DiskStateReserved
			}
		}
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.DisksClientRevokeAccessResponse{})
	return
}

func (c *Cloud) machineServer() fake.VirtualMachinesServer {
	return fake.VirtualMachinesServer{
		BeginCreateOrUpdate: c.putMachine, BeginDelete: c.deleteMachine, InstanceView: c.view, RetrieveBootDiagnosticsData: c.bootData,
		BeginDeallocate: c.deallocate, BeginStart: c.turnOn,
	}
}

func last(id string) string { return id[strings.LastIndex(id, "/")+1:] }

// uses lists the disks of a machine by name.
func uses(vm *armcompute.VirtualMachine) (all []string) {
	all = append(all, last(*vm.Properties.StorageProfile.OSDisk.ManagedDisk.ID))
	for _, d := range vm.Properties.StorageProfile.DataDisks {
		all = append(all, last(*d.ManagedDisk.ID))
	}
	return all
}

func (c *Cloud) putMachine(_ context.Context, _, name string, vm armcompute.VirtualMachine, _ *armcompute.VirtualMachinesClientBeginCreateOrUpdateOptions) (r azfake.PollerResponder[armcompute.VirtualMachinesClientCreateOrUpdateResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if vm.Properties == nil || vm.Properties.NetworkProfile == nil || vm.Properties.StorageProfile == nil { // a body that broke off
		refuse(&e, http.StatusBadRequest, "InvalidRequestContent")
		return
	}
	if c.machines[name] == nil {
		nic := c.nets["networkinterfaces/"+strings.ToLower(last(*vm.Properties.NetworkProfile.NetworkInterfaces[0].ID))]
		if nic == nil {
			refuse(&e, http.StatusBadRequest, "InvalidResourceReference")
			return
		}
		for _, n := range uses(&vm) {
			if k := c.disks[n]; k == nil || k.State != armcompute.DiskStateUnattached {
				refuse(&e, http.StatusConflict, "AttachDiskWhileBeingDetached")
				return
			}
		}
	}
	broken := c.take("put machine")
	if c.machines[name] == nil && broken == "" {
		for _, n := range uses(&vm) {
			c.disks[n].State = armcompute.DiskStateAttached
		}
		c.machines[name] = &vm
	}
	ends(&r, http.StatusCreated, http.StatusOK, broken, armcompute.VirtualMachinesClientCreateOrUpdateResponse{VirtualMachine: vm})
	return
}

func (c *Cloud) deleteMachine(_ context.Context, _, name string, _ *armcompute.VirtualMachinesClientBeginDeleteOptions) (r azfake.PollerResponder[armcompute.VirtualMachinesClientDeleteResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	broken := c.take("delete machine")
	if vm := c.machines[name]; vm != nil && broken == "" {
		for _, n := range uses(vm) {
			if c.disks[n].State != armcompute.DiskStateActiveSAS { // which it stays until it is revoked
				c.disks[n].State = armcompute.DiskStateUnattached
			}
		}
		delete(c.machines, name)
		delete(c.off, name)
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.VirtualMachinesClientDeleteResponse{})
	return
}

// turn deallocates a machine or starts it. What is done then may use the cloud.
func (c *Cloud) turn(name string, on bool, kind string) (broken string, status int, code string) {
	c.mu.Lock()
	vm := c.machines[name]
	from, to := armcompute.DiskStateAttached, armcompute.DiskStateReserved
	if on {
		from, to = to, from
	}
	switch {
	case vm == nil:
		c.mu.Unlock()
		return "", http.StatusNotFound, "ResourceNotFound"
	case on && slices.ContainsFunc(uses(vm), func(d string) bool { return c.disks[d].State == armcompute.DiskStateActiveSAS }):
		c.mu.Unlock()
		return "", http.StatusConflict, "DiskHasActiveSharedAccessSignature"
	}
	broken = c.take(kind)
	turned := broken == "" && c.off[name] == on
	if turned {
		c.off[name] = !on
		for _, d := range uses(vm) {
			if c.disks[d].State == from {
				c.disks[d].State = to
			}
		}
	}
	do := c.power
	c.mu.Unlock()
	if turned && do != nil {
		do(name, on)
	}
	return broken, 0, ""
}

func (c *Cloud) deallocate(_ context.Context, _, name string, _ *armcompute.VirtualMachinesClientBeginDeallocateOptions) (r azfake.PollerResponder[armcompute.VirtualMachinesClientDeallocateResponse], e azfake.ErrorResponder) {
	broken, status, code := c.turn(name, false, "deallocate")
	if status != 0 {
		refuse(&e, status, code)
		return
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.VirtualMachinesClientDeallocateResponse{})
	return
}

func (c *Cloud) turnOn(_ context.Context, _, name string, _ *armcompute.VirtualMachinesClientBeginStartOptions) (r azfake.PollerResponder[armcompute.VirtualMachinesClientStartResponse], e azfake.ErrorResponder) {
	broken, status, code := c.turn(name, true, "start")
	if status != 0 {
		refuse(&e, status, code)
		return
	}
	ends(&r, http.StatusAccepted, http.StatusOK, broken, armcompute.VirtualMachinesClientStartResponse{})
	return
}

func (c *Cloud) view(_ context.Context, _, name string, _ *armcompute.VirtualMachinesClientInstanceViewOptions) (r azfake.Responder[armcompute.VirtualMachinesClientInstanceViewResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.machines[name] == nil {
		refuse(&e, http.StatusNotFound, "ResourceNotFound")
		return
	}
	state := "PowerState/running"
	if c.asleep {
		state = "PowerState/stopped"
	}
	if c.off[name] {
		state = "PowerState/deallocated"
	}
	var v armcompute.VirtualMachinesClientInstanceViewResponse
	v.Statuses = []*armcompute.InstanceViewStatus{{Code: to.Ptr("ProvisioningState/succeeded")}, {Code: &state}}
	r.SetResponse(http.StatusOK, v, nil)
	return
}

func (c *Cloud) bootData(_ context.Context, _, name string, _ *armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataOptions) (r azfake.Responder[armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataResponse], e azfake.ErrorResponder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.machines[name] == nil {
		refuse(&e, http.StatusNotFound, "ResourceNotFound")
		return
	}
	var d armcompute.VirtualMachinesClientRetrieveBootDiagnosticsDataResponse
	d.SerialConsoleLogBlobURI = to.Ptr("https://" + diagnosticsHost + "/" + name + "/serialconsole.log?sig=" + Secret)
	d.ConsoleScreenshotBlobURI = to.Ptr("https://" + diagnosticsHost + "/" + name + "/screenshot.bmp?sig=" + Secret)
	r.SetResponse(http.StatusOK, d, nil)
	return
}

// Secret signs the addresses of boot diagnostics. It must be seen nowhere.
const Secret = "c2VjcmV0IHRoYXQgbm9ib2R5IG1heSBzZWU"

func (c *Cloud) sizeServer() fake.ResourceSKUsServer {
	size := func(name, cpus, memory, disks, generations, arch string) *armcompute.ResourceSKU {
		k := &armcompute.ResourceSKU{Name: &name, ResourceType: to.Ptr("virtualMachines"), LocationInfo: []*armcompute.ResourceSKULocationInfo{{
			Location: to.Ptr(Region), Zones: []*string{to.Ptr("1"), to.Ptr("2")},
		}}}
		if strings.HasSuffix(name, "s_v5") && strings.HasPrefix(name, "Standard_D") {
			k.Family = to.Ptr("standardDSv5Family")
		}
		for n, v := range map[string]string{"vCPUs": cpus, "MemoryGB": memory, "MaxDataDiskCount": disks, "HyperVGenerations": generations, "CpuArchitectureType": arch, "PremiumIO": "True"} {
			k.Capabilities = append(k.Capabilities, &armcompute.ResourceSKUCapabilities{Name: &n, Value: &v})
		}
		return k
	}
	barred := size("Standard_D2s_v6", "2", "8", "4", "V1,V2", "x64")
	barred.Restrictions = []*armcompute.ResourceSKURestrictions{{Type: to.Ptr(armcompute.ResourceSKURestrictionsTypeLocation)}}
	return fake.ResourceSKUsServer{NewListPager: func(*armcompute.ResourceSKUsClientListOptions) (r azfake.PagerResponder[armcompute.ResourceSKUsClientListResponse]) {
		r.AddPage(http.StatusOK, armcompute.ResourceSKUsClientListResponse{ResourceSKUsResult: armcompute.ResourceSKUsResult{Value: []*armcompute.ResourceSKU{
			barred, size("Standard_D2s_v5", "2", "8", "4", "V1,V2", "x64"), size("Standard_D4s_v5", "4", "16", "8", "V1,V2", "x64"),
			{Name: to.Ptr("Aligned"), ResourceType: to.Ptr("availabilitySets")},
		}}}, nil)
		r.AddPage(http.StatusOK, armcompute.ResourceSKUsClientListResponse{ResourceSKUsResult: armcompute.ResourceSKUsResult{Value: []*armcompute.ResourceSKU{
			size("Standard_D2ps_v5", "2", "8", "4", "V2", "Arm64"), size("Standard_NC4", "4", "28", "8", "V1,V2", "x64"), size("Standard_E64s_v5", "64", "512", "32", "V2", "x64"),
		}}}, nil)
		return
	}}
}

func (c *Cloud) usageServer() fake.UsageServer {
	return fake.UsageServer{NewListPager: func(string, *armcompute.UsageClientListOptions) (r azfake.PagerResponder[armcompute.UsageClientListResponse]) {
		c.mu.Lock()
		defer c.mu.Unlock()
		use := func(name string, left int64) *armcompute.Usage {
			return &armcompute.Usage{Name: &armcompute.UsageName{Value: &name}, CurrentValue: to.Ptr[int32](7), Limit: to.Ptr(left + 7), Unit: to.Ptr("Count")}
		}
		r.AddPage(http.StatusOK, armcompute.UsageClientListResponse{ListUsagesResult: armcompute.ListUsagesResult{Value: []*armcompute.Usage{
			use("cores", c.quota), use("virtualMachines", 100), use("standardDSv5Family", c.quota), use("standardNCFamily", 0),
		}}}, nil)
		return
	}}
}
