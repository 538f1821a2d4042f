package azure

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/leeward-dr/leeward/control/target"
)

const (
	pageSize   = 512
	maxPut     = 4 << 20         // bytes of one Put Page
	writers    = 16              // requests at once for one disk
	blobTry    = 5 * time.Minute // for maxPut bytes on a slow line
	listedOnce = 5000            // ranges in one answer
)

// pages is a page blob that is filled: that of a managed disk, or one of an account.
type pages struct {
	c    *pageblob.Client
	size int64 // with the footer
	// only says who may write, if others may have believed that they could; nil: we alone.
	only *pageblob.SequenceNumberAccessConditions
	// doubt means that what it held before is looked at, and sent if it is wrong.
	doubt bool
	// held is what it held before we began, and heldKnown whether that could be asked.
	held      []span
	heldKnown bool
	sent      spans

	bytes, read atomic.Int64 // that were sent, and read
}

func (cfg *Config) blobOptions() *pageblob.ClientOptions {
	o := &pageblob.ClientOptions{ClientOptions: azcore.ClientOptions{
		Transport: cfg.transport, Retry: policy.RetryOptions{TryTimeout: blobTry, RetryDelay: cfg.retry},
	}}
	o.Telemetry.ApplicationID = "leeward"
	return o
}

// openPages opens a page blob by its URL, which is signed.
func openPages(cfg *Config, url string, size int64) (*pages, error) {
	c, err := pageblob.NewClientWithNoCredential(url, cfg.blobOptions())
	if err != nil {
		return nil, fmt.Errorf("azure: the address of a disk cannot be used: %w", unsigned(err))
	}
	return &pages{c: c, size: size}, nil
}

// look asks what the blob holds. Who may only write may not be allowed to ask.
func (p *pages) look(ctx context.Context) error {
	all, err := p.list(ctx)
	if refused(err) {
		return nil
	}
	p.held, p.heldKnown = all, err == nil
	return err
}

func (p *pages) list(ctx context.Context) ([]span, error) {
	var s spans
	n := int32(listedOnce)
	for pager := p.c.NewGetPageRangesPager(&pageblob.GetPageRangesOptions{MaxResults: &n}); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.PageRange {
			if r == nil || r.Start == nil || r.End == nil {
				return nil, fmt.Errorf("azure: a list of pages cannot be understood")
			}
			s.add(*r.Start, *r.End+1)
		}
	}
	return s.list(), nil
}

// put sends bytes that are whole pages, at most maxPut of them.
func (p *pages) put(ctx context.Context, off int64, b []byte) error {
	_, err := p.c.UploadPages(ctx, streaming.NopCloser(bytes.NewReader(b)), blob.HTTPRange{Offset: off, Count: int64(len(b))},
		&pageblob.UploadPagesOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64(), SequenceNumberAccessConditions: p.only})
	if err != nil {
		return fmt.Errorf("azure: send %d bytes at %d: %w", len(b), off, brief(err))
	}
	p.bytes.Add(int64(len(b)))
	return nil
}

// clear makes pages zero.
func (p *pages) clear(ctx context.Context, x span) error {
	_, err := p.c.ClearPages(ctx, blob.HTTPRange{Offset: x.off, Count: x.end - x.off}, &pageblob.ClearPagesOptions{SequenceNumberAccessConditions: p.only})
	if err != nil {
		return fmt.Errorf("azure: clear %d bytes at %d: %w", x.end-x.off, x.off, brief(err))
	}
	return nil
}

// readAt reads a part that is small.
func (p *pages) readAt(ctx context.Context, b []byte, off int64) error {
	_, err := p.c.DownloadBuffer(ctx, b, &blob.DownloadBufferOptions{Range: blob.HTTPRange{Offset: off, Count: int64(len(b))}, Concurrency: 1})
	if err != nil {
		return fmt.Errorf("azure: read %d bytes at %d: %w", len(b), off, brief(err))
	}
	p.read.Add(int64(len(b)))
	return nil
}

// verify makes sure that the blob holds the pages that were sent and no others. ok is
// false where that cannot be asked.
func (p *pages) verify(ctx context.Context) (ok bool, err error) {
	there, err := p.list(ctx)
	if refused(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("azure: what was sent cannot be verified: %w", brief(err))
	}
	if x, bad := differ(p.sent.list(), there); bad {
		return false, fmt.Errorf("azure: what the disk holds is not what was sent: bytes %d to %d are on one side only", x.off, x.end)
	}
	return true, nil
}

// packer gathers writes of a restore, which come in any order and from several
// goroutines, into requests that are as large as they may be. It sends each block exactly
// as it was written and nothing in between: so a page that the service holds is right, and
// need not be sent again by whoever goes on.
type packer struct {
	p    *pages
	ctx  context.Context
	fail context.CancelCauseFunc
	jobs chan *chunk
	wg   sync.WaitGroup

	mu   sync.Mutex
	open map[int64]*chunk // by number
	old  []int64          // numbers of open chunks, the oldest first
}

// chunk is maxPut bytes of the disk, and which of them were written.
type chunk struct {
	n    int64
	data []byte
	have spans
	full int64 // bytes written
}

// openChunks is how many chunks are gathered at once: with those on their way they are
// all the memory that an upload takes.
const openChunks = 16

func (p *pages) pack(ctx context.Context) *packer {
	k := &packer{p: p, jobs: make(chan *chunk), open: map[int64]*chunk{}}
	k.ctx, k.fail = context.WithCancelCause(ctx)
	for range writers {
		k.wg.Go(func() {
			for c := range k.jobs {
				if err := k.send(c); err != nil {
					k.fail(err)
				}
			}
		})
	}
	return k
}

// send sends the runs of a chunk.
func (k *packer) send(c *chunk) error {
	base := c.n * maxPut
	if k.p.doubt {
		if err := k.compare(c); err != nil {
			return err
		}
	}
	for _, x := range c.have.list() {
		for _, y := range (span{base + x.off, base + x.end}).without(k.p.held) {
			if err := k.ctx.Err(); err != nil {
				return context.Cause(k.ctx)
			}
			if err := k.p.put(k.ctx, y.off, c.data[y.off-base:y.end-base]); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare sends what the blob held before and holds otherwise.
func (k *packer) compare(c *chunk) error {
	base := c.n * maxPut
	for _, x := range c.have.list() {
		at := span{base + x.off, base + x.end}
		rest := at.without(k.p.held)
		for _, y := range at.without(rest) { // what it held
			b := make([]byte, y.end-y.off)
			if err := k.p.readAt(k.ctx, b, y.off); err != nil {
				return err
			}
			want := c.data[y.off-base : y.end-base]
			for _, z := range unequal(b, want) {
				if err := k.p.put(k.ctx, y.off+z.off, want[z.off:z.end]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// unequal lists the runs of blocks in which a and b differ.
func unequal(a, b []byte) (all []span) {
	for i := 0; i < len(a); i += target.BlockSize {
		end := min(i+target.BlockSize, len(a))
		if bytes.Equal(a[i:end], b[i:end]) {
			continue
		}
		if n := len(all); n > 0 && all[n-1].end == int64(i) {
			all[n-1].end = int64(end)
		} else {
			all = append(all, span{int64(i), int64(end)})
		}
	}
	return all
}

// WriteAt implements io.WriterAt.
func (k *packer) WriteAt(b []byte, off int64) (int, error) {
	if off%pageSize != 0 || len(b)%pageSize != 0 || off < 0 || off+int64(len(b)) > k.p.size-pageSize {
		return 0, fmt.Errorf("azure: %d bytes at %d are no pages of the disk", len(b), off)
	}
	k.p.sent.add(off, off+int64(len(b)))
	for done := 0; done < len(b); {
		at := off + int64(done)
		n := min(len(b)-done, int(maxPut-at%maxPut))
		for _, c := range k.take(at, b[done:done+n]) {
			select {
			case k.jobs <- c:
			case <-k.ctx.Done():
				return done, context.Cause(k.ctx)
			}
		}
		done += n
	}
	return len(b), k.stopped()
}

func (k *packer) stopped() error {
	if k.ctx.Err() != nil {
		return context.Cause(k.ctx)
	}
	return nil
}

// take puts bytes of one chunk where they belong, and returns what is to be sent.
func (k *packer) take(at int64, b []byte) (ready []*chunk) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := at / maxPut
	c := k.open[n]
	if c == nil {
		c = &chunk{n: n, data: make([]byte, maxPut)}
		k.open[n] = c
		k.old = append(k.old, n)
	}
	copy(c.data[at%maxPut:], b)
	c.have.add(at%maxPut, at%maxPut+int64(len(b)))
	if c.full += int64(len(b)); c.full == maxPut {
		ready = append(ready, k.shut(n))
	}
	for len(k.open) > openChunks {
		ready = append(ready, k.shut(k.old[0]))
	}
	return ready
}

func (k *packer) shut(n int64) *chunk {
	c := k.open[n]
	delete(k.open, n)
	for i, x := range k.old {
		if x == n {
			k.old = append(k.old[:i], k.old[i+1:]...)
			break
		}
	}
	return c
}

// end sends what is left, unless the restore failed with err, and waits.
func (k *packer) end(err error) error {
	k.mu.Lock()
	var left []*chunk
	for _, n := range k.old {
		left = append(left, k.open[n])
	}
	k.mu.Unlock()
	if err != nil {
		k.fail(err)
	}
	for _, c := range left {
		select {
		case k.jobs <- c:
		case <-k.ctx.Done():
		}
	}
	close(k.jobs)
	k.wg.Wait()
	cause := k.stopped()
	k.fail(nil)
	return cause
}

var _ io.WriterAt = (*packer)(nil)
