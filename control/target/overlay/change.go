package overlay

import "fmt"

// WriteAt writes p at off, which lie in the disk.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := o.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		n := min(int64(len(p)-done), stripeSize-at%stripeSize)
		if err := o.writePiece(p[done:done+int(n)], at); err != nil {
			return done, err
		}
		done += int(n)
	}
	o.written.Add(int64(done))
	return done, nil
}

// Trim discards bytes, which then read as zeros.
func (o *Overlay) Trim(off, length int64) error { return o.WriteZeroes(off, length) }

// WriteZeroes makes length bytes at off, which lie in the disk, zeros.
func (o *Overlay) WriteZeroes(off, length int64) error {
	if err := o.check(off, length); err != nil {
		return err
	}
	for length > 0 {
		n := min(length, stripeSize-off%stripeSize)
		if err := o.zeroPiece(off, n); err != nil {
			return err
		}
		off += n
		length -= n
	}
	return nil
}

func (o *Overlay) lock(off int64) (unlock func()) {
	m := &o.change[off/stripeSize%stripes]
	m.Lock()
	return m.Unlock
}

// whole returns the range of pages that [off, end) covers entirely; the disk's short
// last page counts as covered when its bytes are.
func (o *Overlay) whole(off, end int64) (first, last int64) {
	first, last = pages(off), end/PageSize
	if end == o.size {
		last = pages(end)
	}
	return first, max(first, last)
}

// writePiece writes within one stripe.
func (o *Overlay) writePiece(p []byte, off int64) error {
	defer o.lock(off)()
	end := off + int64(len(p))
	file, err := o.data()
	if err != nil {
		return err
	}
	first, last := o.whole(off, end)
	if page := off / PageSize; page < first {
		if err := o.fill(file, page); err != nil {
			return err
		}
	}
	if page := (end - 1) / PageSize; page >= last && page >= first {
		if err := o.fill(file, page); err != nil {
			return err
		}
	}
	if _, err := file.WriteAt(p, off); err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	o.unsynced.Store(true) // before the mark: what is marked is flushed
	o.mark(off, end, isWritten)
	return nil
}

// mark gives every page that [off, end) touches the state to.
func (o *Overlay) mark(off, end int64, to state) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := off / PageSize
	o.states.set(first, pages(end)-first, to)
	if o.recent != nil {
		o.recent.add(first, pages(end)-first)
	}
}

// fill brings a page into the data file unless it is there. Its state stays: readers
// go on reading the base until the write that needed it is done.
func (o *Overlay) fill(file file, page int64) error {
	off := page * PageSize
	end := min(off+PageSize, o.size)
	st, _, _ := o.run(off, end)
	if st == isWritten {
		return nil
	}
	buf := make([]byte, end-off)
	if st == isBase {
		if err := o.readBase(buf, off); err != nil {
			return err
		}
	}
	if _, err := file.WriteAt(buf, off); err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	return nil
}

// zeroPiece zeros within one stripe.
func (o *Overlay) zeroPiece(off, length int64) error {
	end := off + length
	first, last := o.whole(off, end)
	if head := min(first*PageSize, end); off < head {
		if err := o.zeroPart(off, head); err != nil {
			return err
		}
		off = head
	}
	if tail := max(last*PageSize, off); tail < end {
		if err := o.zeroPart(tail, end); err != nil {
			return err
		}
		end = tail
	}
	if off >= end {
		return nil
	}
	defer o.lock(off)()
	for off < end {
		st, next, file := o.run(off, end)
		if st == isWritten {
			// Gives the space back where the file system can; no harm where not.
			_ = file.punch(off, next-off)
		}
		if st == isBase || st == isWritten {
			o.mark(off, next, isZeroed)
		}
		off = next
	}
	return nil
}

// zeroPart zeros part of a page; what reads as zeros is left alone.
func (o *Overlay) zeroPart(off, end int64) error {
	if st, _, _ := o.run(off, end); st == isHole || st == isZeroed {
		return nil
	}
	return o.writePiece(make([]byte, end-off), off)
}

// data returns the data file, made at the first call.
func (o *Overlay) data() (file, error) {
	o.mu.RLock()
	file := o.file
	o.mu.RUnlock()
	if file != nil {
		return file, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file != nil {
		return o.file, nil
	}
	file, err := o.files.make(o.path, o.size)
	if err != nil {
		return nil, fmt.Errorf("make overlay: %w", err)
	}
	o.file = file
	return file, nil
}
