package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// CheckOptions say how deep Check looks.
type CheckOptions struct {
	// ReadData reads everything: each frame must open, unpack and have its sums, and
	// the sums must add up to each segment's digest. Without it, Check reads the ends
	// of the segments.
	ReadData bool
	// Subset is the share of the segments' bytes, more than 0 and up to 1, that is read
	// as with ReadData, beginning with the first segment whose key is greater than
	// After: so that one check after another sees everything. Only what ReadData finds
	// by adding up sums is not seen.
	Subset float64
	After  string
	// Progress is told how many bytes of the vault's objects are done. Calls do not
	// overlap.
	Progress func(done, total int64)
}

// Report is what Check found.
type Report struct {
	Disks    int
	Segments int
	Maps     int
	Points   int
	Bytes    int64  // of all objects
	Read     int64  // bytes of segments that were read whole
	Next     string // with Subset: After of the next check
	Problems []Problem
}

// Problem is one thing that is wrong with a vault.
type Problem struct {
	Key  string // of the object
	What string
	Try  string
}

// String returns one line for people.
func (p Problem) String() string { return fmt.Sprintf("%s: %s; %s", p.Key, p.What, p.Try) }

// Check verifies the whole vault: that every object is known and intact, that each
// disk's chain is without gap or fork, and that every recovery point can be had. What
// it finds is in the report; an error means that it could not look.
func (v *Vault) Check(ctx context.Context, o CheckOptions) (*Report, error) {
	if o.Subset < 0 || o.Subset > 1 {
		return nil, invalid("check a share of %v: want more than 0, up to 1", o.Subset)
	}
	c := &checker{v: v, o: o, report: new(Report), disks: map[DiskID]*diskCheck{}}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("check vault: %w", err)
	}
	return c.report, nil
}

type checker struct {
	v      *Vault
	o      CheckOptions
	report *Report
	disks  map[DiskID]*diskCheck
	points []store.Info
	opened []*format.Point // those that can be read
	pins   []pinCheck
	docs   []store.Info
	slots  int
	marker bool
	whole  map[string]bool // with Subset: segments to read whole
	done   int64
}

// diskCheck is what there is of a disk, and what was found out about it.
type diskCheck struct {
	id      DiskID
	hasKey  bool
	lost    string // why nothing of the disk can be read, "" if it can
	history history
	sound   map[string]*segment // intact segments by key, without their contents
	lines   map[uint64]*lineCheck
	badMaps []segmentRef
}

// pinCheck is a pin and the key of its point.
type pinCheck struct {
	store.Info
	point string
}

const (
	tryUnpin  = "remove the pin: it keeps nothing"
	tryRemove = "it is not the vault's: remove it if you did not mean to put it there"
	tryRepair = "run `leeward vault check --repair`; what that cannot put right, put back from a copy of the store"
	tryPoint  = "the point cannot be kept: use another one"
)

func (c *checker) problem(key, what, try string) {
	c.report.Problems = append(c.report.Problems, Problem{Key: key, What: what, Try: try})
}

// failed makes a problem of an error that is an object's fault, and returns others.
func (c *checker) failed(key string, err error) error {
	var d *DamageError
	switch {
	case err == nil:
	case errors.As(err, &d):
		try := tryRepair
		if errors.Is(err, ErrVersion) {
			try = d.Try
		}
		c.problem(d.Key, d.What, try)
	case errors.Is(err, ErrNotFound):
		c.problem(key, "it was listed, but is gone", tryRepair)
	default:
		return err
	}
	return nil
}

func (c *checker) run(ctx context.Context) error {
	if err := c.v.st.List(ctx, "", c.sort); err != nil {
		return err
	}
	c.sample()
	if !c.marker {
		c.problem(markerKey, "it is missing", tryRepair)
	}
	if c.slots == 0 {
		c.problem(slotPrefix, "there is no key slot: nobody can open this vault again", tryRepair)
	}
	if err := c.keys(ctx); err != nil {
		return err
	}
	for _, id := range c.sortedDisks() {
		if err := c.disk(ctx, c.disks[id]); err != nil {
			return err
		}
	}
	if err := c.checkPoints(ctx); err != nil {
		return err
	}
	if err := c.checkPins(ctx); err != nil {
		return err
	}
	return c.checkRecords(ctx)
}

// sort puts a listed object where it belongs.
func (c *checker) sort(i store.Info) error {
	c.report.Bytes += i.Size
	switch {
	case i.Key == markerKey:
		c.marker = true
		return nil
	case strings.HasPrefix(i.Key, slotPrefix) && strings.HasSuffix(i.Key, keySuffix):
		c.slots++
		return nil
	}
	if id, ok := parseDiskKeyKey(i.Key); ok {
		c.diskCheck(id).hasKey = true
		c.done += i.Size
		return nil
	}
	if id, r, ok := parseSegmentKey(i.Key); ok && strings.HasPrefix(i.Key, diskPrefix) && id.check() == nil {
		r.size, r.modified = i.Size, i.Modified
		c.diskCheck(id).history.add(r)
		return nil
	}
	if id, r, ok := parseMapKey(i.Key); ok {
		r.size, r.modified = i.Size, i.Modified
		c.diskCheck(id).history.add(r)
		return nil
	}
	if _, _, _, ok := parsePointKey(i.Key); ok && strings.HasPrefix(i.Key, pointPrefix) {
		c.points = append(c.points, i)
		return nil
	}
	if point, ok := pinnedKey(i.Key); ok {
		c.pins = append(c.pins, pinCheck{i, point})
		return nil
	}
	if _, _, _, ok := parseRecordKey(i.Key); ok {
		c.docs = append(c.docs, i)
		return nil
	}
	c.done += i.Size
	c.problem(i.Key, "nothing in a vault has this name", tryRemove)
	return nil
}

func (c *checker) diskCheck(id DiskID) *diskCheck {
	d := c.disks[id]
	if d == nil {
		d = &diskCheck{id: id, history: history{}, sound: map[string]*segment{}, lines: map[uint64]*lineCheck{}}
		c.disks[id] = d
	}
	return d
}

func (c *checker) sortedDisks() []DiskID {
	var ids []DiskID
	for id := range c.disks {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b DiskID) int { return strings.Compare(a.String(), b.String()) })
	return ids
}

// advance tells that bytes more are done.
func (c *checker) advance(bytes int64) {
	c.done += bytes
	if c.o.Progress != nil {
		c.o.Progress(min(c.done, c.report.Bytes), c.report.Bytes)
	}
}

// keys checks vault.json and the key slots.
func (c *checker) keys(ctx context.Context) error {
	if c.marker {
		b, err := c.v.st.Get(ctx, markerKey, 0, -1)
		if err == nil {
			c.advance(int64(len(b)))
			var id [16]byte
			if id, err = format.DecodeMarker(b); err == nil && id != c.v.id {
				err = contradiction("it names another vault than its key slots")
			}
		}
		if err := c.failed(markerKey, damaged(markerKey, err)); err != nil {
			return err
		}
	}
	return c.v.st.List(ctx, slotPrefix, func(i store.Info) error {
		_, err := readSlot(ctx, c.v.st, i.Key)
		c.advance(i.Size)
		return c.failed(i.Key, err)
	})
}

// checkPoints checks that every point opens and that the vault keeps it.
func (c *checker) checkPoints(ctx context.Context) error {
	for _, i := range c.points {
		key := i.Key
		c.report.Points++
		p, err := c.v.openPoint(ctx, key)
		c.advance(i.Size)
		if err != nil {
			if err := c.failed(key, err); err != nil {
				return err
			}
			continue
		}
		c.opened = append(c.opened, p)
		for _, m := range p.Machines {
			for _, d := range m.Disks {
				if what := c.keeps(DiskID{m.Machine, d.Disk}, d); what != "" {
					c.problem(key, fmt.Sprintf("disk %s/%s: %s", m.Machine, d.Disk, what), tryPoint)
				}
			}
		}
	}
	return nil
}

// checkPins checks that every pin opens and keeps a point.
func (c *checker) checkPins(ctx context.Context) error {
	for _, p := range c.pins {
		_, err := c.v.openPin(ctx, p.Key)
		c.advance(p.Size)
		if err := c.failed(p.Key, err); err != nil {
			return err
		}
		if !slices.ContainsFunc(c.points, func(i store.Info) bool { return i.Key == p.point }) {
			c.problem(p.Key, "there is no such point", tryUnpin)
		}
	}
	return nil
}

// checkRecords checks that every record opens.
func (c *checker) checkRecords(ctx context.Context) error {
	for _, i := range c.docs {
		_, err := c.v.openRecord(ctx, i.Key)
		if errors.Is(err, ErrNotFound) {
			err = nil // control replaced it meanwhile
		}
		c.advance(i.Size)
		if err := c.failed(i.Key, err); err != nil {
			return err
		}
	}
	return nil
}

// keeps says why a disk of a point cannot be had, "" if it can.
func (c *checker) keeps(id DiskID, p format.PointDisk) string {
	d, at := c.disks[id], Position{p.Epoch, p.Number}
	if d == nil {
		return "the vault has no such disk"
	}
	s, what := d.reach(at)
	switch {
	case what != "":
		return what
	case s.Cut == nil:
		return fmt.Sprintf("there is no cut at %s", at)
	case s.Digest != p.Digest || s.Size != p.Size:
		return fmt.Sprintf("the cut at %s has digest %x and %d bytes, the point promises %x and %d", at, s.Digest[:8], s.Size, p.Digest[:8], p.Size)
	}
	return ""
}
