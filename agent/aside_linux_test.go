package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

// pair is an agent with two disks, of which the second will be in trouble.
type pair struct {
	t     *testing.T
	b     *bus.Bus
	a     *Agent
	ds    []DiskConfig
	rs    []*receiver
	block int64
}

// newPair starts an agent that follows a loop device and whatever second is.
func newPair(t *testing.T, second string) *pair {
	t.Helper()
	p := &pair{t: t, b: streamstest.Start(t)}
	for i, n := range apart(2) {
		p.rs = append(p.rs, receive(t.Context(), t, p.b, "m", n))
		p.ds = append(p.ds, DiskConfig{[]string{disktest.Loop(t, someSize), second}[i], n})
	}
	cfg := config(t, p.ds[0].Path)
	cfg.Disks, cfg.Capture, cfg.tryEvery = p.ds, "auto", 100*time.Millisecond
	var err error
	if p.a, err = New(t.Context(), cfg, p.b, quiet(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent ended: %v", err)
		}
		for _, r := range p.a.replicas {
			if r.keeper != nil {
				r.keeper.Discard()
			}
		}
		p.a.Close()
	})
	return p
}

// cut waits for a point with a disk as it is now.
func (p *pair) cut(i int) {
	p.t.Helper()
	until(p.t, "a cut of disk "+p.ds[i].Name, func() bool { return p.rs[i].hasCut(now(p.t, p.ds[i].Path)) })
}

// goesOn writes to the first disk and wants it protected as if nothing had happened.
func (p *pair) goesOn() {
	p.t.Helper()
	p.block++
	put(p.t, p.ds[0].Path, p.block, "of a disk that is well")
	p.cut(0)
	if n := get(p.rs[0], func() int { return len(p.rs[0].opens) }); n != 1 {
		p.t.Errorf("the disk that is well had %d epochs", n)
	}
}

func (p *pair) hears(said func() string, word string) {
	p.t.Helper()
	until(p.t, "an event with the word "+word, func() bool { return strings.Contains(said(), word) })
}

// A disk that cannot be read is set aside by name, and comes back when it can.
func TestUnreadableDiskIsSetAside(t *testing.T) {
	disktest.NeedRoot(t)
	img := disktest.Image(t, someSize)
	p := newPair(t, disktest.Attach(t, img))
	p.cut(1)
	p.goesOn()
	bad, aside, joined := events(t, p.b, "disk-unreadable"), events(t, p.b, "disk-aside"), events(t, p.b, "disk-joined")
	if err := os.Truncate(img, 1<<20); err != nil { // what lies behind gives EIO
		t.Fatal(err)
	}
	discard(t, p.ds[1].Path, 4<<20, 4096) // an event of a block that cannot be read
	p.hears(bad, "cannot be read")
	p.hears(aside, p.ds[1].Name)
	p.goesOn()
	until(t, "a point that says what it lacks", func() bool {
		return strings.Contains(noteOf(t, p.b), "without disk "+p.ds[1].Name)
	})
	if err := os.Truncate(img, someSize); err != nil {
		t.Fatal(err)
	}
	p.hears(joined, p.ds[1].Name)
	put(t, p.ds[1].Path, 5, "repaired")
	p.cut(1)
	p.goesOn()
	until(t, "a point that lacks nothing", func() bool { return !strings.Contains(noteOf(t, p.b), "without") })
}

// discard is blkdiscard, which would read the disk first.
func discard(t *testing.T, path string, off, n uint64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	span := [2]uint64{off, n}
	const blkDiscard = 0x1277
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkDiscard, uintptr(unsafe.Pointer(&span))); e != 0 {
		t.Fatalf("discard: %v", e)
	}
}

// Another disk in the place of one: only that one is given up, until somebody says that
// the new one is to be protected.
func TestReplacedDiskIsSetAside(t *testing.T) {
	disktest.NeedRoot(t)
	other := disktest.Image(t, someSize)
	if err := os.WriteFile(other, append([]byte("another disk"), make([]byte, someSize-12)...), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, disktest.Attach(t, disktest.Image(t, someSize), "-r"))
	p.cut(1)
	replaced, aside := events(t, p.b, "disk-replaced"), events(t, p.b, "disk-aside")
	to, err := os.Open(other)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	ctl, err := os.Open(p.ds[1].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ctl.Close()
	const loopChangeFD = 0x4C06
	if err := unix.IoctlSetInt(int(ctl.Fd()), loopChangeFD, int(to.Fd())); err != nil {
		t.Fatal(err)
	}
	p.hears(replaced, "is not the disk that was opened")
	p.hears(aside, p.ds[1].Name)
	p.goesOn()
	time.Sleep(3 * p.a.cfg.tryEvery) // it must not come back by itself
	p.goesOn()
	if p.rs[1].hasCut(now(t, p.ds[1].Path)) {
		t.Error("the new disk is protected in the old one's place though nobody said so")
	}
	if err := p.a.SetDisks(p.ds); err != nil {
		t.Fatal(err)
	}
	p.cut(1)
	p.goesOn()
}

// A disk that is not there when the agent starts does not keep it from the others.
func TestAbsentDiskIsSetAside(t *testing.T) {
	disktest.NeedRoot(t)
	link := filepath.Join(t.TempDir(), "late")
	p := newPair(t, link)
	p.cut(0)
	p.goesOn()
	dev := disktest.Loop(t, someSize)
	put(t, dev, 3, "it is there now")
	if err := os.Symlink(dev, link); err != nil {
		t.Fatal(err)
	}
	p.cut(1)
	p.goesOn()
}

// noteOf is what the newest point says that it does not guarantee.
func noteOf(t *testing.T, b *bus.Bus) (all string) {
	t.Helper()
	s, err := b.JS.Stream(t.Context(), streams.Markers)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.GetLastMsgForSubject(t.Context(), streams.MarkersSubject("m"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := wire.DecodeMarker(raw.Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Members[0].Disks {
		all += d.Note
	}
	return all
}
