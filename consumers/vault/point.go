package vault

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// PutPoint lists a recovery point. Before that it makes sure that the vault can keep
// the promise: every disk must have a cut at its position, with its digest and size,
// that is no older than half an hour, for older ones may be folded away (Maintain);
// if not, PutPoint returns ErrNotFound or ErrInvalid. It returns nil if the same point
// is there already, whenever it was listed, and ErrExists if another one has its name.
func (v *Vault) PutPoint(ctx context.Context, p *Point) error {
	if err := p.check(); err != nil {
		return err
	}
	key := pointKey(p.Group, p.Time, p.ID)
	if _, err := v.st.Stat(ctx, key); err == nil {
		return v.samePoint(ctx, key, pointRecord(p))
	} else if !errors.Is(err, ErrNotFound) {
		return fmt.Errorf("point %s of %s: %w", p.ID, p.Group, err)
	}
	if err := v.keeps(ctx, p); err != nil {
		return fmt.Errorf("point %s of %s: %w", p.ID, p.Group, err)
	}
	return v.storePoint(ctx, p)
}

func (v *Vault) storePoint(ctx context.Context, p *Point) error {
	record, err := format.EncodePoint(pointRecord(p))
	if err != nil {
		return fmt.Errorf("point %s of %s: %w: %w", p.ID, p.Group, ErrInvalid, err)
	}
	key := pointKey(p.Group, p.Time, p.ID)
	b := v.sealed(&pointForm, key, record)
	err = v.st.Put(ctx, key, b)
	if errors.Is(err, ErrExists) {
		return v.samePoint(ctx, key, pointRecord(p))
	}
	if err != nil {
		return fmt.Errorf("point %s of %s: %w", p.ID, p.Group, err)
	}
	return nil
}

func (p *Point) check() error {
	if err := validName("point", p.ID); err != nil {
		return err
	}
	if err := validName("group", p.Group); err != nil {
		return err
	}
	if p.Time.Year() < 1970 || p.Time.Year() > 2261 {
		return invalid("point %s has the time %s", p.ID, p.Time)
	}
	for _, m := range p.Machines {
		for _, d := range m.Disks {
			if err := (DiskID{m.Machine, d.Disk}).check(); err != nil {
				return err
			}
		}
	}
	return nil
}

// keeps says which disk of a point the vault does not hold as promised.
func (v *Vault) keeps(ctx context.Context, p *Point) error {
	for _, m := range p.Machines {
		for _, d := range m.Disks {
			id := DiskID{m.Machine, d.Disk}
			c, err := v.Cut(ctx, id, d.At)
			if err != nil {
				return err
			}
			if c.Digest != d.Digest || c.Size != d.Size {
				return invalid("disk %s at %s has digest %x and %d bytes in the vault, the point promises %x and %d",
					id, d.At, c.Digest[:8], c.Size, d.Digest[:8], d.Size)
			}
			age := time.Since(c.stored)
			if age > grace/2 {
				return fmt.Errorf("%w: disk %s at %s was stored %s ago by the store's clock: cuts are listed within %s or not at all, for later they may be folded away (are the clocks right?)",
					ErrNotFound, id, d.At, age.Round(time.Second), grace/2)
			}
		}
	}
	return nil
}

func (v *Vault) samePoint(ctx context.Context, key string, p *format.Point) error {
	old, err := v.openPoint(ctx, key)
	if err != nil {
		return err
	}
	old.Listed, p.Listed = 0, 0 // who lists it again after a crash has another clock
	was, err := format.EncodePoint(old)
	if err != nil {
		return err
	}
	if now, err := format.EncodePoint(p); err != nil || !bytes.Equal(was, now) {
		return fmt.Errorf("point %s: %w with other contents", key, ErrExists)
	}
	return nil
}

// openPoint reads the record of the point at key.
func (v *Vault) openPoint(ctx context.Context, key string) (*format.Point, error) {
	plain, err := v.unsealed(ctx, &pointForm, key)
	if err != nil {
		return nil, err
	}
	p, err := format.DecodePoint(plain)
	if err == nil && pointKey(p.Group, time.Unix(0, p.Time), p.ID) != key {
		err = contradiction("it says that it is %s of %s", p.ID, p.Group)
	}
	if err != nil {
		return nil, damaged(key, err)
	}
	return p, nil
}

// Points returns the recovery points of a group, or of all groups if group is empty,
// ascending by time, and an error for each manifest that cannot be read.
func (v *Vault) Points(ctx context.Context, group string) ([]*Point, []error, error) {
	prefix := pointPrefix
	if group != "" {
		if err := validName("group", group); err != nil {
			return nil, nil, err
		}
		prefix += group + "/"
	}
	var keys []string
	err := v.st.List(ctx, prefix, func(i store.Info) error {
		if _, _, _, ok := parsePointKey(i.Key); ok {
			keys = append(keys, i.Key)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list points: %w", err)
	}
	var points []*Point
	var bad []error
	type read struct {
		p   *format.Point
		err error
	}
	open := func(ctx context.Context, key string) (read, error) {
		p, err := v.openPoint(ctx, key)
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrNotFound) {
			return read{}, err
		}
		return read{p, err}, nil
	}
	err = inOrder(ctx, readers, keys, open, func(r read) error {
		switch {
		case r.err == nil:
			points = append(points, pointOf(r.p))
		case !errors.Is(r.err, ErrNotFound): // pruned since it was listed
			bad = append(bad, r.err)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read points: %w", err)
	}
	slices.SortStableFunc(points, func(a, b *Point) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
	return points, bad, nil
}

// Point returns the recovery point with an id, or ErrNotFound.
func (v *Vault) Point(ctx context.Context, id string) (*Point, error) {
	key, err := v.findPoint(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("point %s: %w", id, err)
	}
	p, err := v.openPoint(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("point %s: %w", id, err)
	}
	return pointOf(p), nil
}

// findPoint returns the key of the point with an id.
func (v *Vault) findPoint(ctx context.Context, id string) (key string, err error) {
	if err := validName("point", id); err != nil {
		return "", err
	}
	err = v.st.List(ctx, pointPrefix, func(i store.Info) error {
		if _, _, have, ok := parsePointKey(i.Key); ok && have == id {
			key = i.Key
		}
		return nil
	})
	if err == nil && key == "" {
		err = fmt.Errorf("%w: list points with `leeward vault ls`", ErrNotFound)
	}
	return key, err
}

func pointRecord(p *Point) *format.Point {
	r := &format.Point{
		ID: p.ID, Group: p.Group, Time: p.Time.UnixNano(), Consistency: p.Consistency,
		Frozen: int64(p.Frozen), Listed: unixNano(p.Listed), Skew: int64(p.Skew),
	}
	for _, m := range p.Machines {
		n := format.PointMachine{
			Machine: m.Machine, Host: m.Host, CPUs: m.CPUs, Memory: m.Memory,
			Firmware: m.Firmware, OS: m.OS, Kernel: m.Kernel, NICs: m.NICs, Frozen: int64(m.Frozen),
		}
		for _, d := range m.Disks {
			n.Disks = append(n.Disks, format.PointDisk{
				Disk: d.Disk, Epoch: d.At.Epoch, Number: d.At.Number, Size: d.Size, Digest: d.Digest, Frozen: d.Frozen, Note: d.Note,
			})
		}
		r.Machines = append(r.Machines, n)
	}
	return r
}

func pointOf(r *format.Point) *Point {
	p := &Point{
		ID: r.ID, Group: r.Group, Time: time.Unix(0, r.Time).UTC(), Consistency: r.Consistency,
		Frozen: time.Duration(r.Frozen), Listed: fromNano(r.Listed), Skew: time.Duration(r.Skew),
	}
	for _, m := range r.Machines {
		n := PointMachine{
			Machine: m.Machine, Host: m.Host, CPUs: m.CPUs, Memory: m.Memory,
			Firmware: m.Firmware, OS: m.OS, Kernel: m.Kernel, NICs: m.NICs, Frozen: time.Duration(m.Frozen),
		}
		for _, d := range m.Disks {
			n.Disks = append(n.Disks, PointDisk{
				Disk: d.Disk, At: Position{d.Epoch, d.Number}, Size: d.Size, Digest: d.Digest, Frozen: d.Frozen, Note: d.Note,
			})
		}
		p.Machines = append(p.Machines, n)
	}
	return p
}
