package azure

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v8"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/leeward-dr/leeward/control/target"
	"github.com/leeward-dr/leeward/control/target/overlay"
)

// OpenKept opens what is kept of a disk of size bytes, and makes it if there is none. Who had
// opened it before cannot write it any more. It wraps ErrHeld while a machine is made of it.
func OpenKept(ctx context.Context, cfg Config, key Key, size int64) (*Kept, error) {
	c, err := keeping(&cfg)
	if err != nil {
		return nil, err
	}
	p, err := c.vhd(key.name())
	if err != nil {
		return nil, err
	}
	return openKept(ctx, &cfg, p, key, size, "")
}

// keeping returns a client for the account where disks are kept.
func keeping(cfg *Config) (*cloud, error) {
	cfg.fill()
	if err := cfg.Place.Check(); err != nil {
		return nil, err
	}
	if !cfg.Place.Keeps() {
		return nil, errors.New("azure: no storage account is given, which standby disks are kept in: want account, its whole id")
	}
	return newCloud(cfg, cfg.Place)
}

// Keeps says whether there is an account to keep disks in.
func (p Place) Keeps() bool { return account.MatchString(p.Account) }

// Version returns the version of the disk that is kept, "" if that is not known, and whether
// it is all there is: a part may be of another.
func (k *Kept) Version() (version string, sure bool) {
	return k.now.At, k.now.At != "" && len(k.now.Going)+len(k.now.Doubt) == 0
}

// KeptDisk is what is kept of a disk, as it is listed.
type KeptDisk struct {
	Key
	Size  int64     `json:"size"`            // of the disk in bytes
	Point string    `json:"point,omitempty"` // that it is like; "" if it was never brought to one
	Time  time.Time `json:"time,omitzero"`   // when that was cut
	Sure  bool      `json:"sure"`            // nothing was broken off in it
	Held  string    `json:"held,omitempty"`  // the run that a machine is made of it in
}

// ListKept lists what an owner keeps in a place.
func ListKept(ctx context.Context, cfg Config, owner string) (all []KeptDisk, err error) {
	c, err := keeping(&cfg)
	if err != nil {
		return nil, err
	}
	list, prefix, err := c.disksKept()
	if err != nil {
		return nil, err
	}
	prefix += keptPrefix
	o := &container.ListBlobsFlatOptions{Prefix: &prefix, Include: container.ListBlobsInclude{Metadata: true}}
	for pager := list.NewListBlobsFlatPager(o); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("azure: list the disks that are kept: %w", brief(err))
		}
		for _, x := range page.Segment.BlobItems {
			k, err := parseContent(x.Metadata)
			if err != nil || k.Owner != owner {
				continue // not ours
			}
			if len(all) == maxListed {
				return nil, fmt.Errorf("azure: more than %d disks are kept", maxListed)
			}
			all = append(all, KeptDisk{Key: k.Key, Size: k.Size, Point: k.Label, Time: k.Time, Held: k.Held, Sure: k.At != "" && len(k.Going)+len(k.Doubt) == 0})
		}
	}
	return all, nil
}

// disksKept returns the container of what is kept, and what the names there begin with.
func (c *cloud) disksKept() (*container.Client, string, error) {
	if c.cfg.container != nil {
		return c.cfg.container()
	}
	client, err := container.NewClient(strings.TrimSuffix(c.place.blobURL(""), "/"), c.cred, &container.ClientOptions{ClientOptions: c.cfg.blobOptions().ClientOptions})
	return client, "", err
}

// DropKept removes what is kept of a disk, unless a machine is being made of it.
func DropKept(ctx context.Context, cfg Config, key Key) error {
	k, err := OpenKept(ctx, cfg, key, 0)
	if errors.Is(err, ErrNoKept) {
		return nil
	}
	if err != nil {
		return err
	}
	t, err := k.look(ctx)
	if errors.Is(err, ErrNoKept) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.at != k.mine {
		return ErrTaken
	}
	return taken(k.drop(ctx, t.etag))
}

// fromKept makes a disk of what is kept of it. used is false if there is nothing of use: then
// the disk is sent as others are.
func (r *Run) fromKept(ctx context.Context, i int) (used bool, err error) {
	now := r.b.now()
	d := now.Disks[i]
	if now.Owner == "" || d.Alone || r.disks == nil {
		return false, nil
	}
	base, ok := r.disks[i].(target.Restorer)
	changed, fixed := r.disks[i].(*overlay.ChangedDisk)
	if fixed {
		base = changed.Base()
	}
	v, versioned := base.(target.Versioned)
	if !ok || !versioned {
		return false, r.alone(i, "")
	}
	key := Key{now.Owner, now.Machine, d.Name}
	client, err := r.c.vhd(key.name())
	if err != nil {
		return false, err
	}
	k, err := openKept(ctx, r.cfg, client, key, 0, now.Run)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, ErrNoKept):
		return false, r.alone(i, "")
	case err != nil || k.now.Size != d.Size:
		return false, r.alone(i, fmt.Sprintf("disk %s: what is kept of it is of no use now: %v", d.Name, unsigned(err)))
	}
	if !d.Filled || k.now.Held != now.Run {
		if err := r.bring(ctx, i, k, v, changed); err != nil {
			return true, err
		}
	}
	if err := r.imported(ctx, i, plain(client.URL())); err != nil {
		return true, err
	}
	if err := k.release(ctx); err != nil { // the disk is a copy of it
		return true, err
	}
	return true, r.b.change(func(k *record) { k.Disks[i].Done = true })
}

// alone writes down that a disk is sent without what is kept.
func (r *Run) alone(i int, why string) error {
	if why != "" {
		r.note("%s", why)
	}
	return r.b.change(func(k *record) { k.Disks[i].Alone = true })
}

// bring brings what is kept to the point, with the changes for Hyper-V in it.
func (r *Run) bring(ctx context.Context, i int, k *Kept, v target.Versioned, changed *overlay.ChangedDisk) error {
	// Before anything: whoever removes the run must let go of it.
	if err := r.b.change(func(k *record) { k.Disks[i].Kept, k.Disks[i].Filled = true, false }); err != nil {
		return err
	}
	begin, was := time.Now(), k.now.Label
	if err := k.hold(ctx, r.b.Run); err != nil {
		return stale(err)
	}
	b, err := k.Bring(ctx, v, r.point, r.cut)
	if err != nil {
		return stale(err)
	}
	text := ""
	if changed != nil {
		more, err := k.change(ctx, changed)
		if err != nil {
			return stale(err)
		}
		b.Sent += more.Sent
		text = fmt.Sprintf(", %d bytes of it changed for Hyper-V", changed.Bytes())
	}
	digest := v.Digest()
	r.note("disk %s: made of what was kept of it (point %s): %v in %v, digest %x by the vault's sums%s", v.Name(), or(was, "unknown"), b, time.Since(begin).Round(time.Millisecond), digest[:8], text)
	return r.b.change(func(k *record) { k.Disks[i].Filled, k.Disks[i].Sent = true, b.Sent })
}

// stale makes an error of what is kept one after which it is begun anew.
func stale(err error) error {
	if errors.Is(err, ErrTaken) {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	return err
}

// letGo lets others have what is kept of a disk, if the run holds it.
func (r *Run) letGo(ctx context.Context, i int) error {
	now := r.b.now()
	if !now.Disks[i].Kept || now.Disks[i].Done {
		return nil
	}
	key := Key{now.Owner, now.Machine, now.Disks[i].Name}
	client, err := r.c.vhd(key.name())
	if err != nil {
		return err
	}
	k, err := openKept(ctx, r.cfg, client, key, 0, now.Run)
	if errors.Is(err, ErrNoKept) || errors.Is(err, ErrHeld) {
		return nil
	}
	if err != nil || k.now.Held == "" {
		return err
	}
	return k.release(ctx)
}

// makeFrom is what a disk is made of that is imported.
func (r *Run) makeFrom(url string) *armcompute.CreationData {
	return &armcompute.CreationData{CreateOption: ptr(armcompute.DiskCreateOptionImport), SourceURI: &url, StorageAccountID: &r.b.Place.Account}
}
