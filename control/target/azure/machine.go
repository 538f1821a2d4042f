package azure

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
)

// machine makes the virtual machine of the disks and the network interface.
func (r *Run) machine(ctx context.Context) error {
	p, now := r.b.Place, r.b.now()
	id := func(i int) *armcompute.ManagedDiskParameters {
		return &armcompute.ManagedDiskParameters{ID: ptr(p.group() + "/providers/Microsoft.Compute/disks/" + now.disk(i))}
	}
	storage := &armcompute.StorageProfile{OSDisk: &armcompute.OSDisk{
		CreateOption: ptr(armcompute.DiskCreateOptionTypesAttach), OSType: ptr(armcompute.OperatingSystemTypesLinux), ManagedDisk: id(0),
		DeleteOption: ptr(armcompute.DiskDeleteOptionTypesDetach), Caching: ptr(armcompute.CachingTypesReadWrite),
	}}
	for i := 1; i < len(now.Disks); i++ {
		storage.DataDisks = append(storage.DataDisks, &armcompute.DataDisk{
			CreateOption: ptr(armcompute.DiskCreateOptionTypesAttach), Lun: ptr(int32(i - 1)), ManagedDisk: id(i),
			DeleteOption: ptr(armcompute.DiskDeleteOptionTypesDetach), Caching: ptr(armcompute.CachingTypesNone),
		})
	}
	vm := armcompute.VirtualMachine{
		Location: &p.Region, Tags: now.tagged(),
		Properties: &armcompute.VirtualMachineProperties{
			HardwareProfile: &armcompute.HardwareProfile{VMSize: ptr(armcompute.VirtualMachineSizeTypes(now.Size))},
			StorageProfile:  storage,
			NetworkProfile: &armcompute.NetworkProfile{NetworkInterfaces: []*armcompute.NetworkInterfaceReference{{
				ID:         ptr(p.network("networkInterfaces/" + now.nic())),
				Properties: &armcompute.NetworkInterfaceReferenceProperties{Primary: ptr(true), DeleteOption: ptr(armcompute.DeleteOptionsDetach)},
			}}},
			DiagnosticsProfile: &armcompute.DiagnosticsProfile{BootDiagnostics: &armcompute.BootDiagnostics{Enabled: ptr(true)}},
		},
	}
	if p.Zone != "" {
		vm.Zones = []*string{&p.Zone}
	}
	_, err := await(ctx, r.c, r.b, "make virtual machine "+now.base(), func(ctx context.Context, token string) (*runtime.Poller[armcompute.VirtualMachinesClientCreateOrUpdateResponse], error) {
		return r.c.vms.BeginCreateOrUpdate(ctx, p.ResourceGroup, now.base(), vm, &armcompute.VirtualMachinesClientBeginCreateOrUpdateOptions{ResumeToken: token})
	})
	if err == nil {
		r.note("virtual machine %s of size %s, generation %s", now.base(), now.Size, generation(now.Firmware))
	}
	return err
}

// power is how a virtual machine stands, such as running; gone if there is none.
type power string

const gone power = "gone"

// off reports whether it runs no more.
func (p power) off() bool { return p == gone || p == "stopped" || p == "deallocated" }

func (r *Run) power(ctx context.Context) (power, error) {
	v, err := r.c.vms.InstanceView(ctx, r.b.Place.ResourceGroup, r.b.base(), nil)
	if missing(err) {
		return gone, nil
	}
	if err != nil {
		return "", fmt.Errorf("azure: look at virtual machine %s: %w", r.b.base(), brief(err))
	}
	for _, s := range v.Statuses {
		if s != nil && s.Code != nil {
			if p, ok := strings.CutPrefix(*s.Code, "PowerState/"); ok {
				return power(p), nil
			}
		}
	}
	return "unknown", nil
}

const fetchTime = time.Minute

// diagnostics fetches what the machine said and showed since it was started.
func (r *Run) diagnostics(ctx context.Context) (log, screen []byte, where string, err error) {
	d, err := r.c.vms.RetrieveBootDiagnosticsData(ctx, r.b.Place.ResourceGroup, r.b.base(), nil)
	if err != nil {
		return nil, nil, "", fmt.Errorf("azure: boot diagnostics: %w", brief(err))
	}
	if d.SerialConsoleLogBlobURI != nil {
		where = plain(*d.SerialConsoleLogBlobURI)
		if log, err = r.fetch(ctx, *d.SerialConsoleLogBlobURI); err != nil {
			return nil, nil, where, err
		}
	}
	if d.ConsoleScreenshotBlobURI != nil {
		if screen, err = r.fetch(ctx, *d.ConsoleScreenshotBlobURI); err != nil {
			return log, nil, where, err
		}
	}
	return log, screen, where, nil
}

// fetch gets what lies at a signed address; nothing, if it is not there yet.
func (r *Run) fetch(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("azure: an address of boot diagnostics cannot be used: %w", unsigned(err))
	}
	resp, err := r.cfg.do(req)
	if err != nil {
		return nil, fmt.Errorf("azure: fetch boot diagnostics: %w", unsigned(err))
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return readAll(resp.Body)
	case http.StatusNotFound:
		return nil, nil
	}
	return nil, fmt.Errorf("azure: fetch boot diagnostics: the store answers %s", resp.Status)
}
