package trace_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/agent/quiesce"
)

const waitLong = 30 * time.Second

// TestMain lets this binary be its own guard, the process that TestKilled kills, and the
// first process of the guest of TestJoinedDiscards.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 && os.Getenv(guestMark) != "" {
		guestMain(m)
	}
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		os.Exit(quiesce.GuardMain())
	}
	if len(os.Args) == 4 && os.Args[1] == "follow" {
		fmt.Fprintln(os.Stderr, "follow:", followMain(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestProof is the claim of the whole driver, on real filesystems under load: what
// the Takes said, and nothing else, was copied, and while the filesystem is frozen
// every block of the device equals the copy.
//
// One thing moves under a freeze: discards. ext4 sends them from a worker that the
// freeze does not stop, long after the blocks were freed. No write may complete
// while frozen, and a block may differ from the copy only where a discard landed
// after it was read, by being zeros there.
func TestProof(t *testing.T) {
	rounds := 3
	if os.Getenv("LEEWARD_FULL") != "" {
		rounds = 120
	}
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			p := newProof(t, fs)
			load(t, p.dir)
			for round := range rounds {
				if bad := p.round(nil); bad != 0 {
					t.Errorf("round %d: %d blocks of %d differ", round, bad, p.dev.Blocks())
				}
			}
			p.control()
			slices.Sort(p.held)
			t.Logf("%d rounds; %+v; frozen for the copy p50 %v max %v; largest final copy %d blocks; %d blocks discarded late",
				rounds, p.src.Stats(), p.held[len(p.held)/2], p.held[len(p.held)-1], p.final, p.late)
		})
	}
}

// proof is a filesystem on a loop device, followed and copied.
type proof struct {
	*testing.T
	dir     string
	dev     *disk.Disk
	src     *trace.Source
	freezer *quiesce.Freezer
	reader  *disk.Reader
	mounts  []disk.Mount
	replica []byte
	whole   []byte
	held    []time.Duration
	final   uint64
	late    int // blocks that a late discard made differ
}

func newProof(t *testing.T, fs string) *proof {
	t.Helper()
	disktest.NeedRoot(t, "fio", "fstrim", "mkfs."+fs)
	size := int64(192 * mib)
	if fs == "xfs" {
		size = 320 * mib // xfs makes none smaller than 300 MiB
	}
	path := disktest.Loop(t, size)
	disktest.Mkfs(t, path, fs)
	p := &proof{T: t, dev: open(t, path), replica: make([]byte, size), whole: disk.AlignedBuffer(int(size))}
	p.reader = disk.NewReader(p.dev, disk.ReadOptions{})
	var err error
	if p.src, err = trace.New(p.dev, trace.Options{}); err != nil {
		t.Fatal(err)
	}
	p.must(p.src.Start(context.Background()))
	t.Cleanup(func() { p.must(p.src.Close()) })
	if p.freezer, err = quiesce.New(quiesce.Options{Bound: time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.must(p.freezer.Close()) })
	p.must(p.dev.ReadBlocks(context.Background(), 0, p.replica))
	p.dir = disktest.Mount(t, path, "discard")
	p.mounts, err = disk.Mounts(p.dev)
	if err != nil || len(p.mounts) != 1 || !strings.HasPrefix(p.mounts[0].Path, os.TempDir()) {
		t.Fatalf("mounts %+v, %v: this test freezes nothing but its own", p.mounts, err)
	}
	return p
}

func (p *proof) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// step takes and copies once and returns how many blocks that were.
func (p *proof) step() uint64 {
	p.Helper()
	set, err := p.src.Take(context.Background())
	p.must(err)
	p.copy(set)
	return set.Len()
}

func (p *proof) copy(set *capture.Set) {
	p.Helper()
	p.must(p.reader.Read(context.Background(), set.Ranges(), func(start uint64, b []byte) error {
		copy(p.replica[start*disk.BlockSize:], b)
		return nil
	}))
}

// round makes one cut and returns how many blocks of the frozen device differ from
// the copy. last, if given, stands in for the copy of the frozen Take.
func (p *proof) round(last func(*capture.Set)) (bad int) {
	p.Helper()
	ctx := context.Background()
	copied := uint64(0)
	for range 8 {
		n := p.step()
		if copied += n; n < 4*mib/disk.BlockSize {
			break
		}
	}
	p.must(p.freezer.Sync(ctx, p.mounts))
	copied += p.step()
	if last != nil {
		p.must(os.WriteFile(filepath.Join(p.dir, "control"), p.replica[:mib], 0o600))
	}
	frozen, err := p.freezer.Freeze(ctx, p.mounts)
	p.must(err)
	late := p.frozen(last, copied)
	_, err = frozen.Thaw()
	p.must(err)
	for at := 0; at < len(p.whole); at += disk.BlockSize {
		have, want := p.whole[at:at+disk.BlockSize], p.replica[at:at+disk.BlockSize]
		if bytes.Equal(have, want) {
			continue
		}
		if late.Has(uint64(at/disk.BlockSize)) && zeroedIn(have, want) {
			p.late++
			continue
		}
		if bad++; last == nil && bad < 4 {
			p.Logf("block %d differs: discarded late %v, zeros on the disk %v", at/disk.BlockSize, late.Has(uint64(at/disk.BlockSize)), zeroedIn(have, want))
		}
	}
	p.copy(late) // as with every Take: what it says must be read, else it is forgotten
	return bad
}

// frozen copies the last Take and reads the whole device, both while it is frozen.
// It returns what was discarded between the two.
func (p *proof) frozen(last func(*capture.Set), copied uint64) *capture.Set {
	p.Helper()
	ctx := context.Background()
	began := time.Now()
	set, err := p.src.Take(ctx)
	p.must(err)
	before := p.src.Stats()
	p.final = max(p.final, set.Len())
	if copied+set.Len() == 0 {
		p.Fatal("nothing was written: there is no load")
	}
	if last != nil {
		last(set)
	} else {
		p.copy(set)
	}
	p.held = append(p.held, time.Since(began).Round(time.Millisecond/10))
	p.must(p.src.Audit(ctx))
	p.must(p.dev.ReadBlocks(ctx, 0, p.whole))
	disktest.Eventually(p, waitLong, "discards in flight to be done", p.idle)
	late, err := p.src.Take(ctx)
	p.must(err)
	if after := p.src.Stats(); after.Sectors != before.Sectors {
		p.Errorf("%d sectors were written while everything was frozen", after.Sectors-before.Sectors)
	}
	return late
}

// idle says that the device has nothing to do.
func (p *proof) idle() bool {
	b, err := os.ReadFile("/sys/block/" + p.dev.Name() + "/inflight")
	p.must(err)
	return strings.Join(strings.Fields(string(b)), " ") == "0 0"
}

// zeroedIn says whether have is want but for sectors that are zeros.
func zeroedIn(have, want []byte) bool {
	zero := make([]byte, 512)
	for at := 0; at < len(have); at += 512 {
		s := have[at : at+512]
		if !bytes.Equal(s, want[at:at+512]) && !bytes.Equal(s, zero) {
			return false
		}
	}
	return true
}

// control shows that the comparison can fail: the blocks of one Take are not copied.
func (p *proof) control() {
	p.Helper()
	var skipped *capture.Set
	if bad := p.round(func(set *capture.Set) { skipped = set }); bad == 0 {
		p.Errorf("negative control: %d blocks were not copied and no difference was found", skipped.Len())
	} else {
		p.Logf("negative control: %d blocks not copied, %d differ", skipped.Len(), bad)
	}
	p.copy(skipped)
	if bad := p.round(nil); bad != 0 {
		p.Errorf("after the negative control: %d blocks differ", bad)
	}
}
