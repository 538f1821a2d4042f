package vault

import (
	"context"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
)

const tryMap = "nothing is lost, readers do without it: run `leeward vault check --repair`, which makes it anew"

// maps checks the maps of a disk. They only repeat what segments say, so whatever is
// wrong with one is no harm to any point.
func (c *checker) maps(ctx context.Context, d *disk, dc *diskCheck) error {
	for _, h := range dc.history {
		for _, r := range h.maps {
			what, err := c.checkMap(ctx, d, dc, r)
			if err != nil {
				return err
			}
			if what != "" {
				c.problem(d.keyOf(r), what, tryMap)
				dc.badMaps = append(dc.badMaps, r)
			}
			c.report.Maps++
			c.advance(r.size)
		}
	}
	return nil
}

// checkMap says what is wrong with a map, "" if nothing is.
func (c *checker) checkMap(ctx context.Context, d *disk, dc *diskCheck, r segmentRef) (what string, err error) {
	s, err := d.openMap(ctx, r)
	if err == nil {
		s.chart.parts = newParts(partsBudget)
		err = s.chart.verify(ctx)
	}
	if err == nil {
		err = s.chart.known(ctx, dc)
	}
	if err == nil && c.o.ReadData {
		err = c.compareMap(ctx, dc, s)
	}
	if e := (*DamageError)(nil); asDamage(err, &e) {
		return e.What, nil
	}
	return "", err
}

// verify reads all of the map.
func (c *chart) verify(ctx context.Context) error {
	b, err := c.d.v.st.Get(ctx, c.d.keyOf(c.segmentRef), 0, format.HeaderSize)
	if err == nil {
		var salt [format.SaltSize]byte
		if salt, err = format.DecodeMapHeader(b); err == nil && salt != c.salt {
			err = contradiction("header and footer differ")
		}
	}
	if err != nil {
		return damaged(c.d.keyOf(c.segmentRef), err)
	}
	read := func(ctx context.Context, n int) (part, error) {
		if n < len(c.numbers) {
			return c.part(ctx, false, n)
		}
		return c.part(ctx, true, n-len(c.numbers))
	}
	all := make([]int, len(c.numbers)+len(c.groups)-1)
	for i := range all {
		all[i] = i
	}
	return inOrder(ctx, readers, all, read, func(part) error { return nil })
}

// known makes sure that all segments which the map refers to are there.
func (c *chart) known(ctx context.Context, dc *diskCheck) error {
	for n := range c.trailer.Sources {
		s, err := c.source(ctx, n)
		if err != nil {
			return err
		}
		h := dc.history[s.epoch]
		if h == nil || !slices.ContainsFunc(slices.Concat(h.raw[at(h.raw, s.first):], h.folded), s.same) {
			return damaged(c.d.keyOf(c.segmentRef), contradiction("it refers to %s, which is not there", c.d.keyOf(s.segmentRef)))
		}
	}
	return nil
}

// compareMap makes sure that a map says what its segments say, if they are sound.
func (c *checker) compareMap(ctx context.Context, dc *diskCheck, s *segment) error {
	m := s.chart
	line, what := dc.lineage(m.until)
	if what != "" {
		return nil
	}
	of := dc.history[m.epoch].chain(m.last, func(r segmentRef) bool { return line.contains(r.until) })
	of = of[at(of, m.first):]
	if len(of) == 0 || m.d.sumOfKeys(of) != m.sum {
		return nil // it stands for segments that others are about to replace
	}
	for _, r := range of {
		if dc.sound[m.d.keyOf(r)] == nil {
			return nil
		}
	}
	k, err := m.d.gather(ctx, of)
	if err != nil {
		return nil //nolint:nilerr // what is wrong with segments is reported with them
	}
	whole := k.newestFirst()
	w := mapWriter{stack: slices.Concat(whole, stack{m})}
	for _, n := range w.numbers() {
		want, err := whole.placed(ctx, n)
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		got, err := stack{m}.placed(ctx, n)
		if err != nil {
			return err
		}
		if m.first == 1 && s.BaseEpoch == 0 {
			zeros := func(p placed) bool { return p.source == segmentRef{} }
			want, got = slices.DeleteFunc(want, zeros), slices.DeleteFunc(got, zeros)
		}
		if !slices.Equal(got, want) {
			return damaged(s.key, contradiction("of the blocks from %d on it says other than its segments", n*mapPage))
		}
	}
	return nil
}

// placed is a piece that names its frame for good.
type placed struct {
	start, count uint64
	off          uint32
	source       segmentRef // without size and time; zero for zeros
	frame        frameRef   // without source
}

// placed returns the pieces of a page, each as long as it can be.
func (s stack) placed(ctx context.Context, n uint64) (all []placed, err error) {
	m, err := s.merged(ctx, n*mapPage, (n+1)*mapPage)
	if err != nil {
		return nil, err
	}
	for _, p := range m.pieces {
		x := placed{start: p.start(), count: uint64(p.count)}
		if p.frame != zeroFrame {
			f := m.frames[p.frame]
			from, err := s.source(ctx, &f)
			if err != nil {
				return nil, err
			}
			r := from.segmentRef
			x.source = segmentRef{epoch: r.epoch, first: r.first, level: r.level}
			if r.level != levelRaw {
				x.source.last, x.source.until = r.last, r.until
			}
			f.source, f.layer = 0, 0
			x.off, x.frame = p.off(), f
		}
		if k := len(all) - 1; k >= 0 {
			y := &all[k]
			goesOn := y.start+y.count == x.start && y.source == x.source && y.frame == x.frame
			if goesOn && (x.source == segmentRef{} || uint64(y.off)+y.count == uint64(x.off)) {
				y.count += x.count
				continue
			}
		}
		all = append(all, x)
	}
	return all, nil
}

// info describes a map for people.
func (c *chart) info() *MapInfo {
	return &MapInfo{
		Disk: c.d.id.String(), Epoch: c.epoch, First: c.first, Last: c.last, Level: int(c.level - levelMap),
		Until: c.until.String(), Pages: len(c.numbers), Sources: int(c.trailer.Sources), Size: c.trailer.Size,
		Digest: c.trailer.Digest, Hash: fmt.Sprintf("%x", c.trailer.Hash),
	}
}
