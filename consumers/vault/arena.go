package vault

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// Sums of a disk beyond heapPages pages are kept in a file without a name instead of
// the heap: a full disk of 1 TiB has 4 GiB of them, of which a writer touches few.
const (
	heapPages  = 4 << 10 // of 4 KiB, each for 1 MiB of the disk
	chunkPages = 8 << 10 // that the file grows by
	pageBytes  = pageBlocks * sumSize
)

// sumPage is what a page of a table has.
type sumPage = [pageBlocks]Sum

// arena hands out pages: from the heap at first, then from a file. The file lies in
// TMPDIR, has no name, and is gone when the process ends, however it ends. It is
// reserved before it is used, so a full disk cannot kill the process; then, or where
// there is no such file, the heap serves.
type arena struct {
	limit  int // pages on the heap
	onHeap int
	file   *os.File
	size   int64
	chunks [][]byte
	free   []*sumPage // of the file
	failed bool       // the file cannot grow
}

func newArena(limit int) *arena {
	return &arena{limit: limit}
}

// page returns a page of zero sums.
func (a *arena) page() *sumPage {
	if a.onHeap >= a.limit {
		if p := a.fromFile(); p != nil {
			return p
		}
	}
	a.onHeap++
	return new(sumPage)
}

func (a *arena) fromFile() *sumPage {
	if len(a.free) == 0 && !a.failed {
		a.failed = a.grow() != nil
	}
	if len(a.free) == 0 {
		return nil
	}
	p := a.free[len(a.free)-1]
	a.free = a.free[:len(a.free)-1]
	clear(p[:])
	return p
}

// release takes a page back.
func (a *arena) release(p *sumPage) {
	if a.holds(p) {
		a.free = append(a.free, p)
		return
	}
	a.onHeap--
}

func (a *arena) holds(p *sumPage) bool {
	at := uintptr(unsafe.Pointer(p))
	for _, c := range a.chunks {
		if from := uintptr(unsafe.Pointer(&c[0])); at >= from && at < from+uintptr(len(c)) {
			return true
		}
	}
	return false
}

func (a *arena) grow() error {
	if a.file == nil {
		f, err := os.CreateTemp("", "leeward-sums-*")
		if err != nil {
			return fmt.Errorf("make a file for sums: %w", err)
		}
		if err := os.Remove(f.Name()); err != nil {
			f.Close()
			return fmt.Errorf("make a file for sums: %w", err)
		}
		a.file = f
	}
	n := chunkPages * pageBytes
	if err := syscall.Fallocate(int(a.file.Fd()), 0, a.size, int64(n)); err != nil {
		return fmt.Errorf("reserve room for sums: %w", err)
	}
	c, err := syscall.Mmap(int(a.file.Fd()), a.size, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a file for sums: %w", err)
	}
	a.size += int64(n)
	a.chunks = append(a.chunks, c)
	for off := n - pageBytes; off >= 0; off -= pageBytes {
		a.free = append(a.free, (*sumPage)(unsafe.Pointer(&c[off])))
	}
	return nil
}

// closeWith lets the file go when owner, the only one who uses the pages, is garbage.
func (a *arena) closeWith(owner *table) {
	runtime.AddCleanup(owner, func(a *arena) {
		for _, c := range a.chunks {
			_ = syscall.Munmap(c)
		}
		if a.file != nil {
			a.file.Close()
		}
	}, a)
}
