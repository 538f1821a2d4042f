package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/leeward-dr/leeward/consumers/vault/store"
)

// maxLists is how many lists the segments behind the last map may take: if more were
// needed, listing the epoch is as good.
const maxLists = 24

// quick returns what the disk at a position is made of without listing the whole disk:
// it lists maps, then what lies between the last of them and the position. It returns
// nil where maps do not lead to the beginning; nothing is promised about what it finds.
func (d *disk) quick(ctx context.Context, at Position) (lineage, error) {
	var all lineage
	for p := at; p != (Position{}); {
		all = append(all, branch{epoch: p.Epoch, last: p.Number}) // newest first: it tells which segments serve
		usable := func(r segmentRef) bool { return all.contains(r.until) }
		e := &epochRefs{}
		err := d.v.st.List(ctx, epochPrefix(d.id, p.Epoch)+"m", func(i store.Info) error {
			if _, r, ok := parseMapKey(i.Key); ok {
				r.size, r.modified = i.Size, i.Modified
				e.maps = append(e.maps, r)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(e.maps, func(a, b segmentRef) int { return cmp.Compare(a.first, b.first) })
		refs := (&epochRefs{}).chainOf(e.maps, 1, p.Number, usable)
		if len(refs) == 0 {
			return nil, nil
		}
		if from := refs[len(refs)-1].last + 1; from <= p.Number {
			if ok, err := d.between(ctx, e, p.Epoch, from, p.Number); err != nil || !ok {
				return nil, err
			}
			refs = append(refs, e.chainOf(e.folded, from, p.Number, usable)...)
		}
		all[len(all)-1].refs = refs
		first, err := d.openMap(ctx, refs[0])
		if err != nil {
			return nil, err
		}
		p = Position{first.BaseEpoch, first.BaseNumber}
	}
	slices.Reverse(all)
	return all, nil
}

// between lists the segments of an epoch that begin with links from to to. It returns
// false if that takes too many lists.
func (d *disk) between(ctx context.Context, e *epochRefs, epoch, from, to uint64) (bool, error) {
	prefixes := hexPrefixes(from, to)
	if len(prefixes) > maxLists/2 {
		return false, nil
	}
	// All at once: on a disk with long directories, and in a cloud, each takes a while.
	var asked sync.WaitGroup
	found, errs := make([][]segmentRef, 2*len(prefixes)), make([]error, 2*len(prefixes))
	for i := range found {
		level, p := []uint8{levelRaw, levelFolded}[i/len(prefixes)], prefixes[i%len(prefixes)]
		asked.Go(func() {
			errs[i] = d.v.st.List(ctx, fmt.Sprintf("%sl%d/%s", epochPrefix(d.id, epoch), level, p), func(o store.Info) error {
				if _, r, ok := parseSegmentKey(o.Key); ok && r.first >= from && r.first <= to {
					r.size, r.modified = o.Size, o.Modified
					found[i] = append(found[i], r)
				}
				return nil
			})
		})
	}
	asked.Wait()
	if err := errors.Join(errs...); err != nil {
		return false, fmt.Errorf("list segments of %s: %w", d.id, err)
	}
	h := history{epoch: e}
	for _, refs := range found {
		for _, r := range refs {
			h.add(r)
		}
	}
	return true, nil
}

// hexPrefixes returns beginnings of the 16 hex digits of the numbers from to to, and
// of few others, ascending.
func hexPrefixes(from, to uint64) (all []string) {
	const least = 1 << 8
	end := to | (least - 1)
	for at := from &^ (least - 1); ; {
		size, digits := uint64(least), hexDigits-2
		for digits > 1 && at%(size<<4) == 0 && size<<4-1 <= end-at {
			size, digits = size<<4, digits-1
		}
		all = append(all, fmt.Sprintf("%016x", at)[:digits])
		if end-at < size {
			return all
		}
		at += size
	}
}
