package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// Repaired says what Repair did and what it could not.
type Repaired struct {
	Done []Problem // what is not wrong any more; Try says what was done
	Lost []LostPoint
	Kept []KeptPoint // points that a check names, but that restore with their digest
	Left *Report     // what a check finds now that reads everything
}

// LostPoint is a point that cannot be restored.
type LostPoint struct {
	ID, Group string
	Disk      string // "machine/disk"
	What      string // is in the way
}

// Repair puts right what can be put right without anything that is not in the vault:
// a store that holds more than it needs heals itself; maps are made anew; segments of
// which only the index, the sums or the end is damaged are made anew from their frames;
// a damaged folded segment goes when what it was made of is still there; a pin that
// cannot be read is renewed without its name. Then every point that a check still
// names is restored to nowhere, to say which are lost. It never removes anything that
// a point needs, and may be interrupted at any time.
func (v *Vault) Repair(ctx context.Context, progress func(done, total int64)) (*Repaired, error) {
	r := &repairer{v: v, progress: progress, done: &Repaired{}}
	if err := r.run(ctx); err != nil {
		return r.done, fmt.Errorf("repair vault: %w", err)
	}
	return r.done, nil
}

type repairer struct {
	v        *Vault
	progress func(done, total int64)
	done     *Repaired
}

func (r *repairer) did(key, what, did string) {
	r.done.Done = append(r.done.Done, Problem{Key: key, What: what, Try: did})
}

func (r *repairer) run(ctx context.Context) error {
	if s, ok := r.v.st.(store.Repairer); ok {
		err := s.Repair(ctx, true, func(f store.Finding) {
			if f.Fixed {
				r.did(f.Key, f.What+" in "+f.Where, "the store made it whole")
			}
		})
		if err != nil {
			return fmt.Errorf("repair the store: %w", err)
		}
	}
	c, err := r.check(ctx)
	for n := -1; err == nil && n < len(r.done.Done); { // what was put right may help to put right more
		n = len(r.done.Done)
		for _, id := range c.sortedDisks() {
			if err := r.disk(ctx, c, c.disks[id]); err != nil {
				return fmt.Errorf("disk %s: %w", id, err)
			}
		}
		if err := r.pins(ctx, c); err != nil {
			return err
		}
		if err := r.records(ctx, c); err != nil {
			return err
		}
		if n < len(r.done.Done) {
			c, err = r.check(ctx)
		}
	}
	if err != nil {
		return err
	}
	r.done.Left = c.report
	return r.lost(ctx, c)
}

func (r *repairer) check(ctx context.Context) (*checker, error) {
	c := &checker{v: r.v, o: CheckOptions{ReadData: true, Progress: r.progress}, report: new(Report), disks: map[DiskID]*diskCheck{}}
	return c, c.run(ctx)
}

// disk repairs what a check found wrong with a disk.
func (r *repairer) disk(ctx context.Context, c *checker, dc *diskCheck) error {
	if dc.lost != "" {
		return nil
	}
	d, err := r.v.disk(ctx, dc.id)
	if err != nil {
		return err
	}
	for _, e := range dc.history.epochs() {
		h := dc.history[e]
		for _, ref := range h.folded {
			if dc.sound[d.keyOf(ref)] == nil && dc.spare(d, h, ref) {
				if err := r.v.st.Delete(ctx, d.keyOf(ref)); err != nil {
					return err
				}
				r.did(d.keyOf(ref), "it is damaged", "it was removed: the segments it was made of are there")
			}
		}
		for _, ref := range h.raw {
			if dc.sound[d.keyOf(ref)] != nil {
				continue
			}
			if err := r.segment(ctx, c, d, dc, ref); err != nil {
				return err
			}
		}
	}
	return r.maps(ctx, d, dc)
}

// spare tells whether other segments, all sound, stand for the links of a folded one
// wherever it serves.
func (dc *diskCheck) spare(d *disk, h *epochRefs, folded segmentRef) bool {
	line, _ := dc.lineage(folded.until)
	others := &epochRefs{raw: h.raw}
	for _, r := range h.folded {
		if !r.same(folded) {
			others.folded = append(others.folded, r)
		}
	}
	n := folded.first
	refs := others.chainOf(others.folded, n, folded.last, func(r segmentRef) bool {
		return r.first >= folded.first && (line.contains(r.until) || r.until == r.foldEnd())
	})
	for _, r := range refs {
		s := dc.sound[d.keyOf(r)]
		if s == nil || s.First != n {
			return false
		}
		n = s.Last + 1
	}
	return n == folded.last+1
}

// segment makes a damaged segment anew if its frames are whole.
func (r *repairer) segment(ctx context.Context, c *checker, d *disk, dc *diskCheck, ref segmentRef) error {
	s, err := d.salvage(ctx, c, dc, ref)
	if errors.Is(err, errBeyond) || errors.Is(err, ErrDamaged) {
		return nil // the check that follows names it and what needs it
	}
	if err != nil {
		return err
	}
	// Another name, in case we die before the damaged one is gone.
	to := segmentRef{epoch: ref.epoch, first: s.t.First, level: levelFolded, last: s.t.Last, until: Position{ref.epoch, s.t.Last}}
	if _, err := d.putFolded(ctx, to, &s.plan, s.t); err != nil {
		return err
	}
	if err := r.v.st.Delete(ctx, d.keyOf(ref)); err != nil {
		return err
	}
	r.did(d.keyOf(ref), "its "+s.what, "its frames are whole: it was made anew as "+d.keyOf(to)+s.without)
	return nil
}

// maps removes the maps that are wrong and makes those that are wanted.
func (r *repairer) maps(ctx context.Context, d *disk, dc *diskCheck) error {
	for _, ref := range dc.badMaps {
		if err := r.v.st.Delete(ctx, d.keyOf(ref)); err != nil {
			return err
		}
		r.did(d.keyOf(ref), "the map is wrong", "it was removed, to be made anew from the segments")
	}
	if len(dc.badMaps) == 0 {
		return nil
	}
	m := &maintainer{v: r.v, o: MaintainOptions{grace: grace}, report: &Maintained{}}
	if err := m.maps(ctx, d); err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	return nil
}

// pins renews the pins that cannot be read.
func (r *repairer) pins(ctx context.Context, c *checker) error {
	for _, p := range c.pins {
		if _, err := r.v.openPin(ctx, p.Key); err == nil || !errors.Is(err, ErrDamaged) {
			continue
		}
		if err := r.v.st.Delete(ctx, p.Key); err != nil {
			return err
		}
		if err := r.v.putPin(ctx, p.Key, ""); err != nil {
			return err
		}
		r.did(p.Key, "the pin cannot be read", "it was renewed; its name is lost")
	}
	return nil
}

// records removes versions of records that cannot be read: the version before counts
// again, and control, which has the document, writes it anew.
func (r *repairer) records(ctx context.Context, c *checker) error {
	for _, i := range c.docs {
		if _, err := r.v.openRecord(ctx, i.Key); err == nil || !errors.Is(err, ErrDamaged) {
			continue
		}
		if err := r.v.st.Delete(ctx, i.Key); err != nil {
			return err
		}
		r.did(i.Key, "the record cannot be read", "it was removed; control writes its documents anew when it starts")
	}
	return nil
}

// lost restores to nowhere what a check names.
func (r *repairer) lost(ctx context.Context, c *checker) error {
	for _, i := range c.points {
		if !slices.ContainsFunc(c.report.Problems, func(p Problem) bool { return p.Key == i.Key }) {
			continue
		}
		group, _, id, _ := parsePointKey(i.Key)
		p, err := r.v.openPoint(ctx, i.Key)
		if err != nil {
			r.done.Lost = append(r.done.Lost, LostPoint{ID: id, Group: group, What: err.Error()})
			continue
		}
		whole := true
		point := pointOf(p)
		for _, m := range point.Machines {
			for _, pd := range m.Disks {
				if err := r.v.proves(ctx, DiskID{m.Machine, pd.Disk}, pd); err != nil {
					if ctx.Err() != nil {
						return err
					}
					whole = false
					r.done.Lost = append(r.done.Lost, LostPoint{ID: id, Group: group, Disk: m.Machine + "/" + pd.Disk, What: err.Error()})
				}
			}
		}
		if whole {
			r.done.Kept = append(r.done.Kept, KeptPoint{ID: id, Group: group, Time: point.Time, Reasons: []string{"it was restored to nowhere and has its digest"}})
		}
	}
	return nil
}

// voidDisk is a disk that forgets.
type voidDisk struct{}

func (voidDisk) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

var _ io.WriterAt = voidDisk{}

// proves restores a disk of a point to nowhere and compares its digest.
func (v *Vault) proves(ctx context.Context, id DiskID, p PointDisk) error {
	r, err := v.OpenAt(ctx, id, p.At, ReaderOptions{ReadAhead: -1})
	if err != nil {
		return err
	}
	defer r.Close()
	if r.Digest() != p.Digest || r.Size() != int64(p.Size) {
		return damaged(segmentsPrefix(id), contradiction("the vault recorded another digest or size than the point"))
	}
	_, err = r.Restore(ctx, voidDisk{}, RestoreOptions{})
	return err
}

// Prove restores every disk of a point to nowhere and compares it with the digest that
// the point promises: nothing else shows more that a point can be had.
func (v *Vault) Prove(ctx context.Context, p *Point) error {
	for _, m := range p.Machines {
		for _, d := range m.Disks {
			if err := v.proves(ctx, DiskID{m.Machine, d.Disk}, d); err != nil {
				return fmt.Errorf("point %s: disk %s/%s: %w", p.ID, m.Machine, d.Disk, err)
			}
		}
	}
	return nil
}
