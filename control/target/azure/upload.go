package azure

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/disk"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

func ptr[T any](v T) *T { return &v }

// state asks for the state of a disk, "" if there is none of that name.
func (c *cloud) state(ctx context.Context, name string) (armcompute.DiskState, error) {
	d, err := c.disks.Get(ctx, c.place.ResourceGroup, name, nil)
	if missing(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("azure: look at disk %s: %w", name, brief(err))
	}
	if d.Properties == nil || d.Properties.DiskState == nil {
		return "", fmt.Errorf("azure: disk %s has no state", name)
	}
	return *d.Properties.DiskState, nil
}

// upload makes a disk, fills it and closes it.
func (r *Run) upload(ctx context.Context, i int) error {
	name := r.b.disk(i)
	state, err := r.c.state(ctx, name)
	if err != nil {
		return err
	}
	if state == "" {
		if r.b.now().Disks[i].Filled {
			return fmt.Errorf("%w: it is gone", errStale)
		}
		if err := r.makeDisk(ctx, i, &armcompute.CreationData{
			CreateOption: ptr(armcompute.DiskCreateOptionUpload), UploadSizeBytes: ptr(vhdSize(r.b.Disks[i].Size) + pageSize),
		}); err != nil {
			return err
		}
		if state, err = r.c.state(ctx, name); err != nil {
			return err
		}
	}
	if !r.b.now().Disks[i].Filled {
		if err := r.fillDisk(ctx, i, state); err != nil {
			return err
		}
		state = armcompute.DiskStateActiveUpload
	}
	if state == armcompute.DiskStateActiveUpload || state == armcompute.DiskStateReadyToUpload {
		if err := (remover{r.c, r.b}).revoke(ctx, name); err != nil {
			return err
		}
		if state, err = r.c.state(ctx, name); err != nil {
			return err
		}
	}
	if err := r.b.dropSignature(i); err != nil {
		return err
	}
	if state != armcompute.DiskStateUnattached {
		return fmt.Errorf("azure: disk %s is %s after it was filled, not %s", name, state, armcompute.DiskStateUnattached)
	}
	return r.b.change(func(k *record) { k.Disks[i].Done = true })
}

// makeDisk makes a managed disk.
func (r *Run) makeDisk(ctx context.Context, i int, from *armcompute.CreationData) error {
	p, name := r.b.Place, r.b.disk(i)
	d := armcompute.Disk{
		Location: &p.Region, Tags: r.b.tagged(), SKU: &armcompute.DiskSKU{Name: ptr(armcompute.DiskStorageAccountTypes(or(p.DiskSKU, defaultSKU)))},
		Properties: &armcompute.DiskProperties{CreationData: from, NetworkAccessPolicy: ptr(armcompute.NetworkAccessPolicyAllowAll)},
	}
	if p.Zone != "" {
		d.Zones = []*string{&p.Zone}
	}
	if i == 0 {
		d.Properties.OSType = ptr(armcompute.OperatingSystemTypesLinux)
		d.Properties.HyperVGeneration = ptr(armcompute.HyperVGeneration(generation(r.b.Firmware)))
	}
	_, err := await(ctx, r.c, r.b, "make disk "+name, func(ctx context.Context, token string) (*runtime.Poller[armcompute.DisksClientCreateOrUpdateResponse], error) {
		return r.c.disks.BeginCreateOrUpdate(ctx, p.ResourceGroup, name, d, &armcompute.DisksClientBeginCreateOrUpdateOptions{ResumeToken: token})
	})
	return err
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fillDisk writes all of a disk by the signature for it.
func (r *Run) fillDisk(ctx context.Context, i int, state armcompute.DiskState) error {
	url := r.b.readSignature(i)
	switch {
	case state == armcompute.DiskStateReadyToUpload:
		var err error
		if url, err = r.grant(ctx, i); err != nil {
			return err
		}
	case state != armcompute.DiskStateActiveUpload:
		return fmt.Errorf("%w: it is %s before it was filled", errStale, state)
	case url == "":
		return fmt.Errorf("%w: its signature is lost", errStale)
	}
	p, err := openPages(r.cfg, url, vhdSize(r.b.Disks[i].Size)+pageSize)
	if err != nil {
		return err
	}
	err = r.fillPages(ctx, i, p)
	if refused(err) {
		return fmt.Errorf("%w: its signature is not good any more: %w", errStale, err)
	}
	return err
}

// grant opens a disk for writing.
func (r *Run) grant(ctx context.Context, i int) (string, error) {
	name := r.b.disk(i)
	got, err := await(ctx, r.c, r.b, "open disk "+name, func(ctx context.Context, token string) (*runtime.Poller[armcompute.DisksClientGrantAccessResponse], error) {
		return r.c.disks.BeginGrantAccess(ctx, r.b.Place.ResourceGroup, name,
			armcompute.GrantAccessData{Access: ptr(armcompute.AccessLevelWrite), DurationInSeconds: ptr(int32(uploadHours * 3600))},
			&armcompute.DisksClientBeginGrantAccessOptions{ResumeToken: token})
	})
	if status(err) == http.StatusConflict || status(err) == http.StatusBadRequest {
		return "", fmt.Errorf("%w: %w", errStale, err) // it was opened, and we did not hear how
	}
	if err != nil {
		return "", err
	}
	if got.AccessSAS == nil || !strings.HasPrefix(*got.AccessSAS, "http") {
		return "", fmt.Errorf("%w: Azure opened it and gave no address", errStale)
	}
	return *got.AccessSAS, replace(r.b.signature(i), []byte(*got.AccessSAS+"\n"))
}

// fillPages writes all of a disk into a page blob that is new, or goes on with that, and
// verifies it.
func (r *Run) fillPages(ctx context.Context, i int, p *pages) error {
	if r.disks == nil {
		return errors.New("azure: a disk is not filled, and who took the run over has no recovery point for it")
	}
	d, begin := r.disks[i], time.Now()
	if err := p.look(ctx); err != nil {
		return fmt.Errorf("azure: what disk %s holds: %w", d.Name(), brief(err))
	}
	if n := total(p.held); n > 0 {
		r.note("disk %s: an earlier process had sent %d bytes", d.Name(), n)
	}
	k := p.pack(ctx)
	err := k.end(d.(target.Restorer).Restore(k.ctx, k, r.cfg.Progress))
	if err != nil {
		return err
	}
	data := total(p.sent.list())
	size := vhdSize(d.Size())
	if err := p.put(ctx, size, disk.VHDFooter(size, d.Digest())); err != nil {
		return err
	}
	p.sent.add(size, size+pageSize)
	verified, err := p.verify(ctx)
	if err != nil {
		return err
	}
	pagesToo := "and Azure lists the same pages"
	if !verified {
		pagesToo = "whose pages Azure would not list"
	}
	digest := d.Digest()
	if c, ok := d.(*overlay.ChangedDisk); ok {
		pagesToo = fmt.Sprintf("%d bytes of it then changed for Hyper-V, %s", c.Bytes(), pagesToo)
	}
	r.note("disk %s: %d bytes of %d sent in %v, digest %s as the point promises, %s", d.Name(), data, size, time.Since(begin).Round(time.Millisecond),
		hex.EncodeToString(digest[:8]), pagesToo)
	return r.b.change(func(k *record) { k.Disks[i].Filled, k.Disks[i].Sent = true, data })
}
