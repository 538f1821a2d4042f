package trace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture"
)

// ErrInUse means that another process follows the disk with the same kept record.
var ErrInUse = errors.New("another process works on this kept record")

// lockWithin is how long the lock of a dead agent may outlive it: a child between
// fork and exec has it too.
const lockWithin = time.Second

// record is a kept record in memory.
type record struct {
	path string
	f    *os.File // locked
	mem  []byte   // mapped; nil before there is one
	live []uint64 // the first words of mem
	cpus []uint64 // two words each: events read, and the loss counter to start from
	maps [2][]uint64
	box  []byte
	head head

	cur    int // map that is marked in
	sealed *capture.Mark
}

// lockRecord opens and locks the file of a record. Whoever has the lock is the only
// one to work on the record and on its tracing instance.
func lockRecord(path string) (*record, error) {
	for end := time.Now().Add(lockWithin); ; time.Sleep(10 * time.Millisecond) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the kept record: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && samePlace(f, path) {
			return &record{path: path, f: f}, nil
		}
		_ = f.Close()
		// Removed by another process between opening and locking: open the new one.
		if err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%s: %w", path, ErrInUse)
		}
	}
}

// samePlace says whether path still leads to the open file.
func samePlace(f *os.File, path string) bool {
	here, err := os.Stat(path)
	if err != nil {
		return false
	}
	open, err := f.Stat()
	return err == nil && os.SameFile(here, open)
}

// load maps what an earlier process left and reads its head.
func (r *record) load() error {
	fi, err := r.f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		return errors.New("nothing was kept: the first start, or the machine was started anew")
	}
	var first [4096]byte
	if _, err := r.f.ReadAt(first[:], 0); err != nil {
		return fmt.Errorf("read the kept record: %w", err)
	}
	h, err := decodeHead(first[headAt:])
	if err != nil {
		return err
	}
	blocks := blocksOf(h.Size)
	if h.shape(blocks).size != int(fi.Size()) {
		return errors.New("the kept record is cut short")
	}
	if err := r.attach(h, blocks); err != nil {
		return err
	}
	if r.live[wordMagic] != recordMagic {
		return errors.New("the kept record was not finished")
	}
	return nil
}

// create makes a record for h, void.
func (r *record) create(h head, blocks uint64) error {
	r.detach()
	b, err := h.encode()
	if err != nil {
		return err
	}
	size := h.shape(blocks).size
	// All its memory is taken at once: what is only found missing at a store would kill
	// the process.
	err = errors.Join(r.f.Truncate(0), unix.Fallocate(int(r.f.Fd()), 0, 0, int64(size)))
	if err != nil {
		return fmt.Errorf("make room for %d bytes in %s: %w", size, r.path, err)
	}
	if err := r.attach(h, blocks); err != nil {
		return err
	}
	copy(r.mem[headAt:4096], b)
	r.set(wordMagic, recordMagic)
	return nil
}

// grow makes the record anew for a larger disk; kept is what is marked, and everything
// from block added on is marked too. If we die inside, nothing is kept.
func (r *record) grow(h head, kept *capture.Set, added uint64) error {
	live, cpus := slices.Clone(r.live), slices.Clone(r.cpus)
	if err := r.create(h, blocksOf(h.Size)); err != nil {
		return err
	}
	r.set(wordMagic, 0)
	copy(r.live[wordMagic+1:], live[wordMagic+1:])
	copy(r.cpus, cpus)
	for start, count := range kept.Ranges() {
		r.add(start, count)
	}
	r.add(added, blocksOf(h.Size)-added)
	r.set(wordMagic, recordMagic)
	return nil
}

func (r *record) attach(h head, blocks uint64) error {
	s := h.shape(blocks)
	mem, err := unix.Mmap(int(r.f.Fd()), 0, s.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the kept record: %w", err)
	}
	// Best effort: a page of the ring must land there even when we are being killed.
	_ = unix.Mlock(mem[:s.map1])
	words := func(b []byte) []uint64 { return unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), len(b)/8) }
	r.mem, r.head = mem, h
	r.live, r.cpus = words(mem[:headAt]), words(mem[s.cpus:s.map1])
	r.maps = [2][]uint64{words(mem[s.map1:s.map2]), words(mem[s.map2:s.size])}
	r.box = mem[s.inbox : s.inbox+h.PageSize]
	r.cur, r.sealed = 0, nil
	return nil
}

func (r *record) detach() {
	if r.mem != nil {
		_ = unix.Munmap(r.mem)
	}
	r.mem, r.live, r.cpus, r.box, r.maps = nil, nil, nil, nil, [2][]uint64{}
}

// close gives the record back and leaves it to the next process.
func (r *record) close() {
	r.detach()
	_ = r.f.Close()
}

// remove takes the record away, still locked.
func (r *record) remove() error {
	err := os.Remove(r.path)
	r.close()
	return err
}

func (r *record) set(word int, v uint64) { atomic.StoreUint64(&r.live[word], v) }

// reading says that the next page of a CPU's ring goes into the inbox.
func (r *record) reading(cpu int, header int) {
	clear(r.box[:header]) // an old page must not be taken for the new one
	r.set(wordPhase, uint64(cpu)<<2|phaseReading)
}

// idle says that the inbox holds nothing.
func (r *record) idle() { r.set(wordPhase, 0) }

// commit adds the sums of the page in the inbox, whose blocks are marked. If we die
// inside, the next process does the rest.
func (r *record) commit(cpu int, records uint64, of sums) {
	r.live[wordRedoRecords] = r.cpus[2*cpu] + records
	r.live[wordRedoSeen] = r.live[wordSeen] + of.written
	r.live[wordRedoDiscarded] = r.live[wordDiscarded] + of.discarded
	r.live[wordRedoQueued] = r.live[wordQueued] + of.queued
	r.set(wordPhase, uint64(cpu)<<2|phaseRedo)
	r.redo(cpu)
}

func (r *record) redo(cpu int) {
	r.cpus[2*cpu] = r.live[wordRedoRecords]
	r.live[wordSeen] = r.live[wordRedoSeen]
	r.live[wordDiscarded] = r.live[wordRedoDiscarded]
	r.live[wordQueued] = r.live[wordRedoQueued]
	r.idle()
}

// add marks blocks.
func (r *record) add(start, count uint64) {
	m := r.maps[r.cur]
	b, last := start/r.head.Granule, (start+count-1)/r.head.Granule
	for b <= last {
		n := min(64-b%64, last-b+1)
		m[b/64] |= (^uint64(0) >> (64 - n)) << (b % 64)
		b += n
	}
}

// kept is everything that is marked, cut at the end of the disk.
func (r *record) kept(blocks uint64) *capture.Set {
	set := new(capture.Set)
	g := r.head.Granule
	for i := range r.maps[0] {
		for w, b := r.maps[0][i]|r.maps[1][i], uint64(0); w>>b != 0 && b < 64; b++ {
			if at := (uint64(i)*64 + b) * g; w>>b&1 == 1 && at < blocks {
				set.Add(at, min(g, blocks-at))
			}
		}
	}
	return set
}

// unseal puts what waits for a receipt back among what is kept.
func (r *record) unseal() {
	closed := r.maps[1-r.cur]
	for i, w := range closed {
		r.maps[r.cur][i] |= w
	}
	clear(closed)
	r.sealed = nil
}

// seal closes the map: all in it is in the chain up to m, but for pending.
func (r *record) seal(m capture.Mark, pending *capture.Set) {
	if r.sealed != nil {
		return // one at a time: this one's blocks are kept a little longer
	}
	r.cur = 1 - r.cur
	for start, count := range pending.Ranges() {
		r.add(start, count)
	}
	r.sealed = &m
}

// confirm forgets the closed map if the vault holds all of it.
func (r *record) confirm(m capture.Mark) {
	if s := r.sealed; s == nil || m.Epoch != s.Epoch || m.Number < s.Number {
		return
	}
	place := uint64(1)
	if r.live[wordMark] == 1 {
		place = 2
	}
	at := wordMark1 + 2*(place-1)
	r.live[at], r.live[at+1] = r.sealed.Epoch, r.sealed.Number
	r.set(wordMark, place)
	clear(r.maps[1-r.cur])
	r.sealed = nil
}

// seen is what all events so far add up to.
func (r *record) seen() sums {
	return sums{r.live[wordSeen], r.live[wordDiscarded], r.live[wordQueued]}
}

// mark is what the vault has confirmed, false if nothing is certain.
func (r *record) mark() (capture.Mark, bool) {
	place := r.live[wordMark]
	if place != 1 && place != 2 {
		return capture.Mark{}, false
	}
	at := wordMark1 + 2*(place-1)
	return capture.Mark{Epoch: r.live[at], Number: r.live[at+1]}, true
}

// void says that nothing is certain.
func (r *record) void() {
	r.set(wordMark, 0)
	r.unseal()
}

// opening notes an epoch that is about to be opened.
func (r *record) opening(epoch uint64) {
	if epoch != r.live[wordLast]+1 {
		r.set(wordSince, epoch) // epochs between are somebody else's
	}
	r.set(wordLast, epoch)
	r.unseal()
}

// recordPath is where the record of a device is.
func recordPath(dir string, major, minor uint32) string {
	return filepath.Join(dir, fmt.Sprintf("trace-%d-%d.kept", major, minor))
}
