package armtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/sas"
)

// blobs are page blobs in a container of an Azurite.
type blobs struct {
	c   *container.Client
	key *container.SharedKeyCredential
}

// signedFor is how long signatures are good.
const signedFor = time.Hour

func newBlobs(t testing.TB, endpoint, name, key string) *blobs {
	t.Helper()
	cred, err := container.NewSharedKeyCredential(name, key)
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("%s/cloud-%s", strings.TrimSuffix(endpoint, "/"), strings.ToLower(rand.Text()))
	c, err := container.NewClientWithSharedKeyCredential(at, cred, nil)
	if err == nil {
		_, err = c.Create(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &blobs{c, cred}
}

// options is how the storage account is reached: by way of the switch.
func (c *Cloud) options() azcore.ClientOptions {
	return azcore.ClientOptions{Transport: c, Retry: policy.RetryOptions{RetryDelay: time.Millisecond}}
}

// PageBlob returns a blob of the storage account.
func (c *Cloud) PageBlob(name string) (*pageblob.Client, error) {
	return pageblob.NewClientWithSharedKeyCredential(c.blobs.c.URL()+"/account/"+name, c.blobs.key, &pageblob.ClientOptions{ClientOptions: c.options()})
}

// Container returns that of the storage account's blobs, and what their names begin with.
func (c *Cloud) Container() (*container.Client, string, error) {
	k, err := container.NewClientWithSharedKeyCredential(c.blobs.c.URL(), c.blobs.key, &container.ClientOptions{ClientOptions: c.options()})
	return k, "account/", err
}

func (b *blobs) page(name string) *pageblob.Client { return b.c.NewPageBlobClient(name) }

// make makes an empty page blob. What goes wrong shows when it is used.
func (b *blobs) make(name string, size int64) {
	_, _ = b.page(name).Create(context.Background(), size, nil)
}

func (b *blobs) remove(name string) { _, _ = b.page(name).Delete(context.Background(), nil) }

// copy makes a page blob like that at a URL, and says whether it could be.
func (b *blobs) copy(from, name string) bool {
	u, err := url.Parse(from)
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(u.Path, "/account/")
	if !ok {
		return false
	}
	data, err := b.read("account/" + rest)
	if err != nil || len(data) < leastSize || !bytes.HasPrefix(data[len(data)-footerSize:], []byte("conectix")) {
		return false
	}
	b.make(name, int64(len(data)))
	return b.fill(name, data) == nil
}

// fill writes whole pages from the beginning of a blob; what it held there is no more.
func (b *blobs) fill(name string, data []byte) error {
	if _, err := b.page(name).ClearPages(context.Background(), blob.HTTPRange{Offset: 0, Count: int64(len(data))}, nil); err != nil {
		return err
	}
	const most = 4 << 20
	for off := 0; off < len(data); off += most {
		part := data[off:min(off+most, len(data))]
		if len(bytes.Trim(part, "\x00")) == 0 {
			continue
		}
		if _, err := b.page(name).UploadPages(context.Background(), streaming.NopCloser(bytes.NewReader(part)), blob.HTTPRange{Offset: int64(off), Count: int64(len(part))}, nil); err != nil {
			return err
		}
	}
	return nil
}

// sign returns an address of a blob for what may be done with it.
func (b *blobs) sign(name string, p sas.BlobPermissions) string {
	u, err := b.page(name).GetSASURL(p, time.Now().Add(signedFor), &blob.GetSASURLOptions{StartTime: to.Ptr(time.Now().Add(-signedFor))})
	if err != nil {
		return ""
	}
	return u
}

func (b *blobs) read(name string) ([]byte, error) {
	r, err := b.page(name).DownloadStream(context.Background(), nil)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	return io.ReadAll(r.Body)
}

func (b *blobs) download(t testing.TB, name string) []byte {
	t.Helper()
	data, err := b.read(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (b *blobs) left(t testing.TB) (all []string) {
	t.Helper()
	for pager := b.c.NewListBlobsFlatPager(nil); pager.More(); {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range page.Segment.BlobItems {
			all = append(all, "blob "+*x.Name)
		}
	}
	return all
}

// InAccount returns the content of a blob of the storage account.
func (c *Cloud) InAccount(t testing.TB, name string) []byte {
	t.Helper()
	return c.blobs.download(t, "account/"+name)
}
