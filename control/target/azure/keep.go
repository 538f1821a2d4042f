package azure

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/pageblob"

	"github.com/leeward-dr/leeward/control/target/disk"
)

// Errors of what is kept, for errors.Is.
var (
	ErrTaken  = errors.New("another process has taken over what is kept of the disk in Azure")
	ErrHeld   = errors.New("a machine is being made of what is kept of the disk in Azure")
	ErrNoKept = errors.New("nothing is kept of the disk in Azure")
)

// Key names what is kept of a disk.
type Key struct {
	Owner   string // of all that is kept: the vault
	Machine string
	Disk    string
}

// keptPrefix begins the names of what is kept.
const keptPrefix = "standby/"

func (k Key) name() string { return keptPrefix + k.Machine + "/" + k.Disk + ".vhd" }

// footer is what a VHD of the disk ends with. It stays the same while the content changes.
func (k Key) footer(size int64) []byte {
	return disk.VHDFooter(size, sha256.Sum256([]byte(k.Owner+"/"+k.name())))
}

// known is what is known of the bytes of a page blob that is kept. It lies in the blob's
// metadata, and is written before what it tells of.
type known struct {
	Key
	Size int64 // of the disk in bytes
	// At is the version that it holds; "" if that is not known.
	At string
	// Going are versions that a part of it may hold.
	Going []string
	// Doubt are runs of bytes that may hold anything.
	Doubt []span
	// Label is for people: the recovery point that At is of, and when that was cut.
	Label string
	Time  time.Time
	// Verified is when all of it was last read, or sent, and compared.
	Verified time.Time
	// Held is the run that a machine is made of it in, "" if none; and since when.
	Held  string
	Since time.Time
}

// Limits of what is told, in entries. All of it has to fit into 8 KiB.
const (
	mostGoing = 16
	mostDoubt = 150
)

func (c *known) metadata() map[string]*string {
	m := map[string]*string{}
	set := func(key, value string) {
		if value != "" {
			m["leeward"+key] = &value
		}
	}
	set("owner", c.Owner)
	set("machine", c.Machine)
	set("disk", c.Disk)
	set("size", strconv.FormatInt(c.Size, 10))
	set("at", c.At)
	set("going", strings.Join(c.Going, ","))
	var doubt []string
	for _, x := range fewer(c.Doubt, mostDoubt) {
		doubt = append(doubt, fmt.Sprintf("%x-%x", x.off, x.end))
	}
	set("doubt", strings.Join(doubt, ","))
	set("label", c.Label)
	if !c.Time.IsZero() {
		set("time", c.Time.UTC().Format(time.RFC3339Nano))
	}
	if !c.Verified.IsZero() {
		set("verified", c.Verified.UTC().Format(time.RFC3339))
	}
	set("held", c.Held)
	if c.Held != "" {
		set("since", c.Since.UTC().Format(time.RFC3339))
	}
	return m
}

// parseContent reads what was written by metadata. What cannot be understood is an error:
// nothing is guessed of the bytes.
func parseContent(m map[string]*string) (*known, error) {
	get := map[string]string{}
	for k, v := range m {
		if key, ok := strings.CutPrefix(strings.ToLower(k), "leeward"); ok && v != nil {
			get[key] = *v
		}
	}
	c := &known{Key: Key{get["owner"], get["machine"], get["disk"]}, At: get["at"], Label: get["label"], Held: get["held"]}
	var err error
	if c.Size, err = strconv.ParseInt(get["size"], 10, 64); err != nil || c.Size <= 0 {
		return nil, fmt.Errorf("its size is %q", get["size"])
	}
	if g := get["going"]; g != "" {
		c.Going = strings.Split(g, ",")
	}
	if d := get["doubt"]; d != "" {
		for part := range strings.SplitSeq(d, ",") {
			a, b, ok := strings.Cut(part, "-")
			off, err1 := strconv.ParseInt(a, 16, 64)
			end, err2 := strconv.ParseInt(b, 16, 64)
			if !ok || err1 != nil || err2 != nil || off < 0 || end <= off || off%pageSize != 0 || end > vhdSize(c.Size) {
				return nil, fmt.Errorf("bytes in doubt are %.60q", part)
			}
			c.Doubt = append(c.Doubt, span{off, end})
		}
	}
	for key, to := range map[string]*time.Time{"time": &c.Time, "verified": &c.Verified, "since": &c.Since} {
		if t := get[key]; t != "" {
			if *to, err = time.Parse(time.RFC3339Nano, t); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// fewer covers runs, which ascend, by at most n: those with the smallest gaps become one.
func fewer(all []span, n int) []span {
	all = sorted(all)
	for len(all) > n {
		best := 1
		for i := 2; i < len(all); i++ {
			if all[i].off-all[i-1].end < all[best].off-all[best-1].end {
				best = i
			}
		}
		all[best-1].end = max(all[best-1].end, all[best].end)
		all = slices.Delete(all, best, best+1)
	}
	return all
}

// Kept is a page blob that is kept like a disk of a machine, so that little has to be sent
// when the machine is to come up. Who has opened it is the only one who can write it: each
// request names a number that it gave the blob, and whoever opens it next gives another.
type Kept struct {
	cfg  *Config
	c    *pageblob.Client
	key  Key
	mine int64
	now  known
}

// keptTries is how often something is tried that others may have come in between of.
const keptTries = 10

// keptPause is the wait before another try; it doubles up to a second. What a process that
// died had on its way still arrives for a moment.
const keptPause = 50 * time.Millisecond

// openKept opens what is kept of a disk and takes it over. With size it is made if there is
// none, or if the disk had another size; without, there is ErrNoKept. run is the one that
// it may be held by.
func openKept(ctx context.Context, cfg *Config, c *pageblob.Client, key Key, size int64, run string) (*Kept, error) {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<52)) // exact also where numbers are floats
	if err != nil {
		return nil, err
	}
	k := &Kept{cfg: cfg, c: c, key: key, mine: n.Int64()}
	for try := range keptTries {
		if try > 0 && !pause(ctx, min(keptPause<<(try-1), time.Second)) {
			return nil, context.Cause(ctx)
		}
		there, err := k.look(ctx)
		switch {
		case errors.Is(err, ErrNoKept) && size > 0:
			if err = k.make(ctx, size); err == nil {
				continue // look again
			}
			return nil, err
		case err != nil:
			return nil, err
		case there.at == k.mine:
			k.now = *there.known
			return k, nil
		case there.Held != "" && there.Held != run && time.Since(there.Since) < uploadHours*time.Hour:
			return nil, fmt.Errorf("%w: by run %s since %s", ErrHeld, there.Held, there.Since.Format(time.RFC3339))
		case size > 0 && there.Size != size:
			if err := k.drop(ctx, there.etag); err != nil && !changed(err) {
				return nil, err
			}
			continue
		}
		_, err = c.UpdateSequenceNumber(ctx, &pageblob.UpdateSequenceNumberOptions{
			ActionType: to.Ptr(pageblob.SequenceNumberActionTypeUpdate), SequenceNumber: &k.mine, AccessConditions: unchanged(there.etag),
		})
		if err != nil && !changed(err) {
			return nil, fmt.Errorf("azure: take over what is kept of %s: %w", key.name(), brief(err))
		}
	}
	return nil, fmt.Errorf("%w: it changed %d times while it was opened", ErrTaken, keptTries)
}

// there is a blob as it was found.
type there struct {
	*known
	at   int64 // its number
	etag *azcore.ETag
}

func (k *Kept) look(ctx context.Context) (*there, error) {
	p, err := k.c.GetProperties(ctx, nil)
	if missing(err) {
		return nil, fmt.Errorf("%w: %s is not there", ErrNoKept, k.key.name())
	}
	if err != nil {
		return nil, fmt.Errorf("azure: look at what is kept of %s: %w", k.key.name(), brief(err))
	}
	t := &there{etag: p.ETag}
	if t.known, err = parseContent(p.Metadata); err != nil {
		return nil, fmt.Errorf("azure: what is kept as %s cannot be understood: %w: remove it by hand", k.key.name(), err)
	}
	if t.Key != k.key || p.ContentLength == nil || *p.ContentLength != vhdSize(t.Size)+pageSize {
		return nil, fmt.Errorf("azure: %s is kept by another vault (%s), or has another size than it says: use another container", k.key.name(), t.Owner)
	}
	if p.BlobSequenceNumber != nil {
		t.at = *p.BlobSequenceNumber
	}
	return t, nil
}

func unchanged(etag *azcore.ETag) *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: etag}}
}

// changed reports whether a request was refused because somebody else had come before, or
// it itself when its answer was lost.
func changed(err error) bool { return status(err) == http.StatusPreconditionFailed }

func (k *Kept) make(ctx context.Context, size int64) error {
	c := known{Key: k.key, Size: size}
	_, err := k.c.Create(ctx, vhdSize(size)+pageSize, &pageblob.CreateOptions{
		SequenceNumber: &k.mine, Metadata: c.metadata(),
		AccessConditions: &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}},
	})
	if err != nil && !bloberror.HasCode(err, bloberror.BlobAlreadyExists) && !changed(err) {
		return fmt.Errorf("azure: make %s: %w", k.key.name(), brief(err))
	}
	return nil
}

func (k *Kept) drop(ctx context.Context, etag *azcore.ETag) error {
	_, err := k.c.Delete(ctx, &blob.DeleteOptions{AccessConditions: unchanged(etag)})
	if err == nil || missing(err) {
		return nil
	}
	return fmt.Errorf("azure: remove %s: %w", k.key.name(), brief(err))
}

// tell writes down what is known of the bytes from now on.
func (k *Kept) tell(ctx context.Context, how func(*known)) error {
	next := k.now
	how(&next)
	want := next.metadata()
	for range keptTries {
		t, err := k.look(ctx)
		if err != nil {
			return err
		}
		if t.at != k.mine {
			return ErrTaken
		}
		if equalMeta(t.metadata(), want) {
			k.now = next
			return nil
		}
		_, err = k.c.SetMetadata(ctx, want, &blob.SetMetadataOptions{AccessConditions: unchanged(t.etag)})
		if err == nil {
			k.now = next
			return nil
		}
		if !changed(err) {
			return fmt.Errorf("azure: write down what is kept of %s: %w", k.key.name(), brief(err))
		}
	}
	return fmt.Errorf("%w: it changed %d times", ErrTaken, keptTries)
}

func equalMeta(a, b map[string]*string) bool {
	return maps.EqualFunc(a, b, func(x, y *string) bool { return *x == *y })
}

// taken says that somebody else writes, if that is why a request was refused.
func taken(err error) error {
	if changed(err) {
		return fmt.Errorf("%w: %w", ErrTaken, err)
	}
	return err
}

func (k *Kept) pages() *pages {
	return &pages{c: k.c, size: vhdSize(k.now.Size) + pageSize, only: &pageblob.SequenceNumberAccessConditions{IfSequenceNumberEqualTo: &k.mine}}
}

// hold keeps others from changing it while a machine is made of it.
func (k *Kept) hold(ctx context.Context, run string) error {
	return k.tell(ctx, func(c *known) { c.Held, c.Since = run, time.Now() })
}

// release undoes hold.
func (k *Kept) release(ctx context.Context) error {
	return k.tell(ctx, func(c *known) { c.Held, c.Since = "", time.Time{} })
}

// sorted puts runs into order.
func sorted(all []span) []span {
	var s spans
	for _, x := range slices.SortedFunc(slices.Values(all), func(a, b span) int { return cmp.Compare(a.off, b.off) }) {
		s.add(x.off, x.end)
	}
	return s.list()
}
