package scan

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/leeward-dr/leeward/streams/wire"
)

// Table holds a sum for each block of a disk; all zero, which is the sum of a zero
// block, at first. Its memory is outside Go's heap, so that gigabytes of sums do
// not make the collector generous, and stays untouched where blocks are zero. With a
// directory it is a nameless file there: what was looked at long ago need not stay in
// memory. Its methods may be called by many goroutines, but for Close: while a disk is
// compared, one says what the vault holds and another what is sent.
type Table struct {
	mu      sync.Mutex // guards all of it
	mem     []byte
	sums    []wire.Sum
	touched []uint64 // a bit for each segment that holds a sum that is not zero
	file    bool
	used    uint64 // blocks looked at since the memory of the file was last given back
}

// segmentBlocks share a bit of Table.touched: 128 MiB of disk, 512 KiB of sums.
const segmentBlocks = 32 << 10

// keepBlocks are looked at before a table in a file gives its memory back: 32 MiB of
// sums, 8 GiB of disk.
const keepBlocks = 2 << 20

// NewTable makes a table for so many blocks, in a nameless file in dir, or in memory
// if dir is empty. dir must not be on the disk that the table is of.
func NewTable(blocks uint64, dir string) (*Table, error) {
	const size = uint64(unsafe.Sizeof(wire.Sum{}))
	if blocks == 0 || blocks > 1<<62/size {
		return nil, fmt.Errorf("a table of %d blocks cannot be", blocks)
	}
	mem, err := reserve(int(blocks*size), dir)
	if err != nil {
		return nil, fmt.Errorf("reserve %d MiB for block sums: %w", blocks*size>>20, err)
	}
	return &Table{
		mem: mem, sums: unsafe.Slice((*wire.Sum)(unsafe.Pointer(unsafe.SliceData(mem))), blocks), file: dir != "",
		touched: make([]uint64, blocks/segmentBlocks/64+1),
	}, nil
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

// update stores sums and calls differ with each run of blocks that had others. A run
// ends with its segment.
func (t *Table) update(start uint64, sums []wire.Sum, differ func(start, count uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(sums) > 0 {
		n := int(min(segmentBlocks-start%segmentBlocks, uint64(len(sums))))
		t.updateSegment(start, sums[:n], differ)
		start += uint64(n)
		sums = sums[n:]
	}
}

func (t *Table) updateSegment(start uint64, sums []wire.Sum, differ func(start, count uint64)) {
	word, bit := start/segmentBlocks/64, uint64(1)<<(start/segmentBlocks%64)
	if t.touched[word]&bit == 0 {
		if allZero(sums) {
			return // as it was: memory that was never written to is not even looked at
		}
		t.touched[word] |= bit
	}
	have := t.sums[start:][:len(sums)]
	for i, n := range runs(have, sums) {
		copy(have[i:i+n], sums[i:i+n])
		if differ != nil {
			differ(start+uint64(i), uint64(n))
		}
	}
	if t.used += uint64(len(sums)); t.file && t.used >= keepBlocks {
		t.used = 0
		forget(t.mem)
	}
}

func allZero(sums []wire.Sum) bool {
	if len(sums) > 0 && len(sums) <= len(noSums) && &sums[0] == &noSums[0] {
		return true // of a hole
	}
	for i := range sums {
		if sums[i] != (wire.Sum{}) {
			return false
		}
	}
	return true
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
