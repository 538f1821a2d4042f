package scan

import (
	"fmt"
	"unsafe"

	"github.com/leeward-dr/leeward/streams/wire"
)

// Table holds a sum for each block of a disk; all zero, which is the sum of a zero
// block, at first. Its memory is outside Go's heap, so that gigabytes of sums do
// not make the collector generous, and stays untouched where blocks are zero.
type Table struct {
	mem  []byte
	sums []wire.Sum
}

// NewTable makes a table for so many blocks.
func NewTable(blocks uint64) (*Table, error) {
	const size = uint64(unsafe.Sizeof(wire.Sum{}))
	if blocks == 0 || blocks > 1<<62/size {
		return nil, fmt.Errorf("a table of %d blocks cannot be", blocks)
	}
	mem, err := reserve(int(blocks * size))
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB for block sums: %w", blocks*size>>20, err)
	}
	return &Table{mem, unsafe.Slice((*wire.Sum)(unsafe.Pointer(unsafe.SliceData(mem))), blocks)}, nil
}

// Blocks is the number of blocks.
func (t *Table) Blocks() uint64 { return uint64(len(t.sums)) }

// Seed says what blocks start, start+1, … hold.
func (t *Table) Seed(start uint64, sums []wire.Sum) error {
	if err := fits(start, len(sums), t.Blocks()); err != nil {
		return err
	}
	t.update(start, sums, nil)
	return nil
}

// update stores sums and calls differ with each run of blocks that had others.
func (t *Table) update(start uint64, sums []wire.Sum, differ func(start, count uint64)) {
	have := t.sums[start:][:len(sums)]
	for i, n := range runs(have, sums) {
		copy(have[i:i+n], sums[i:i+n])
		if differ != nil {
			differ(start+uint64(i), uint64(n))
		}
	}
}

// runs yields where a and b, of one length, differ: index and length.
func runs(a, b []wire.Sum) func(yield func(int, int) bool) {
	return func(yield func(int, int) bool) {
		for i := 0; i < len(a); {
			if a[i] == b[i] {
				i++
				continue
			}
			from := i
			for i < len(a) && a[i] != b[i] {
				i++
			}
			if !yield(from, i-from) {
				return
			}
		}
	}
}

// Close gives the memory back; the table must not be used any more.
func (t *Table) Close() error {
	mem := t.mem
	t.mem, t.sums = nil, nil
	return release(mem)
}
