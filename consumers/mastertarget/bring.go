package mastertarget

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault"
)

// Brought says what Bring did. All but Took are bytes.
type Brought struct {
	Looked  int64 // of the disk at home, read and compared
	Differ  int64 // of these, that were not as they should be
	Written int64 // of these, data
	Zeroed  int64 // of these, zeros
	Fetched int64 // read from the vault for contents
	Took    time.Duration
	Whole   bool // all of the disk was compared
}

// String is for people.
func (b Brought) String() string {
	return fmt.Sprintf("%d MiB compared, %d MiB differed, %d MiB fetched in %s", b.Looked>>20, b.Differ>>20, b.Fetched>>20, b.Took.Round(time.Millisecond))
}

// windowBlocks is how many blocks are looked at between two advances of the record: 64 MiB.
const windowBlocks = 16 << 10

// Bring makes the disk as it is at a point. It may be ended at any moment, by ctx or by
// a power failure: the next one, to whatever point, goes on with what is not known.
func (m *Master) Bring(ctx context.Context, d *vault.PointDisk) (b Brought, err error) {
	began := time.Now()
	defer func() { b.Took = time.Since(began) }()
	if d.Size != m.cfg.Size {
		return b, fmt.Errorf("%w: at the point disk %s has %d bytes, not %d", ErrRefused, m.cfg.Disk, d.Size, m.cfg.Size)
	}
	if at, ok := m.rec.at(); ok && at == d.At {
		return b, nil
	}
	goal, err := m.cfg.Vault.SumsAt(ctx, m.cfg.Disk, d.At)
	if err != nil {
		return b, err
	}
	if goal.Digest() != d.Digest {
		return b, fmt.Errorf("disk %s has another digest in the vault than the point promises: run leeward vault check", m.cfg.Disk)
	}
	runs, err := m.unknown(ctx, goal)
	if err != nil {
		return b, err
	}
	b.Whole = len(runs) == 1 && runs[0].count == m.rec.blocks()
	r, err := m.cfg.Vault.OpenAt(ctx, m.cfg.Disk, d.At, vault.ReaderOptions{ReadAhead: -1})
	if err != nil {
		return b, err
	}
	defer r.Close()
	defer func() { b.Fetched = r.BytesFetched() }()
	m.rec.towards(d.At)
	if err := m.save(); err != nil {
		return b, err
	}
	w := &work{m: m, goal: goal, from: r, total: bytesOf(runs), brought: &b}
	if err := w.run(ctx, runs); err != nil {
		return b, fmt.Errorf("bring disk %s home to %s: %w", m.cfg.Disk, m.cfg.Path, err)
	}
	b.Fetched = r.BytesFetched()
	m.cfg.Log.Info("disk is as at a point", "disk", m.cfg.Disk.String(), "path", m.cfg.Path, "position", d.At.String(), "looked", b.Looked, "differed", b.Differ, "fetched", b.Fetched)
	return b, nil
}

// run is a number of blocks in a row.
type run struct{ start, count uint64 }

func bytesOf(runs []run) (n int64) {
	for _, r := range runs {
		n += int64(r.count) * vault.BlockSize
	}
	return n
}

// unknown returns the blocks that may not be as they are at goal, ascending.
func (m *Master) unknown(ctx context.Context, goal *vault.Sums) ([]run, error) {
	differ := map[vault.Position][]run{}
	for i := range m.rec.Regions {
		x := &m.rec.Regions[i]
		for _, p := range x.Maybe {
			if _, ok := differ[p]; ok || p == goal.Position() {
				continue
			}
			s, err := m.cfg.Vault.SumsAt(ctx, m.cfg.Disk, p)
			if errors.Is(err, vault.ErrNotFound) {
				m.cfg.Log.Info("a position is not kept any more: what was known by it is compared", "disk", m.cfg.Disk.String(), "position", p.String())
				x.Maybe = nil
				break
			}
			if err != nil {
				return nil, err
			}
			runs := []run{}
			s.Differ(goal, func(start, count uint64) bool {
				runs = append(runs, run{start, count})
				return true
			})
			differ[p] = runs
		}
	}
	var all []run
	for _, x := range m.rec.Regions {
		if len(x.Maybe) == 0 {
			all = append(all, run{x.From, x.To - x.From})
		}
		for _, p := range x.Maybe {
			for _, r := range differ[p] {
				from, to := max(r.start, x.From), min(r.start+r.count, x.To)
				if from < to {
					all = append(all, run{from, to - from})
				}
			}
		}
	}
	return merged(all), nil
}

// merged sorts runs and joins those that touch or overlap.
func merged(all []run) (out []run) {
	slices.SortFunc(all, func(a, b run) int {
		switch {
		case a.start < b.start:
			return -1
		case a.start > b.start:
			return 1
		}
		return 0
	})
	for _, r := range all {
		if n := len(out); n > 0 && r.start <= out[n-1].start+out[n-1].count {
			last := &out[n-1]
			last.count = max(last.start+last.count, r.start+r.count) - last.start
			continue
		}
		out = append(out, r)
	}
	return out
}

// workers is how many pieces are read, hashed, fetched and written at once.
var workers = max(2, min(4, runtime.GOMAXPROCS(0)))
