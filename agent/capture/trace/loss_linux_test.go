package trace_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
)

// rig is a followed loop device and a way to write to it.
type rig struct {
	*testing.T
	dev *disk.Disk
	src *trace.Source
	out *os.File
	dir string // of the tracing instance
}

func newRig(t *testing.T, o trace.Options) *rig {
	t.Helper()
	disktest.NeedRoot(t)
	path := disktest.Loop(t, 8*mib)
	return follow(t, path, o)
}

func follow(t *testing.T, path string, o trace.Options) *rig {
	t.Helper()
	if o.Name == "" {
		o.Name = fmt.Sprintf("test%d", os.Getpid())
	}
	r := &rig{T: t, dev: open(t, path), out: writer(t, path)}
	var err error
	if r.src, err = trace.New(r.dev, o); err != nil {
		t.Fatal(err)
	}
	if err := r.src.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.src.Close(); err != nil {
			t.Error(err)
		}
		if left := instances(o.Name); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	dirs := instances(o.Name)
	if len(dirs) != 1 {
		t.Fatalf("instances %v", dirs)
	}
	r.dir = dirs[0]
	return r
}

func instances(name string) []string {
	dirs, _ := filepath.Glob(filepath.Join(trace.DefaultRoot, "instances/leeward-"+name+"_*"))
	return dirs
}

func (r *rig) write(off int64, n int) {
	r.Helper()
	if _, err := r.out.WriteAt(disk.AlignedBuffer(n), off); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) tune(file, value string) {
	r.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, file), []byte(value), 0); err != nil {
		r.Fatal(err)
	}
}

// takes wants these blocks and no others.
func (r *rig) takes(want ...uint64) {
	r.Helper()
	set, err := r.src.Take(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	for _, b := range want {
		if !set.Has(b) {
			r.Errorf("block %d is missing", b)
		}
	}
	if set.Len() != uint64(len(want)) {
		r.Errorf("%d blocks, want %d", set.Len(), len(want))
	}
}

func (r *rig) audit() error { return r.src.Audit(context.Background()) }

// lost wants exactly one report of a loss, and work to go on after it.
func (r *rig) lost(err error, word string) {
	r.Helper()
	if !errors.Is(err, capture.ErrLost) || !strings.Contains(err.Error(), word) {
		r.Fatalf("got %v, want a loss with the word %q", err, word)
	}
	r.takes()
	r.write(5*4096, 4096)
	r.takes(5)
	if err := r.audit(); err != nil {
		r.Fatalf("after the loss was reported: %v", err)
	}
}

func TestKindsOfWrite(t *testing.T) {
	disktest.NeedRoot(t, "blkdiscard")
	r := newRig(t, trace.Options{})
	r.write(512, 512)          // inside block 0
	r.write(2*4096+3584, 1024) // across blocks 2 and 3
	r.write(8*mib-512, 512)    // the last sector
	_ = r.dev.ReadBlocks(context.Background(), 100, disk.AlignedBuffer(4096))
	r.takes(0, 2, 3, 2047)
	disktest.Run(t, "blkdiscard", "-o", "40960", "-l", "8192", r.dev.Path())
	r.takes(10, 11)
	disktest.Run(t, "blkdiscard", "-z", "-o", "81920", "-l", "4096", r.dev.Path())
	r.takes(20)
	if err := r.audit(); err != nil {
		t.Fatal(err)
	}
	if s := r.src.Stats(); s.Discarded != 16 || s.Sectors < 12 {
		t.Errorf("stats %+v", s)
	}
}

func TestPartitionsAreOfTheWholeDisk(t *testing.T) {
	disktest.NeedRoot(t, "sfdisk", "partx")
	path := disktest.Loop(t, 64*mib)
	parts := disktest.Partition(t, path, 2)
	r := follow(t, path, trace.Options{})
	out := writer(t, parts[1])
	if _, err := out.WriteAt(disk.AlignedBuffer(4096), 0); err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(parts[1])
	b, err := os.ReadFile("/sys/class/block/" + name + "/start")
	var start uint64
	if _, serr := fmt.Sscan(string(b), &start); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	r.takes(start / 8)
	if err := r.audit(); err != nil {
		t.Fatal(err)
	}
}

func TestOverflowIsNoticed(t *testing.T) {
	r := newRig(t, trace.Options{BufferKB: 4})
	var err error
	for range 200 {
		for i := range int64(2000) {
			r.write(i%2048*4096, 4096)
		}
		if _, err = r.src.Take(context.Background()); err != nil {
			break
		}
	}
	r.lost(err, "room")
}

func TestSwitchedOffIsNoticed(t *testing.T) {
	for _, file := range []string{"tracing_on", "events/block/block_rq_complete/enable"} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			r := newRig(t, trace.Options{})
			r.write(0, 4096)
			r.tune(file, "0")
			r.write(4096, 4096)
			_, err := r.src.Take(context.Background())
			r.lost(err, "switched")
		})
	}
}

// Nothing but the kernel's counters can tell of a write that made no event.
func TestLedgerNoticesWhatMadeNoEvent(t *testing.T) {
	for _, calibrated := range []bool{false, true} {
		t.Run(fmt.Sprintf("calibrated=%v", calibrated), func(t *testing.T) {
			r := newRig(t, trace.Options{})
			r.write(0, 4096)
			r.takes(0)
			if calibrated {
				if err := r.audit(); err != nil {
					t.Fatal(err)
				}
			}
			filter, err := os.ReadFile(filepath.Join(r.dir, "events/block/block_rq_complete/filter"))
			if err != nil {
				t.Fatal(err)
			}
			r.tune("events/block/block_rq_complete/filter", "nr_sector == 0")
			r.write(4096, 512) // a single sector
			r.tune("events/block/block_rq_complete/filter", strings.TrimSpace(string(filter)))
			r.takes()
			r.lost(r.audit(), "counted")
		})
	}
}

// Discards have a ledger of their own.
func TestLedgerNoticesDiscards(t *testing.T) {
	disktest.NeedRoot(t, "blkdiscard")
	r := newRig(t, trace.Options{})
	const file = "events/block/block_rq_complete/filter"
	filter, err := os.ReadFile(filepath.Join(r.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	r.tune(file, "nr_sector == 0")
	disktest.Run(t, "blkdiscard", "-o", "40960", "-l", "8192", r.dev.Path())
	r.tune(file, strings.TrimSpace(string(filter)))
	r.takes()
	r.lost(r.audit(), "discarded")
}

func TestCountersOff(t *testing.T) {
	r := newRig(t, trace.Options{})
	stats := "/sys/block/" + r.dev.Name() + "/queue/iostats"
	set := func(v string) {
		if err := os.WriteFile(stats, []byte(v), 0); err != nil {
			t.Fatal(err)
		}
	}
	set("0")
	defer set("1") // loop devices keep this setting when they are detached
	r.write(0, 4096)
	r.takes(0)
	if err := r.audit(); err != nil {
		t.Errorf("audit without counters: %v", err)
	}
	if !strings.Contains(r.src.Guarantee(), "counters") {
		t.Errorf("the guarantee hides that there is no cross-check: %s", r.src.Guarantee())
	}
}

// A write into an instance that is being removed has crashed a kernel: while we have
// it, nobody can remove it.
func TestPinned(t *testing.T) {
	r := newRig(t, trace.Options{})
	if err := os.Remove(r.dir); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("removing a live instance: %v", err)
	}
	r.write(0, 4096)
	r.takes(0)
}

func TestStaleInstancesGo(t *testing.T) {
	r := newRig(t, trace.Options{}) // alive, must stay
	root := filepath.Join(trace.DefaultRoot, "instances")
	dead := []string{"leeward-old-4194304-1", fmt.Sprintf("leeward-a-b-%d-1", os.Getpid())}
	other := "somebody-else-4194304-1"
	for _, name := range append(dead, other) {
		if err := os.Mkdir(filepath.Join(root, name), 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(filepath.Join(root, name))
	}
	follow(t, disktest.Loop(t, 8*mib), trace.Options{Name: "second"})
	for _, name := range dead {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, dir := range []string{r.dir, filepath.Join(root, other)} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s is gone", dir)
		}
	}
}

func TestProbe(t *testing.T) {
	disktest.NeedRoot(t)
	loop := open(t, disktest.Loop(t, 8*mib))
	if err := trace.Probe(loop); err != nil {
		t.Fatal(err)
	}
	file := open(t, disktest.Image(t, 8*mib))
	if err := trace.Probe(file); !errors.Is(err, capture.ErrUnsupported) {
		t.Errorf("a file: %v", err)
	}
	if _, err := trace.New(loop, trace.Options{TracingRoot: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, capture.ErrUnsupported) {
		t.Errorf("no tracefs: %v", err)
	}
	if err := trace.Probe(open(t, zram(t))); !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "below") {
		t.Errorf("a compressed ram disk, which makes no requests: %v", err)
	}
}

// zram makes a block device that has no requests.
func zram(t *testing.T) string {
	t.Helper()
	const control = "/sys/class/zram-control/"
	b, err := os.ReadFile(control + "hot_add")
	if err != nil {
		t.Skip("this kernel has no zram to show that devices without requests are refused")
	}
	number := strings.TrimSpace(string(b))
	t.Cleanup(func() {
		if err := os.WriteFile(control+"hot_remove", []byte(number), 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile("/sys/block/zram"+number+"/disksize", []byte("8M"), 0); err != nil {
		t.Fatal(err)
	}
	return "/dev/zram" + number
}

// shrinks makes a disk smaller and grows it back, until the kernel has said so in its log:
// it leaves lines out when there are many, and other tests make disks too.
func (k *kept) shrinks(small, large int64) {
	k.Helper()
	lines := func() int {
		buf := make([]byte, 4<<20)
		got, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
		k.must(err)
		return strings.Count(string(buf[:got]), fmt.Sprintf("%s: detected capacity change from %d to %d\n", k.dev.Name(), large/512, small/512))
	}
	before := lines()
	disktest.Eventually(k, waitLong, "the kernel to say that the disk was resized", func() bool {
		k.resize(small)
		k.resize(large)
		return lines() > before
	})
}

// A disk that was made smaller and grown back holds something else where it was cut,
// though nobody wrote there.
func TestMadeSmallerAndGrownBack(t *testing.T) {
	k := newKept(t, trace.Options{})
	k.write(0, 4096)
	k.takes(0)
	k.settle()
	k.must(k.src.Close())
	k.shrinks(5*mib, 8*mib) // while no agent runs
	k.open()
	k.must(k.src.Resumed())
	var tail []uint64
	for b := uint64(5 * mib / 4096); b < 8*mib/4096; b++ {
		tail = append(tail, b)
	}
	k.takes(tail...)
	k.must(k.audit())
	lost := 0
	for range 20 { // more than the kernel's log takes
		k.resize(6 * mib)
		k.resize(8 * mib)
		set, err := k.src.Take(context.Background())
		switch {
		case err == nil && (set.Len() != 512 || !set.Has(8*mib/4096-1)):
			t.Errorf("%d blocks were taken", set.Len())
		case err != nil && (!errors.Is(err, capture.ErrLost) || !strings.Contains(err.Error(), "not known to what")):
			t.Fatal(err)
		case err != nil:
			lost++
		}
	}
	t.Logf("of 20 times the kernel left %d out of its log", lost)
	k.takes()
	k.must(k.audit())
}
