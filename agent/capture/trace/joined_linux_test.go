package trace_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

const (
	guestDisk  = 64 * mib
	partAt     = 32 * mib // where its partition begins
	discarders = 24
)

// TestGuest is what runs in the guest of TestJoinedDiscards.
func TestGuest(t *testing.T) {
	if os.Getenv(guestMark) == "" {
		t.Skip("runs in the guest of TestJoinedDiscards only")
	}
	big, small := "/dev/nvme0n1", "/dev/nvme1n1"
	if open(t, big).Size() != guestDisk {
		big, small = small, big
	}
	partitioned(t, big)
	t.Run("contract", func(t *testing.T) { conforms(t, func(*testing.T) string { return small }) })
	t.Run("joined", func(t *testing.T) { joinedWhileCopied(t, big) })
	t.Run("agent down", func(t *testing.T) { joinedWhileDown(t, big) })
}

// Discards of a disk and of its partition are followed from being handed over to being
// done; one that nobody was seen to hand over is a loss.
func TestHandedOver(t *testing.T) {
	disktest.NeedRoot(t, "blkdiscard", "sfdisk")
	path := disktest.Loop(t, 16*mib)
	part := disktest.Partition(t, path, 2)[1]
	r := &rig{T: t, dev: open(t, path), out: writer(t, path)}
	var err error
	if r.src, err = trace.New(r.dev, trace.Options{Name: "handed", Keep: t.TempDir()}); err == nil {
		err = errors.Join(r.src.AsIfJoined(), r.src.Start(context.Background()))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		r.src.Discard()
		if err := r.src.Close(); err != nil {
			t.Error(err)
		}
	}()
	begin, err := os.ReadFile("/sys/class/block/" + filepath.Base(part) + "/start")
	if err != nil {
		t.Fatal(err)
	}
	first, err := strconv.ParseUint(strings.TrimSpace(string(begin)), 10, 64)
	if err != nil || first%8 != 0 {
		t.Fatalf("the partition begins at %q", begin)
	}
	discard := func(on string, at, n int) {
		t.Helper()
		disktest.Run(t, "blkdiscard", "-o", strconv.Itoa(at*4096), "-l", strconv.Itoa(n*4096), on)
	}
	discard(path, 40, 2)
	discard(part, 3, 1)
	r.write(5*4096, 4096)
	settles(t, r.src)
	r.takes(5, 40, 41, first/8+3)
	r.takes()
	if err := r.audit(); err != nil {
		t.Fatal(err)
	}
	dirs, _ := filepath.Glob(filepath.Join(trace.DefaultRoot, fmt.Sprintf("instances/leeward-kept_*_%d_%d_q*", r.dev.Major(), r.dev.Minor())))
	if len(dirs) != 1 {
		t.Fatalf("instances %v", dirs)
	}
	r.dir = dirs[0]
	r.tune("events/block/block_bio_queue/filter", "nr_sector == 0")
	discard(path, 50, 1)
	r.tune("events/block/block_bio_queue/filter", `rwbs ~ "D*"`)
	_, err = r.src.Take(context.Background())
	r.lost(err, "hand over")
	discard(part, 7, 1)
	settles(t, r.src)
	r.takes(first/8 + 7)
}

// partitioned makes a table with one partition from partAt to the end.
func partitioned(t *testing.T, path string) {
	t.Helper()
	b := disk.AlignedBuffer(4096)
	clear(b)
	e := b[446:]
	e[4] = 0x83
	binary.LittleEndian.PutUint32(e[8:], partAt/512)
	binary.LittleEndian.PutUint32(e[12:], (guestDisk-partAt)/512)
	b[510], b[511] = 0x55, 0xaa
	if _, err := writer(t, path).WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.IoctlRetInt(int(f.Fd()), unix.BLKRRPART); err != nil {
		t.Fatal(err)
	}
	disktest.Eventually(t, waitLong, "the partition", func() bool { _, err := os.Stat(path + "p1"); return err == nil })
}

// filled writes something that is not zero everywhere behind the table.
func filled(t *testing.T, path string) {
	t.Helper()
	out, b := writer(t, path), disk.AlignedBuffer(mib)
	for i := range b {
		b[i] = 0xa5
	}
	for at := int64(mib); at < guestDisk; at += mib {
		if _, err := out.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
}

// discard discards pieces all over the disk, many at a time, half of them through its
// partition, and says how many requests the kernel joined.
func discard(t *testing.T, path string, each int) (joined uint64) {
	t.Helper()
	before := merges(t, path)
	dev, stop := open(t, path), make(chan struct{})
	var slow sync.WaitGroup
	slow.Go(func() { // what the discards wait behind
		for b := disk.AlignedBuffer(capture.BlockSize); ; {
			select {
			case <-stop:
				return
			default:
				if err := dev.ReadBlocks(context.Background(), 0, b); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var wg sync.WaitGroup
	for g := range discarders {
		wg.Go(func() {
			name, base, size := path, int64(mib), int64(partAt-mib)
			if g%2 == 1 {
				name, base, size = path+"p1", 0, guestDisk-partAt
			}
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rnd := rand.New(rand.NewPCG(rand.Uint64(), uint64(g)))
			for range each {
				where := [2]uint64{uint64(base + rnd.Int64N(size/(64<<10))*(64<<10)), 32 << 10}
				if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&where))); e != 0 {
					t.Errorf("discard: %v", e)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	slow.Wait()
	return merges(t, path) - before
}

// merges is how many discards the kernel joined with others so far.
func merges(t *testing.T, path string) uint64 {
	t.Helper()
	b, err := os.ReadFile("/sys/block/" + strings.TrimPrefix(path, "/dev/") + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(strings.Fields(string(b))[12], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// copier keeps a copy of a disk by what a source says.
type copier struct {
	*testing.T
	dev   *disk.Disk
	src   *trace.Source
	image []byte
}

func newCopier(t *testing.T, path string, change func(*trace.Source)) *copier {
	t.Helper()
	c := &copier{T: t, dev: open(t, path)}
	var err error
	if c.src, err = trace.New(c.dev, trace.Options{Name: "copier"}); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(c.src)
	}
	if err := c.src.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.src.Close() })
	c.image = disk.AlignedBuffer(guestDisk)
	if err := c.dev.ReadBlocks(context.Background(), 0, c.image); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *copier) copy() (blocks uint64) {
	c.Helper()
	set, err := c.src.Take(context.Background())
	if err != nil {
		c.Fatal(err)
	}
	if set.Len() > 0 { // all of it at once: many small reads would take long
		now := disk.AlignedBuffer(guestDisk)
		if err := c.dev.ReadBlocks(context.Background(), 0, now); err != nil {
			c.Fatal(err)
		}
		for start, n := range set.Ranges() {
			copy(c.image[start*capture.BlockSize:(start+n)*capture.BlockSize], now[start*capture.BlockSize:])
		}
	}
	return set.Len()
}

// differ is how many blocks of the disk are not in the copy as they are.
func (c *copier) differ() (n int) {
	c.Helper()
	now := disk.AlignedBuffer(guestDisk)
	if err := c.dev.ReadBlocks(context.Background(), 0, now); err != nil {
		c.Fatal(err)
	}
	for at := 0; at < len(now); at += capture.BlockSize {
		if !bytes.Equal(now[at:at+capture.BlockSize], c.image[at:at+capture.BlockSize]) {
			n++
		}
	}
	return n
}

// settles waits until nothing is taken to be under way.
func settles(t *testing.T, s *trace.Source) {
	t.Helper()
	disktest.Eventually(t, waitLong, "no discard to be under way", func() bool { return s.Pending() == 0 })
}

// Two copies are kept of a disk whose discards are joined: one of them without following
// what is handed over.
func joinedWhileCopied(t *testing.T, path string) {
	filled(t, path)
	all := newCopier(t, path, nil)
	first := newCopier(t, path, (*trace.Source).FirstPlaces)
	var joined uint64
	done := make(chan struct{})
	go func() { joined = discard(t, path, 60); close(done) }()
	takes := 0
	for running := true; running; takes++ {
		select {
		case <-done:
			running = false
		case <-time.After(20 * time.Millisecond):
		}
		all.copy()
		first.copy()
	}
	settles(t, all.src)
	for _, c := range []*copier{all, first} {
		c.copy()
		if err := c.src.Audit(context.Background()); err != nil {
			t.Error(err)
		}
	}
	lost, lostFirst := all.differ(), first.differ()
	t.Logf("%d discards, %d joined with others, %d takes: %d blocks differ in the copy; %d if only first places are seen; %+v", discarders*60, joined, takes, lost, lostFirst, all.src.Stats())
	if lost != 0 {
		t.Errorf("%d blocks differ", lost)
	}
	if joined == 0 || lostFirst == 0 {
		t.Error("no discard of several places was seen: this shows nothing")
	}
	if n := all.copy(); n != 0 {
		t.Errorf("%d blocks are taken though nothing happens", n)
	}
}

// While no agent runs the kernel records what is handed over, too.
func joinedWhileDown(t *testing.T, path string) {
	filled(t, path)
	dev, o := open(t, path), trace.Options{Keep: t.TempDir()}
	next := func() *trace.Source {
		s, err := trace.New(dev, o)
		if err == nil {
			err = s.Start(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	c := newCopier(t, path, nil)
	if err := c.src.Close(); err != nil {
		t.Fatal(err)
	}
	c.src = next()
	c.copy()
	m := capture.Mark{Epoch: 1, Number: 10}
	c.src.Opening(m.Epoch)
	c.src.Seal(m)
	c.src.Confirm(m)
	if err := c.src.Close(); err != nil {
		t.Fatal(err)
	}
	joined := discard(t, path, 40)
	c.src = next()
	if err := c.src.Resumed(); err != nil {
		t.Fatal(err)
	}
	n := c.copy()
	t.Logf("%d joined while nobody followed, %d blocks were kept", joined, n)
	if bad := c.differ(); bad != 0 || joined == 0 {
		t.Errorf("%d blocks differ, %d discards were joined", bad, joined)
	}
	settles(t, c.src)
	c.copy()
	if n := c.copy(); n != 0 {
		t.Errorf("%d blocks are taken though nothing happens", n)
	}
	c.src.Discard()
	if err := c.src.Close(); err != nil {
		t.Error(err)
	}
}
