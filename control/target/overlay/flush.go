package overlay

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// flusher is the state of Flush.
type flusher struct {
	mu     sync.Mutex // held while one goes on
	failed error      // no more promises

	count struct {
		sync.Mutex
		begun, done uint64
	}
	pages file // the map, nil before there is one
	made  bool // that there is a data file is durable
}

// Flush returns when all that was written before it was called is on stable storage,
// see the package's comment. Several at once share the work.
func (o *Overlay) Flush() error {
	f := &o.flusher
	f.count.Lock()
	ticket := f.count.begun + 1 // one that begins from now on will do
	f.count.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count.Lock()
	if f.count.done >= ticket {
		f.count.Unlock()
		return f.failed
	}
	f.count.begun++
	mine := f.count.begun
	f.count.Unlock()
	if f.failed == nil {
		if err := o.flush(); err != nil {
			f.failed = fmt.Errorf("the overlay %s does not keep what the machine writes any more: %w: make room or replace the disk there, then bring the machine up again", o.path, err)
		}
	}
	f.count.Lock()
	f.count.done = mine
	f.count.Unlock()
	return f.failed
}

// flush does it: the data first, then what says that it is there. What is written to
// meanwhile is in a later one.
func (o *Overlay) flush() error {
	o.mu.Lock()
	dirty := o.states.takeDirty()
	leaves := make([]byte, 0, len(dirty)*leafSize)
	for _, at := range dirty {
		leaves = o.states.leaves[at].encode(leaves)
	}
	data := o.file
	o.mu.Unlock()

	if data != nil && o.unsynced.Swap(false) {
		if err := data.sync(); err != nil {
			return fmt.Errorf("data: %w", err)
		}
	}
	if len(dirty) == 0 {
		return nil
	}
	f := &o.flusher
	if data != nil && !f.made {
		if err := o.files.settle(o.path); err != nil {
			return err
		}
		f.made = true
	}
	if f.pages == nil {
		m, err := o.files.put(o.mapPath(), mapSize(o.size), o.header().encode())
		if err != nil {
			return fmt.Errorf("make the map: %w", err)
		}
		f.pages = m
	}
	for len(dirty) > 0 {
		n := 1 // leaves that lie side by side
		for n < len(dirty) && dirty[n] == dirty[0]+int64(n) {
			n++
		}
		if _, err := f.pages.WriteAt(leaves[:n*leafSize], headerSize+dirty[0]*leafSize); err != nil {
			return fmt.Errorf("map: %w", err)
		}
		dirty, leaves = dirty[n:], leaves[n*leafSize:]
	}
	if err := f.pages.sync(); err != nil {
		return fmt.Errorf("map: %w", err)
	}
	return nil
}

func (o *Overlay) mapPath() string { return o.path + ".map" }

// header binds the map to its base, if that has a digest.
func (o *Overlay) header() *header {
	h := &header{size: o.size}
	if d, ok := o.base.(interface{ Digest() [32]byte }); ok {
		h.bound, h.digest = true, d.Digest()
	}
	return h
}

// reopen takes over what an earlier process has flushed, if it has.
func (o *Overlay) reopen() error {
	there, err := o.files.exists(o.mapPath())
	if err != nil {
		return err
	}
	if !there {
		// Nothing was promised. What the file holds nobody can tell any more.
		if there, err = o.files.exists(o.path); there && err == nil {
			err = o.files.remove(o.path)
		}
		return err
	}
	m, err := o.files.open(o.mapPath())
	if err != nil {
		return err
	}
	o.flusher.pages = m
	written, err := o.loadMap(m)
	if err != nil {
		return fmt.Errorf("map %s: %w", o.mapPath(), err)
	}
	f, err := o.files.open(o.path)
	switch {
	case err == nil:
		o.file, o.flusher.made = f, true
	case written:
		return fmt.Errorf("the data that %s tells of: %w", o.mapPath(), err)
	default:
		// It was zeroed only. A file without a name that lasts is none.
		if there, err2 := o.files.exists(o.path); there || err2 != nil {
			return err
		}
	}
	return nil
}

// loadMap reads the map; written says whether there must be a data file.
func (o *Overlay) loadMap(m file) (written bool, err error) {
	b := make([]byte, headerSize)
	if _, err := m.ReadAt(b, 0); err != nil {
		return false, short(err)
	}
	h, err := parseHeader(b)
	if err != nil {
		return false, err
	}
	want := o.header()
	switch {
	case h.size != want.size:
		return false, fmt.Errorf("it is of a disk of %d bytes, this one has %d", h.size, want.size)
	case h.bound && want.bound && h.digest != want.digest:
		return false, errors.New("it is over another recovery point: over this one it would make a disk that never was")
	}
	const step = 256 // leaves at once
	buf := make([]byte, step*leafSize)
	for at := int64(0); at < int64(len(o.states.leaves)); at += step {
		part := buf[:min(step, int64(len(o.states.leaves))-at)*leafSize]
		if _, err := m.ReadAt(part, headerSize+at*leafSize); err != nil {
			return false, short(err)
		}
		for i := int64(0); len(part) > 0; i++ {
			if err := checkLeaf(part[:leafSize], o.states.pages-(at+i)*leafPages); err != nil {
				return false, fmt.Errorf("leaf %d is damaged: %w", at+i, err)
			}
			written = o.states.load(at+i, part[:leafSize]) || written
			part = part[leafSize:]
		}
	}
	return written, nil
}

// short makes of an end that comes too early an error.
func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// takeDirty returns the leaves that changed since it was called last, ascending.
func (s *states) takeDirty() []int64 {
	all := make([]int64, 0, len(s.dirty))
	for at := range s.dirty {
		all = append(all, at)
	}
	clear(s.dirty)
	slices.Sort(all)
	return all
}
