package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// MaintainOptions say what Maintain may remove and how hard it may work.
type MaintainOptions struct {
	Keep Retention // of points; the zero value keeps all
	// KeepOf says what to keep of a group's points, instead of Keep; may be nil.
	KeepOf func(group string) Retention
	// Drop says whether all of a group's points go, the newest too, but for those that are
	// pinned or in use; may be nil.
	Drop func(group string) bool
	// InUse returns the ids of points that must not go, such as those machines run
	// from. It is asked again right before points are removed.
	InUse func() []string
	// MaxDead is the part of a segment's stored bytes that may be dead before it is
	// rewritten, 0 means 0.09: then a vault holds at most a tenth more than its points
	// need.
	MaxDead float64
	// Rate bounds what is read and written, in bytes a second; 0 means no bound.
	Rate int64
	// DryRun changes nothing: the report says which points would go.
	DryRun bool
	// NoDelete folds but deletes neither points nor segments.
	NoDelete bool
	// Progress is told what is being done.
	Progress func(what string)

	grace time.Duration // instead of the constant; in tests, with graceSet
	set   bool
}

const (
	defaultMaxDead = 0.09
	// grace is how old a cut must be, by the times of the store, before what leads to
	// it may be folded away. Until then it can be listed as a point.
	grace = time.Hour
)

// Maintained says what Maintain did, or with DryRun would do to points.
type Maintained struct {
	Kept    []KeptPoint   `json:"kept"`
	Removed []KeptPoint   `json:"removed"` // points that are gone
	Folded  int           `json:"folded"`  // segments written
	Written int64         `json:"written"` // bytes
	Mapped  int           `json:"mapped"`  // maps written
	Deleted int           `json:"deleted"` // segments and maps deleted
	Freed   int64         `json:"freed"`   // bytes
	Took    time.Duration `json:"took"`
	// Trouble lists the disks that could not be tidied, which are in the error too.
	Trouble []DiskID `json:"trouble,omitempty"`
}

// KeptPoint is a point with the reasons for keeping it: "newest", "pinned", "in use",
// or a rule of the Retention. Without any it goes.
type KeptPoint struct {
	ID      string    `json:"id"`
	Group   string    `json:"group"`
	Time    time.Time `json:"time"`
	Reasons []string  `json:"reasons,omitempty"`
}

// Maintain removes the points that nothing keeps, folds the history that no point
// shows any more, and deletes what is not needed then. It may be interrupted or
// killed at any moment, may run while disks are written and read, and, though that
// is a waste, twice at once. What cannot be read is left alone: an error says so.
func (v *Vault) Maintain(ctx context.Context, o MaintainOptions) (*Maintained, error) {
	began := time.Now()
	if o.MaxDead <= 0 {
		o.MaxDead = defaultMaxDead
	}
	if !o.set {
		o.grace = grace
	}
	m := &maintainer{v: v, o: o, report: &Maintained{Kept: []KeptPoint{}, Removed: []KeptPoint{}}}
	err := m.run(ctx)
	m.report.Took = time.Since(began)
	if err != nil {
		err = fmt.Errorf("maintain vault: %w", err)
	}
	return m.report, err
}

type maintainer struct {
	v      *Vault
	o      MaintainOptions
	report *Maintained
	opened map[string]*Point // by key: they do not change
}

func (m *maintainer) say(format string, args ...any) {
	if m.o.Progress != nil {
		m.o.Progress(fmt.Sprintf(format, args...))
	}
}

func (m *maintainer) run(ctx context.Context) error {
	going, err := m.choose(ctx)
	if err != nil || m.o.DryRun {
		return err
	}
	if !m.o.NoDelete {
		if err := m.removePoints(ctx, going); err != nil {
			return err
		}
	}
	disks, err := m.v.Disks(ctx)
	if err != nil {
		return err
	}
	var trouble error
	for _, id := range disks {
		// A damaged disk must not keep the others from being tidied.
		if err := m.disk(ctx, id); err != nil {
			if ctx.Err() != nil {
				return err
			}
			m.report.Trouble = append(m.report.Trouble, id)
			trouble = errors.Join(trouble, fmt.Errorf("disk %s: %w", id, err))
		}
	}
	return trouble
}

// points returns all points that are listed now. One that cannot be read may need any
// disk, so it stops everything.
func (m *maintainer) points(ctx context.Context) ([]*Point, error) {
	var keys []string
	err := m.v.st.List(ctx, pointPrefix, func(i store.Info) error {
		if _, _, _, ok := parsePointKey(i.Key); ok {
			keys = append(keys, i.Key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	open := func(ctx context.Context, key string) (*Point, error) {
		if p := m.opened[key]; p != nil {
			return p, nil
		}
		p, err := m.v.openPoint(ctx, key)
		if errors.Is(err, ErrNotFound) {
			return nil, nil // removed since it was listed
		}
		if err != nil {
			return nil, err
		}
		return pointOf(p), nil
	}
	var points []*Point
	fresh := map[string]*Point{}
	err = inOrder(ctx, readers, keys, open, func(p *Point) error {
		if p != nil {
			points = append(points, p)
			fresh[pointKey(p.Group, p.Time, p.ID)] = p
		}
		return nil
	})
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion) {
		err = fmt.Errorf("a recovery point cannot be read, so nobody knows what it needs and nothing more is changed: put it back from a copy of the store, or delete the object: %w", err)
	}
	m.opened = fresh
	return points, err
}

// choose fills in which points stay and which go, and returns the keys of the latter.
func (m *maintainer) choose(ctx context.Context) (map[string]*Point, error) {
	points, err := m.points(ctx)
	if err != nil {
		return nil, err
	}
	pins, err := m.v.pinned(ctx)
	if err != nil {
		return nil, err
	}
	var inUse []string
	if m.o.InUse != nil {
		inUse = m.o.InUse()
	}
	groups := map[string][]*Point{}
	for _, p := range points {
		groups[p.Group] = append(groups[p.Group], p)
	}
	going := map[string]*Point{}
	for group, all := range groups {
		keep := m.o.Keep
		if m.o.KeepOf != nil {
			keep = m.o.KeepOf(group)
		}
		reasons := keep.Reasons(all)
		if m.o.Drop != nil && m.o.Drop(group) {
			reasons = nil
		}
		for _, p := range all {
			k, key := KeptPoint{ID: p.ID, Group: p.Group, Time: p.Time, Reasons: reasons[p.ID]}, pointKey(p.Group, p.Time, p.ID)
			if pins[key] {
				k.Reasons = append(k.Reasons, "pinned")
			}
			if slices.Contains(inUse, p.ID) {
				k.Reasons = append(k.Reasons, "in use")
			}
			if len(k.Reasons) > 0 {
				m.report.Kept = append(m.report.Kept, k)
				continue
			}
			m.report.Removed = append(m.report.Removed, k)
			going[key] = p
		}
	}
	for _, list := range [][]KeptPoint{m.report.Kept, m.report.Removed} {
		slices.SortFunc(list, func(a, b KeptPoint) int { return a.Time.Compare(b.Time) })
	}
	return going, nil
}

// removePoints deletes manifests. A point that was pinned or came into use while this
// happened is put back: nothing of its disks is gone yet.
func (m *maintainer) removePoints(ctx context.Context, going map[string]*Point) error {
	stay := func(p *Point, why string) {
		m.report.Removed = slices.DeleteFunc(m.report.Removed, func(k KeptPoint) bool { return k.ID == p.ID })
		m.report.Kept = append(m.report.Kept, KeptPoint{ID: p.ID, Group: p.Group, Time: p.Time, Reasons: []string{why}})
	}
	for key, p := range going {
		err := m.v.st.Delete(ctx, key)
		if errors.Is(err, store.ErrKept) {
			stay(p, "the store does not let it go yet")
			delete(going, key)
			continue
		}
		if err != nil {
			return fmt.Errorf("remove point: %w", err)
		}
	}
	pins, err := m.v.pinned(ctx)
	if err != nil {
		return err
	}
	var inUse []string
	if m.o.InUse != nil {
		inUse = m.o.InUse()
	}
	for key, p := range going {
		if !pins[key] && !slices.Contains(inUse, p.ID) {
			continue
		}
		if err := m.v.storePoint(ctx, p); err != nil {
			return fmt.Errorf("put back point %s, which was pinned just now: %w", p.ID, err)
		}
		stay(p, "pinned or in use since")
	}
	if len(m.report.Removed) > 0 {
		m.say("removed %d recovery points", len(m.report.Removed))
	}
	return nil
}

// positions returns where the points that are listed now need a disk.
func (m *maintainer) positions(ctx context.Context, id DiskID) ([]Position, error) {
	points, err := m.points(ctx)
	if err != nil {
		return nil, err
	}
	var at []Position
	for _, p := range points {
		for _, machine := range p.Machines {
			for _, d := range machine.Disks {
				if machine.Machine == id.Machine && d.Disk == id.Disk {
					at = append(at, d.At)
				}
			}
		}
	}
	return at, nil
}

func (m *maintainer) disk(ctx context.Context, id DiskID) error {
	d, err := m.v.disk(ctx, id)
	if err != nil {
		return err
	}
	if s, ok := m.v.st.(store.Syncer); ok {
		if err := s.Sync(ctx, segmentsPrefix(id)); err != nil {
			return err
		}
	}
	t, err := m.look(ctx, d)
	if err != nil || t == nil {
		return err
	}
	for _, w := range t.windows() {
		if err := m.window(ctx, d, w); err != nil {
			return err
		}
	}
	if !m.o.NoDelete {
		if err := m.sweep(ctx, d); err != nil {
			return err
		}
	}
	return m.maps(ctx, d)
}

// look lists the points and the disk, in this order: a position listed later is too
// new to be touched.
func (m *maintainer) look(ctx context.Context, d *disk) (t *keepTree, err error) {
	at, err := m.positions(ctx, d.id)
	if err != nil {
		return nil, err
	}
	err = steady(func() error {
		h, err := d.history(ctx)
		if err != nil || len(h) == 0 {
			return err
		}
		t, err = d.newKeepTree(ctx, h, at, m.o.grace)
		return err
	})
	return t, err
}

// window folds what is worth it of a window.
func (m *maintainer) window(ctx context.Context, d *disk, w window) error {
	if len(w.refs) == 1 && w.until == (Position{w.refs[0].epoch, w.refs[0].last}) {
		return nil // it needs all of itself
	}
	var segments []*segment
	read := func(ctx context.Context, r segmentRef) (*segment, error) { return d.read(ctx, r, partIndex) }
	err := inOrder(ctx, readers, w.refs, read, func(s *segment) error {
		n := len(segments)
		if s.Last != w.refs[n].last {
			return d.missing(Position{s.Epoch, s.Last + 1})
		}
		if n > 0 {
			if err := d.follows(segments[n-1], s); err != nil {
				return err
			}
		}
		segments = append(segments, s)
		return nil
	})
	if err != nil {
		return err
	}
	weights := weigh(segments)
	runs := groups(segments, weights, m.o.MaxDead)
	seen := blockSet{}
	for i := len(segments); i > 0; {
		if len(runs) == 0 {
			return nil // what is older does not change
		}
		run := runs[len(runs)-1]
		if run[1] < i {
			i--
			seen.cover(segments[i])
			continue
		}
		n, err := d.fold(ctx, w.until, segments[run[0]:run[1]], seen)
		if err != nil {
			return err
		}
		m.report.Folded++
		m.report.Written += n
		m.say("%s: folded %d segments into one of %d KiB", d.id, run[1]-run[0], n>>10)
		if err := m.pace(ctx, 2*n); err != nil {
			return err
		}
		i, runs = run[0], runs[:len(runs)-1]
	}
	return nil
}

// pace waits so that bytes are not moved faster than the rate.
func (m *maintainer) pace(ctx context.Context, bytes int64) error {
	if m.o.Rate <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(time.Duration(float64(bytes) / float64(m.o.Rate) * float64(time.Second)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sweep deletes the segments that no kept position is read from.
func (m *maintainer) sweep(ctx context.Context, d *disk) error {
	t, err := m.look(ctx, d) // again: points may have been listed, segments folded
	if err != nil || t == nil {
		return err
	}
	for _, r := range slices.Concat(t.staleMaps(d), t.garbage(d)) { // a map goes before what it stands for
		err := m.v.st.Delete(ctx, d.keyOf(r))
		if errors.Is(err, store.ErrKept) {
			return nil // later: what is left must have no gaps
		}
		if err != nil {
			return fmt.Errorf("delete segment: %w", err)
		}
		m.report.Deleted++
		m.report.Freed += r.size
	}
	return nil
}
