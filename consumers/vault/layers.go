package vault

import (
	"context"
	"slices"
	"sync"
)

// layer says for some links of a disk where the blocks are that they map.
type layer interface {
	// window returns the pieces that touch the blocks [start, end), ascending, and the
	// frames they refer to. The caller changes neither.
	window(ctx context.Context, start, end uint64) ([]piece, []frameRef, error)
	// source returns a segment that a frame of the layer is in.
	source(ctx context.Context, n uint32) (source, error)
	// pages calls yield with the number of each page of MapPageBlocks blocks that has a
	// piece, ascending.
	pages(yield func(n uint64))
}

// stack is a disk made of layers, newest first.
type stack []layer

// inMemory tells whether looking up needs no store.
func (s stack) inMemory() bool {
	for _, l := range s {
		if _, ok := l.(*blockMap); !ok {
			return false
		}
	}
	return true
}

// window returns where the blocks [start, end) are. Pieces at its edges may reach
// beyond. Of several layers only what is asked for is looked at, so memory depends on
// the window and not on the disk.
func (s stack) window(ctx context.Context, start, end uint64) (*blockMap, error) {
	if len(s) == 1 {
		pieces, frames, err := s[0].window(ctx, start, end)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(pieces, func(p piece) bool { return p.frame == zeroFrame }) {
			pieces = slices.DeleteFunc(slices.Clone(pieces), func(p piece) bool { return p.frame == zeroFrame })
		}
		return &blockMap{pieces: pieces, frames: frames}, nil
	}
	m, err := s.merged(ctx, start, end)
	if err != nil {
		return nil, err
	}
	m.pieces = slices.DeleteFunc(m.pieces, func(p piece) bool { return p.frame == zeroFrame })
	return m, nil
}

// merged is window with the pieces that read as zeros, and clipped.
func (s stack) merged(ctx context.Context, start, end uint64) (*blockMap, error) {
	found, err := s.look(ctx, start, end)
	if err != nil {
		return nil, err
	}
	m := &blockMap{}
	for n, f := range found {
		older := make([]piece, 0, len(f.pieces))
		renamed := map[uint32]uint32{}
		for _, p := range f.pieces {
			p = p.cut(max(p.start(), start), min(p.end(), end))
			if p.frame != zeroFrame {
				id, ok := renamed[p.frame]
				if !ok {
					id = uint32(len(m.frames))
					renamed[p.frame] = id
					ref := f.frames[p.frame]
					ref.layer = uint16(n)
					m.frames = append(m.frames, ref)
				}
				p.frame = id
			}
			older = append(older, p)
		}
		if n == 0 {
			m.pieces = older
		} else {
			m.pieces = overlay(m.pieces, older)
		}
	}
	return m, nil
}

// looked is what a layer has of a window.
type looked struct {
	pieces []piece
	frames []frameRef
}

// look asks all layers at once: one after the other would wait for each of them.
func (s stack) look(ctx context.Context, start, end uint64) ([]looked, error) {
	found, errs := make([]looked, len(s)), make([]error, len(s))
	var wg sync.WaitGroup
	for i := range s {
		ask := func() {
			found[i].pieces, found[i].frames, errs[i] = s[i].window(ctx, start, end)
		}
		if _, ok := s[i].(*blockMap); ok {
			ask() // it is in memory
			continue
		}
		wg.Go(ask)
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// source returns the segment that a frame of a window is in.
func (s stack) source(ctx context.Context, f *frameRef) (source, error) {
	return s[f.layer].source(ctx, f.source)
}

// window implements layer.
func (m *blockMap) window(_ context.Context, start, end uint64) ([]piece, []frameRef, error) {
	from := m.from(start)
	to := from
	if to < len(m.pieces) {
		to += firstFrom(m.pieces[from:], end)
	}
	return m.pieces[from:to:to], m.frames, nil
}

// firstFrom returns the index of the first piece that starts at block or later.
func firstFrom(pieces []piece, block uint64) int {
	i, _ := slices.BinarySearchFunc(pieces, block, func(p piece, b uint64) int {
		if p.start() < b {
			return -1
		}
		return 1
	})
	return i
}

// source implements layer.
func (m *blockMap) source(_ context.Context, n uint32) (source, error) { return m.sources[n], nil }

// pages implements layer.
func (m *blockMap) pages(yield func(n uint64)) {
	next := uint64(0)
	for _, p := range m.pieces {
		for n := max(next, p.start()/mapPage); n <= (p.end()-1)/mapPage; n++ {
			yield(n)
			next = n + 1
		}
	}
}
