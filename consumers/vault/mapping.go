package vault

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/consumers/vault/internal/format"
	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
)

// Maps make opening a disk cost a few reads, whatever its history. Let the segments
// of an epoch be numbered from 1. A map ends at a multiple of mapFan; of level k, at
// one of mapFan^k, and then it begins after a multiple of mapFan^(k+1). So from any
// position, going back, there are less than mapFan segments, then one map of each
// level that there is.
const (
	mapFan   = 16 // as Vault.fan; in tests less
	maxLevel = 9
	// batchPieces is how many pieces the segments may have that are in memory at once
	// while a map is made.
	batchPieces = 1 << 20
	// maxMap is the largest map in bytes: a disk so fragmented is read without one.
	maxMap = 256 << 20
)

// mapRange is what a map stands for: segments from+1 to to of an epoch.
type mapRange struct {
	from, to int
	level    uint8
}

// mapsFor returns the maps that a disk is read with whose newest epoch has n segments,
// oldest first.
func mapsFor(n, fan int) (all []mapRange) {
	for to := n / fan * fan; to > 0; {
		level, step := uint8(1), fan
		for level < maxLevel && to%(step*fan) == 0 {
			level, step = level+1, step*fan
		}
		from := (to - 1) / (step * fan) * (step * fan)
		if level == maxLevel {
			from = 0
		}
		all = append(all, mapRange{from, to, level})
		to = from
	}
	slices.Reverse(all)
	return all
}

// wantedMap is a map and the segments it stands for. Its name follows from theirs
// alone.
type wantedMap struct {
	segmentRef
	of []segmentRef
}

// wantedMaps returns the maps that the kept positions, and the newest of each epoch in
// use, are read with, in an order in which they can be made.
func (t *keepTree) wantedMaps(d *disk) (wanted []wantedMap) {
	have := map[segmentRef]bool{}
	for _, p := range t.tips() {
		l := t.lineage(p)
		for _, b := range l {
			refs := t.h[b.epoch].chain(b.last, func(r segmentRef) bool { return l.contains(r.until) })
			for _, m := range mapsFor(len(refs), d.v.fan) {
				r := d.mapOf(b, refs, m)
				if r.last != 0 && !have[r] {
					have[r] = true
					wanted = append(wanted, wantedMap{r, refs[m.from:m.to]})
				}
			}
		}
	}
	slices.SortStableFunc(wanted, func(a, b wantedMap) int { return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.last, b.last)) })
	return wanted
}

// tips returns the positions that someone may open: those that are kept, and the end
// of each epoch that has young segments.
func (t *keepTree) tips() []Position {
	var all []Position
	for p := range t.kept {
		all = append(all, p)
	}
	for e := range t.fresh {
		refs := t.h[e]
		last := refs.foldedTo()
		if n := len(refs.raw); n > 0 && refs.raw[n-1].first > last {
			last = refs.raw[n-1].first - 1 // where it ends its name does not tell
		}
		if last > 0 {
			all = append(all, Position{e, last})
		}
	}
	slices.SortFunc(all, Position.Compare)
	return all
}

// mapOf returns the name of the map of some segments of a branch; its last is 0 if
// their end cannot be told.
func (d *disk) mapOf(b branch, refs []segmentRef, m mapRange) segmentRef {
	of := refs[m.from:m.to]
	r := segmentRef{epoch: b.epoch, first: of[0].first, level: levelMap + m.level, sum: d.sumOfKeys(of)}
	switch end := of[len(of)-1]; {
	case m.to < len(refs):
		r.last = refs[m.to].first - 1
	case end.level != levelRaw:
		r.last = end.last
	default:
		r.last = b.last
	}
	if r.last < r.first {
		return segmentRef{}
	}
	r.until = r.foldEnd()
	for _, s := range of {
		if s.until.Compare(r.until) > 0 {
			r.until = s.until
		}
	}
	return r
}

// shorter puts maps that are there in the place of what they stand for.
func (m *wantedMap) shorter(d *disk, have []segmentRef) (refs []segmentRef) {
	for rest := m.of; len(rest) > 0; {
		best, n := rest[0], 1
		for _, x := range have {
			i := at(rest, x.last+1)
			if x.first == rest[0].first && x.last < m.last && i > n && (i == len(rest) || rest[i].first == x.last+1) && x.sum == d.sumOfKeys(rest[:i]) {
				best, n = x, i
			}
		}
		refs, rest = append(refs, best), rest[n:]
	}
	return refs
}

// makeMap makes one map of segments and older maps, and returns its size.
func (d *disk) makeMap(ctx context.Context, m wantedMap, have []segmentRef) (int64, error) {
	k, err := d.gather(ctx, m.shorter(d, have))
	if err != nil {
		return 0, err
	}
	if k.first.First != m.first || k.last.Last != m.last {
		return 0, fmt.Errorf("%w: the segments of %s end at %s", errGone, d.keyOf(m.segmentRef), k.last.end())
	}
	w := mapWriter{d: d, ref: m.segmentRef, stack: k.newestFirst(), number: map[frameSource]uint32{}}
	if err := w.write(ctx, k.first, k.last); err != nil {
		return 0, err
	}
	if err := d.v.st.Put(ctx, d.keyOf(m.segmentRef), w.buf); err != nil && !isExists(err) { // whoever made it made it of the same
		return 0, err
	}
	return int64(len(w.buf)), nil
}

// gather reads the indexes of segments that follow each other, and maps among them.
func (d *disk) gather(ctx context.Context, refs []segmentRef) (*mapMaker, error) {
	k := &mapMaker{d: d, parts: newParts(partsBudget)}
	read := func(ctx context.Context, r segmentRef) (*segment, error) {
		if r.isMap() {
			return d.openMap(ctx, r)
		}
		return d.read(ctx, r, partIndex)
	}
	err := inOrder(ctx, readers, refs, read, func(x *segment) error {
		if k.last != nil {
			if err := d.follows(k.last, x); err != nil {
				return err
			}
		}
		return k.add(ctx, x)
	})
	k.flush()
	return k, err
}

// mapMaker gathers what a map is made of.
type mapMaker struct {
	d           *disk
	parts       *cache[partID, part]
	layers      stack // oldest first
	batch       mapBuilder
	pieces      int  // of the batch
	bottom      bool // there is nothing older: zeros need not be told from it
	first, last *segment
}

func (k *mapMaker) add(ctx context.Context, x *segment) error {
	if k.first == nil {
		k.first = x
	}
	k.last = x
	if x.chart != nil {
		k.flush()
		k.push(x.chart)
		return nil
	}
	for i := range x.frames {
		k.pieces += len(x.frames[i].Extents)
	}
	if err := k.batch.add(x); err != nil {
		return err
	}
	if k.pieces > batchPieces {
		return k.shrink(ctx)
	}
	return nil
}

func (k *mapMaker) push(c *chart) {
	c.parts, c.slot = k.parts, len(k.layers)
	k.layers = append(k.layers, c)
}

func (k *mapMaker) flush() {
	if len(k.batch.sources) > 0 {
		k.layers = append(k.layers, k.batch.done(k.bottom && len(k.layers) == 0))
		k.batch, k.pieces = mapBuilder{}, 0
	}
}

// shrink packs the batch into a map of its own, which is kept in memory: a fifth of
// the bytes.
func (k *mapMaker) shrink(ctx context.Context) error {
	w := mapWriter{d: k.d, ref: segmentRef{epoch: k.last.Epoch, first: 1, level: levelMap}, stack: stack{k.batch.done(false)}, number: map[frameSource]uint32{}}
	if err := w.write(ctx, k.first, k.last); err != nil {
		return err
	}
	c := &chart{segmentRef: w.ref, d: k.d, box: w.box, trailer: w.trailer, memory: w.buf}
	if err := c.layout(&w.dir); err != nil {
		return err
	}
	k.push(c)
	k.batch, k.pieces = mapBuilder{}, 0
	return nil
}

func (k *mapMaker) newestFirst() stack {
	slices.Reverse(k.layers)
	return k.layers
}

// frameSource is a segment as a layer of a stack numbers it.
type frameSource struct {
	layer  uint16
	source uint32
}

// mapWriter writes a map page by page.
type mapWriter struct {
	stack
	d       *disk
	ref     segmentRef
	box     *seal.Box
	buf     []byte
	start   int // of the part sealed last
	dir     format.MapDirectory
	number  map[frameSource]uint32
	sources []format.MapSource
	trailer *format.MapTrailer
}

var errTooFragmented = errors.New("the disk is too fragmented for a map")

// write makes the map of links from the first of first to the last of last.
func (w *mapWriter) write(ctx context.Context, first, last *segment) error {
	var salt [format.SaltSize]byte
	rand.Read(salt[:]) // never fails
	w.box = w.d.mapBox(w.ref, salt)
	w.buf = format.AppendMapHeader(nil, salt)
	bottom := first.First == 1 && first.BaseEpoch == 0
	for _, n := range w.numbers() {
		if err := w.page(ctx, n, bottom); err != nil {
			return err
		}
		if len(w.buf) > maxMap {
			return errTooFragmented
		}
	}
	for n, group := range slices.Collect(slices.Chunk(w.sources, format.MapGroup)) {
		w.seal(format.AppendMapSources(nil, group), seal.MapSources, uint64(n))
		w.dir.Sources = append(w.dir.Sources, uint32(w.last()))
	}
	w.trailer = &format.MapTrailer{
		Epoch: last.Epoch, First: first.First, Last: last.Last, Prev: first.Prev, Hash: last.Hash,
		BaseEpoch: first.BaseEpoch, BaseNumber: first.BaseNumber, BaseHash: first.BaseHash, Size: last.Size, Digest: last.Digest,
		Sources: uint32(len(w.sources)), DirOff: uint64(len(w.buf)),
	}
	w.seal(format.AppendMapDirectory(nil, &w.dir, w.d.v.codec), seal.MapDirectory, 0)
	w.trailer.DirLen = uint64(len(w.buf)) - w.trailer.DirOff
	record, err := format.EncodeMapTrailer(w.trailer)
	if err != nil {
		return err
	}
	footer := format.AppendFooter(nil, format.Footer{Salt: salt, Trailer: uint32(len(record) + seal.Overhead)})
	start := len(w.buf)
	w.buf = w.box.SealTail(append(w.buf, record...), start, seal.Trailer, 0, footer)
	w.buf = append(w.buf, footer...)
	return nil
}

// seal appends a part.
func (w *mapWriter) seal(plain []byte, kind seal.Kind, n uint64) {
	w.start = len(w.buf)
	w.buf = w.box.SealTail(append(w.buf, plain...), w.start, kind, n, nil)
}

// last is how many bytes the part has that was sealed last.
func (w *mapWriter) last() int { return len(w.buf) - w.start }

// numbers returns the pages that any layer has.
func (w *mapWriter) numbers() []uint64 {
	var all []uint64
	for _, l := range w.stack {
		l.pages(func(n uint64) { all = append(all, n) })
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (w *mapWriter) page(ctx context.Context, n uint64, bottom bool) error {
	m, err := w.merged(ctx, n*mapPage, (n+1)*mapPage)
	if err != nil {
		return err
	}
	var p format.MapPage
	renamed := map[uint32]uint32{}
	for _, x := range m.pieces {
		y := format.MapPiece{Start: uint32(x.start() - n*mapPage), Count: x.count, Frame: format.NoFrame}
		switch {
		case x.frame == zeroFrame && bottom:
			continue
		case x.frame != zeroFrame:
			id, ok := renamed[x.frame]
			if !ok {
				id = uint32(len(p.Frames))
				renamed[x.frame] = id
				f, err := w.frame(ctx, &m.frames[x.frame])
				if err != nil {
					return err
				}
				p.Frames = append(p.Frames, f)
			}
			y.Frame, y.Off = id, x.off()
		}
		p.Pieces = append(p.Pieces, y)
	}
	if len(p.Pieces) == 0 {
		return nil
	}
	w.seal(format.AppendMapPage(nil, &p, w.d.v.codec), seal.MapPage, n)
	w.dir.Pages = append(w.dir.Pages, format.MapEntry{Number: n, Length: uint32(w.last())})
	return nil
}

// frame returns a frame with the number that its segment has in the new map.
func (w *mapWriter) frame(ctx context.Context, f *frameRef) (format.MapFrame, error) {
	key := frameSource{f.layer, f.source}
	n, ok := w.number[key]
	if !ok {
		s, err := w.source(ctx, f)
		if err != nil {
			return format.MapFrame{}, err
		}
		n = uint32(len(w.sources))
		w.number[key] = n
		x := format.MapSource{Epoch: s.epoch, First: s.first, Level: s.level, Salt: s.salt}
		if s.level != levelRaw {
			x.Last, x.UntilEpoch, x.UntilNumber = s.last, s.until.Epoch, s.until.Number
		}
		w.sources = append(w.sources, x)
	}
	return format.MapFrame{Source: n, Ordinal: f.ordinal, Offset: f.offset, Length: f.length, Blocks: f.blocks, Codec: f.codec}, nil
}

// maps makes the maps of a disk that are wanted and not there.
func (m *maintainer) maps(ctx context.Context, d *disk) error {
	t, err := m.look(ctx, d)
	if err != nil || t == nil {
		return err
	}
	for _, r := range t.wantedMaps(d) {
		have := t.h[r.epoch].maps
		if slices.ContainsFunc(have, r.same) {
			continue
		}
		n, err := d.makeMap(ctx, r, have)
		switch {
		case errors.Is(err, errTooFragmented), errors.Is(err, errGone), errors.Is(err, errMap):
			continue // it is only quicker with it; the next run looks again
		case err != nil:
			return fmt.Errorf("make a map: %w", err)
		}
		r.size = n
		t.h.add(r.segmentRef)
		m.report.Mapped++
		m.report.Written += n
		if err := m.pace(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// staleMaps returns the maps that stand for other segments than there will be.
func (t *keepTree) staleMaps(d *disk) (stale []segmentRef) {
	wanted := t.wantedMaps(d)
	for _, e := range t.h {
		for _, r := range e.maps {
			if !slices.ContainsFunc(wanted, func(w wantedMap) bool { return r.same(w.segmentRef) }) {
				stale = append(stale, r)
			}
		}
	}
	return stale
}
