package azure

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"golang.org/x/sync/errgroup"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

const (
	defaultBlock    = 8 << 20
	defaultPatience = 30 * time.Second
	slowest         = 128 << 10 // bytes a second at which we still believe that a transfer goes on
	parallel        = 4         // blocks of one put
	maxBlocks       = 50_000    // of a blob, says the service; Azurite does not mind
	maxObject       = 1 << 30   // bytes we take into memory
)

// Store is a container, or a folder of one.
type Store struct {
	c       Config
	place   string // for people
	client  *container.Client
	folder  string   // with a slash at the end, or empty
	secrets []string // that no error may show
}

var _ store.Store = (*Store)(nil)

// Open prepares to use a container, and makes it if Create is set. Without, it asks
// for nothing: an account that cannot be reached now may be later.
func Open(c Config) (*Store, error) { return open(c, nil) }

func open(c Config, transport policy.Transporter) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.BlockSize == 0 {
		c.BlockSize = defaultBlock
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	s := &Store{c: c, place: fmt.Sprintf("container %s of account %s", c.Container, c.Account)}
	if c.Folder != "" {
		s.folder = c.Folder + "/"
	}
	if err := s.connect(transport); err != nil {
		return nil, err
	}
	if c.Create {
		if err := s.create(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Store) connect(transport policy.Transporter) error {
	secret, err := s.c.secret()
	if err != nil {
		return err
	}
	key, sas, endpoint, err := secret.parts(s.c.Account)
	if err != nil {
		return err
	}
	s.secrets = []string{key, sas}
	if s.c.Endpoint != "" || endpoint == "" {
		endpoint = s.c.endpoint()
	}
	at := strings.TrimSuffix(endpoint, "/") + "/" + s.c.Container
	core := azcore.ClientOptions{Transport: transport, Retry: policy.RetryOptions{MaxRetries: -1}} // store.Retry does that, and looks whose it is
	core.Telemetry.ApplicationID = "leeward"
	o := &container.ClientOptions{ClientOptions: core}
	switch {
	case sas != "":
		s.client, err = container.NewClientWithNoCredential(at+"?"+sas, o)
	case key != "":
		var cred *container.SharedKeyCredential
		if cred, err = container.NewSharedKeyCredential(s.c.Account, key); err != nil {
			return errors.New("azure credentials: the account key is not base64: copy it again, whole") // err may hold it
		}
		s.client, err = container.NewClientWithSharedKeyCredential(at, cred, o)
	default:
		var cred azcore.TokenCredential
		if cred, err = azidentity.NewDefaultAzureCredential(nil); err != nil {
			return fmt.Errorf("azure credentials: %s", s.scrub(err))
		}
		s.client, err = container.NewClient(at, cred, o)
	}
	if err != nil {
		return fmt.Errorf("azure store %s: %s", s.place, s.scrub(err))
	}
	return nil
}

func (s *Store) create() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*s.c.Patience)
	defer cancel()
	_, err := s.client.Create(ctx, nil)
	if err == nil {
		return nil
	}
	var r *azcore.ResponseError
	if errors.As(err, &r) && r.StatusCode == http.StatusConflict && r.ErrorCode != "ContainerBeingDeleted" {
		return nil
	}
	// Who may write into a container need not have the right to make one.
	if errors.As(err, &r) && r.StatusCode == http.StatusForbidden {
		if _, e := s.client.GetProperties(ctx, nil); e == nil {
			return nil
		}
	}
	return s.failed(context.Background(), "create", "", err)
}

// URL returns the store's URL, without a secret.
func (s *Store) URL() string { return s.c.URL() }

// String is the URL.
func (s *Store) String() string { return s.URL() }

// attempt bounds one try that moves n bytes.
func (s *Store) attempt(ctx context.Context, n int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.patience(n))
}

func (s *Store) patience(n int64) time.Duration {
	return s.c.Patience + time.Duration(n/slowest)*time.Second
}

func (s *Store) check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := store.CheckKey(key); err != nil {
		return fmt.Errorf("%s: %w", s.place, err)
	}
	return nil
}

func body(b []byte) io.ReadSeekCloser { return streaming.NopCloser(bytes.NewReader(b)) }

func onlyIfNew() *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}
}

func (s *Store) tier() *blob.AccessTier {
	if s.c.Tier == "" {
		return nil
	}
	return to.Ptr(blob.AccessTier(strings.ToUpper(s.c.Tier[:1]) + s.c.Tier[1:]))
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, data []byte) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	if len(data) > maxObject {
		return fmt.Errorf("put %s in %s: %d bytes, at most %d", key, s.place, len(data), maxObject)
	}
	if len(data) > s.c.BlockSize {
		return s.putBlocks(ctx, key, data)
	}
	try, cancel := s.attempt(ctx, int64(len(data)))
	defer cancel()
	_, err := s.client.NewBlockBlobClient(s.folder+key).Upload(try, body(data), &blockblob.UploadOptions{
		AccessConditions: onlyIfNew(), Tier: s.tier(), TransactionalValidation: blob.TransferValidationTypeComputeCRC64(),
	})
	if err != nil {
		return s.failed(ctx, "put", key, err)
	}
	return nil
}

// putBlocks stages blocks under names of its own, so that writers of one key do not
// mix, and commits them if the key is still free.
func (s *Store) putBlocks(ctx context.Context, key string, data []byte) error {
	// Staging takes long, and to commit in vain throws away what another has staged.
	if _, err := s.Stat(ctx, key); err == nil {
		return fmt.Errorf("put %s in %s: %w", key, s.place, store.ErrExists)
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	size := max(s.c.BlockSize, (len(data)+maxBlocks-1)/maxBlocks)
	client, put := s.client.NewBlockBlobClient(s.folder+key), rand.Text()
	var ids []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for off := 0; off < len(data); off += size {
		id := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%08d", put, len(ids)))
		ids = append(ids, id)
		part := data[off:min(off+size, len(data))]
		g.Go(func() error {
			try, cancel := s.attempt(gctx, parallel*int64(len(part)))
			defer cancel()
			_, err := client.StageBlock(try, id, body(part), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return s.failed(ctx, "put", key, err)
	}
	try, cancel := s.attempt(ctx, 0)
	defer cancel()
	_, err := client.CommitBlockList(try, ids, &blockblob.CommitBlockListOptions{AccessConditions: onlyIfNew(), Tier: s.tier()})
	if err != nil {
		return s.failed(ctx, "put", key, err)
	}
	return nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := s.check(ctx, key); err != nil {
		return nil, err
	}
	if off < 0 || n == 0 {
		// The service has no ranges counted from the end, and none without bytes.
		i, err := s.Stat(ctx, key)
		if err != nil {
			return nil, err
		}
		if off, n, err = store.Range(i.Size, off, n); err != nil {
			return nil, fmt.Errorf("get %s in %s: %w", key, s.place, err)
		}
		if n == 0 {
			return []byte{}, nil
		}
	}
	b, err := s.get(ctx, key, off, n)
	if errors.Is(err, store.ErrRange) && n < 0 {
		// At the very end there is an empty rest, behind it there is none.
		i, serr := s.Stat(ctx, key)
		if serr != nil {
			return nil, serr
		}
		if i.Size == off {
			return []byte{}, nil
		}
	}
	return b, err
}

// get reads n > 0 bytes, or with n < 0 all from off.
func (s *Store) get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	// With n < 0 the answer says how much it is: its deadline moves then. A context that
	// ends before its parent does so because of this timer; see failed.
	try, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(s.patience(max(n, 0)), cancel)
	defer timer.Stop()
	o := &blob.DownloadStreamOptions{}
	if off > 0 || n > 0 {
		o.Range = blob.HTTPRange{Offset: off, Count: max(n, 0)}
	}
	r, err := s.client.NewBlobClient(s.folder+key).DownloadStream(try, o)
	if err != nil {
		return nil, s.failed(ctx, "get", key, err)
	}
	defer r.Body.Close()
	if r.ContentLength == nil || *r.ContentLength < 0 || *r.ContentLength > maxObject {
		return nil, fmt.Errorf("get %s in %s: the answer has no length, or one that no object of a vault has", key, s.place)
	}
	length := *r.ContentLength
	if n >= 0 && length < n {
		return nil, fmt.Errorf("get %s in %s: %w: bytes %d+%d, there are %d of them", key, s.place, store.ErrRange, off, n, length)
	}
	if n >= 0 && length > n {
		return nil, fmt.Errorf("get %s in %s: asked for %d bytes, the answer has %d", key, s.place, n, length)
	}
	timer.Reset(s.patience(length))
	b := make([]byte, length)
	if _, err := io.ReadFull(r.Body, b); err != nil {
		return nil, s.failed(ctx, "get", key, broken(err))
	}
	return b, nil
}

func broken(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %w", errShort, err)
	}
	return err
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	if err := s.check(ctx, key); err != nil {
		return store.Info{}, err
	}
	try, cancel := s.attempt(ctx, 0)
	defer cancel()
	p, err := s.client.NewBlobClient(s.folder+key).GetProperties(try, nil)
	if err != nil {
		return store.Info{}, s.failed(ctx, "stat", key, err)
	}
	return info(key, p.ContentLength, p.LastModified), nil
}

func info(key string, size *int64, modified *time.Time) store.Info {
	i := store.Info{Key: key}
	if size != nil {
		i.Size = *size
	}
	if modified != nil {
		i.Modified = *modified
	}
	return i
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, yield func(store.Info) error) error {
	if err := store.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("list %s: %w", s.place, err)
	}
	o := &container.ListBlobsFlatOptions{Prefix: to.Ptr(s.folder + prefix)}
	if s.c.Page > 0 {
		o.MaxResults = to.Ptr(s.c.Page)
	}
	last := ""
	for pager := s.client.NewListBlobsFlatPager(o); pager.More(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		page, err := s.page(ctx, pager.NextPage)
		if err != nil {
			return s.failed(ctx, "list", prefix, err)
		}
		for _, b := range page.Segment.BlobItems {
			if b.Name == nil || b.Properties == nil || !strings.HasPrefix(*b.Name, s.folder) {
				continue
			}
			key := (*b.Name)[len(s.folder):]
			if store.CheckKey(key) != nil {
				continue // not ours
			}
			if key <= last {
				return fmt.Errorf("list %s: %q comes after %q: has the account a hierarchical namespace? use one without", s.place, key, last)
			}
			last = key
			if err := yield(info(key, b.Properties.ContentLength, b.Properties.LastModified)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) page(ctx context.Context, next func(context.Context) (container.ListBlobsFlatResponse, error)) (container.ListBlobsFlatResponse, error) {
	try, cancel := s.attempt(ctx, 0)
	defer cancel()
	p, err := next(try)
	if err == nil && p.Segment == nil {
		p.Segment = &container.BlobFlatListSegment{}
	}
	return p, err
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.check(ctx, key); err != nil {
		return err
	}
	try, cancel := s.attempt(ctx, 0)
	defer cancel()
	_, err := s.client.NewBlobClient(s.folder+key).Delete(try, nil)
	if err == nil {
		return nil
	}
	if err = s.failed(ctx, "delete", key, err); errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
