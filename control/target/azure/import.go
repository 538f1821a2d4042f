package azure

import (
	"context"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
)

// vhd returns the page blob of a storage account that has a name.
func (c *cloud) vhd(name string) (*pageblob.Client, error) {
	if c.cfg.pageBlob != nil {
		return c.cfg.pageBlob(name)
	}
	p, err := pageblob.NewClient(c.place.blobURL(name), c.cred, c.cfg.blobOptions())
	if err != nil {
		return nil, fmt.Errorf("azure: blob %s: %w", name, err)
	}
	return p, nil
}

// container makes sure that the container for disks on their way is there, by asking for a
// blob that is not.
func (c *cloud) container(ctx context.Context) error {
	client, err := c.vhd("leeward-is-there")
	if err != nil {
		return err
	}
	_, err = client.GetProperties(ctx, nil)
	if err == nil || bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil
	}
	if missing(err) { // an answer to HEAD has no body, only a code in its header
		return fmt.Errorf("azure: container %s is not there: make it, or name one (container)", or(c.place.Container, defaultContainer))
	}
	return fmt.Errorf("azure: container %s: %w", or(c.place.Container, defaultContainer), brief(err))
}

// importDisk fills a page blob and has Azure make a disk of it.
func (r *Run) importDisk(ctx context.Context, i int) error {
	name := r.b.blob(i)
	client, err := r.c.vhd(name)
	if err != nil {
		return err
	}
	if !r.b.now().Disks[i].Filled {
		p := &pages{c: client, size: vhdSize(r.b.Disks[i].Size) + pageSize}
		_, err := client.Create(ctx, p.size, &pageblob.CreateOptions{
			AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}},
			Metadata:         map[string]*string{"leewardrun": &r.b.Run},
		})
		if err != nil && !bloberror.HasCode(err, bloberror.BlobAlreadyExists) {
			return fmt.Errorf("azure: make blob %s: %w", name, brief(err))
		}
		if err := r.fillPages(ctx, i, p); err != nil {
			return err
		}
	}
	if err := r.imported(ctx, i, plain(client.URL())); err != nil {
		return err
	}
	if err := r.dropBlob(ctx, i); err != nil { // the disk is a copy of it
		return err
	}
	return r.b.change(func(k *record) { k.Disks[i].Done = true })
}

// imported makes a disk of a page blob.
func (r *Run) imported(ctx context.Context, i int, url string) error {
	state, err := r.c.state(ctx, r.b.disk(i))
	if err != nil || state == armcompute.DiskStateUnattached {
		return err
	}
	return r.makeDisk(ctx, i, r.makeFrom(url))
}

// dropBlob removes the page blob of a disk, if there is one.
func (r *Run) dropBlob(ctx context.Context, i int) error {
	client, err := r.c.vhd(r.b.blob(i))
	if err != nil {
		return err
	}
	_, err = client.Delete(ctx, nil)
	if err == nil || missing(err) {
		return nil
	}
	return fmt.Errorf("azure: remove blob %s: %w", r.b.blob(i), brief(err))
}
