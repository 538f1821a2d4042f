package overlay

import "fmt"

// Fill brings what is still read from the base, of length bytes at off, into the data file,
// where it is as if it had been written there with the same content. It returns how many
// bytes it brought. Flush makes that last.
func (o *Overlay) Fill(off, length int64) (filled int64, err error) {
	if err := o.check(off, length); err != nil {
		return 0, err
	}
	end := off + length
	off -= off % PageSize
	var buf []byte
	for off < end {
		piece := min(end, off+stripeSize-off%stripeSize)
		st, next, _ := o.run(off, piece)
		next = min((next+PageSize-1)/PageSize*PageSize, o.size) // whole pages
		if st == isBase {
			if buf == nil {
				buf = make([]byte, stripeSize)
			}
			// Read before the lock: it may take as long as the store likes.
			if err := o.readBase(buf[:next-off], off); err != nil {
				return filled, err
			}
			n, err := o.settle(buf[:next-off], off)
			filled += n
			if err != nil {
				return filled, err
			}
		}
		off = next
	}
	return filled, nil
}

// settle puts into the data file those pages of p, which lie in one stripe, that are still
// read from the base.
func (o *Overlay) settle(p []byte, off int64) (n int64, err error) {
	defer o.lock(off)()
	file, err := o.data()
	if err != nil {
		return 0, err
	}
	end := off + int64(len(p))
	for at := off; at < end; {
		st, next, _ := o.run(at, end)
		if st == isBase {
			if _, err := file.WriteAt(p[at-off:next-off], at); err != nil {
				return n, fmt.Errorf("write overlay: %w", err)
			}
			o.unsynced.Store(true)
			o.keep(at, next)
			n += next - at
		}
		at = next
	}
	return n, nil
}

// keep marks pages as written, which nobody has changed.
func (o *Overlay) keep(off, end int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	first := off / PageSize
	o.states.set(first, pages(end)-first, isWritten)
}

// Missing returns how many of length bytes at off, which lie in the disk, are read from the
// base.
func (o *Overlay) Missing(off, length int64) (n int64) {
	for end := min(off+length, o.size); off < end; {
		st, next, _ := o.run(off, end)
		if st == isBase {
			n += next - off
		}
		off = next
	}
	return n
}
