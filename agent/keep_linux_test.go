package agent

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/agent/capture/trace"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/agent/disk/disktest"
	"github.com/leeward-dr/leeward/streams"
	"github.com/leeward-dr/leeward/streams/bus"
	"github.com/leeward-dr/leeward/streams/streamstest"
	"github.com/leeward-dr/leeward/streams/wire"
)

const someSize = 8 << 20

// followed is the configuration of an agent that follows block devices.
func followed(t *testing.T, disks ...DiskConfig) Config {
	t.Helper()
	cfg := config(t, disks[0].Path)
	cfg.Capture, cfg.Disks = "trace", disks
	t.Cleanup(func() {
		if _, err := trace.Forget(cfg.StateDir, "", false); err != nil {
			t.Error(err)
		}
		for _, d := range disks {
			if left := instancesOf(t, d.Path); len(left) > 0 {
				t.Errorf("left behind for %s: %v", d.Path, left)
			}
		}
	})
	return cfg
}

func instancesOf(t *testing.T, path string) []string {
	t.Helper()
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all, _ := filepath.Glob(trace.DefaultRoot + "/instances/leeward-*")
	var mine []string
	for _, dir := range all {
		if f, _ := os.ReadFile(dir + "/events/block/block_rq_complete/filter"); strings.Contains(string(f), filterNumber(d)) {
			mine = append(mine, dir)
		}
	}
	return mine
}

func filterNumber(d *disk.Disk) string {
	return "dev == " + itoa(uint64(d.Major())<<20|uint64(d.Minor())) + " "
}

func itoa(n uint64) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// put writes a block of a device and waits until it is there.
func put(t *testing.T, path string, block int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := disk.AlignedBuffer(wire.BlockSize)
	clear(b)
	copy(b, text)
	if _, err := f.WriteAt(b, block*wire.BlockSize); err != nil {
		t.Fatal(err)
	}
}

// now is the sum of what a device holds.
func now(t *testing.T, path string) [32]byte {
	t.Helper()
	d, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := disk.AlignedBuffer(int(d.Size()))
	if err := d.ReadBlocks(context.Background(), 0, b); err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// events collects what the agent says of a kind.
func events(t *testing.T, b *bus.Bus, kind string) func() string {
	t.Helper()
	sub, err := b.Conn.SubscribeSync(streams.EventsSubject("m", kind))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	var all []string
	return func() string {
		for {
			n, _, err := sub.Pending()
			if err != nil || n == 0 {
				return strings.Join(all, "\n")
			}
			m, err := sub.NextMsgWithContext(t.Context())
			if err != nil {
				return strings.Join(all, "\n")
			}
			e, err := wire.DecodeEvent(m.Data)
			if err != nil {
				t.Error(err)
				continue
			}
			all = append(all, e.What)
		}
	}
}

func TestNextAgentTakesOver(t *testing.T) {
	disktest.NeedRoot(t)
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := disktest.Loop(t, someSize)
	put(t, path, 5, "from before")
	cfg := followed(t, DiskConfig{path, "d"})
	stop := start(t, cfg, b)
	until(t, "the first cut", func() bool { return r.hasCut(now(t, path)) })
	put(t, path, 6, "while the agent runs")
	until(t, "the second cut", func() bool { return r.hasCut(now(t, path)) })
	for i := range int64(3) {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		put(t, path, 100+i, "while nobody runs")
		before := get(r, func() [2]int { return [2]int{r.bytes, r.compared} })
		stop = start(t, cfg, b)
		until(t, "a cut with what was written meanwhile", func() bool { return r.hasCut(now(t, path)) })
		after := get(r, func() [2]int { return [2]int{r.bytes, r.compared} })
		if n := after[1] - before[1]; n >= someSize/wire.BlockSize {
			t.Errorf("restart %d: %d blocks were compared, the kernel knew better", i, n)
		}
		if n := after[0] - before[0]; n < wire.BlockSize || n > 8*wire.BlockSize {
			t.Errorf("restart %d: one block was written, %d bytes were sent", i, n)
		}
	}
	resyncs := events(t, b, "resync")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	put(t, path, 200, "and nobody recorded it")
	disktest.Run(t, "rmdir", instancesOf(t, path)[0])
	start(t, cfg, b)
	until(t, "a cut with what nobody recorded", func() bool { return r.hasCut(now(t, path)) })
	until(t, "the reason for the comparison", func() bool { return strings.Contains(resyncs(), "no longer records") })
}

// What the vault has not confirmed when the agent ends is sent by the next one.
func TestNextAgentSendsWhatWasLost(t *testing.T) {
	disktest.NeedRoot(t)
	b := streamstest.Start(t)
	r := receive(t.Context(), t, b, "m", "d")
	path := disktest.Loop(t, someSize)
	cfg := followed(t, DiskConfig{path, "d"})
	stop := start(t, cfg, b)
	put(t, path, 6, "first")
	until(t, "the first cut", func() bool { return r.hasCut(now(t, path)) })
	sent := get(r, func() int { r.drop = 1 << 20; return len(r.opens) })
	put(t, path, 7, "never arrives")
	until(t, "the gap", func() bool { return get(r, func() bool { return len(r.opens) > sent || r.asked }) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	before := get(r, func() int { r.drop = 0; return r.compared })
	start(t, cfg, b)
	until(t, "a cut with what was lost", func() bool { return r.hasCut(now(t, path)) })
	if n := get(r, func() int { return r.compared }) - before; n >= someSize/wire.BlockSize {
		t.Errorf("%d blocks were compared, it was known which were missing", n)
	}
}

// apart returns names of disks that different process servers follow.
func apart(n int) (names []string) {
	seen := map[int]bool{}
	for c := 'a'; len(names) < n; c++ {
		if p := streams.Partition("m", string(c)); !seen[p] {
			seen[p] = true
			names = append(names, string(c))
		}
	}
	return names
}

// Disks come, go and grow while the others are protected as if nothing had happened.
func TestDisksChange(t *testing.T) {
	disktest.NeedRoot(t)
	b := streamstest.Start(t)
	names := apart(3)
	var rs []*receiver
	var ds []DiskConfig
	for _, n := range names {
		rs = append(rs, receive(t.Context(), t, b, "m", n))
		ds = append(ds, DiskConfig{disktest.Loop(t, someSize), n})
		put(t, ds[len(ds)-1].Path, 1, n)
	}
	cut := func(i int) {
		t.Helper()
		until(t, "a cut of disk "+names[i], func() bool { return rs[i].hasCut(now(t, ds[i].Path)) })
	}
	cfg := followed(t, ds...)
	cfg.Disks = ds[:2]
	a, err := New(t.Context(), cfg, b, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done; a.Close() }()
	cut(0)
	cut(1)

	if err := a.SetDisks([]DiskConfig{ds[1], ds[2]}); err != nil {
		t.Fatal(err)
	}
	cut(2)
	until(t, "the excluded disk to be let go", func() bool { return len(instancesOf(t, ds[0].Path)) == 0 })
	put(t, ds[1].Path, 2, "of a disk that stays")
	cut(1)

	resized := events(t, b, "disk-resized")
	d, err := disk.Open(ds[2].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Truncate(d.Backing(), 2*someSize); err != nil {
		t.Fatal(err)
	}
	disktest.Run(t, "losetup", "-c", ds[2].Path)
	put(t, ds[2].Path, 2*someSize/wire.BlockSize-1, "the new last block")
	cut(2)
	until(t, "a word on the new size", func() bool { return strings.Contains(resized(), "16777216") })
	// Cut off and given back, whether or not somebody looked between: zeros, and no write.
	for _, size := range []int64{someSize, 2 * someSize} {
		if err := os.Truncate(d.Backing(), size); err != nil {
			t.Fatal(err)
		}
		disktest.Run(t, "losetup", "-c", ds[2].Path)
	}
	cut(2)
	put(t, ds[1].Path, 3, "of a disk that stays")
	cut(1)
	if n := get(rs[1], func() int { return len(rs[1].opens) }); n != 1 {
		t.Errorf("the disk that stays had %d epochs", n)
	}

	refused := events(t, b, "disk-refused")
	if err := a.SetDisks([]DiskConfig{ds[1], ds[2], {ds[1].Path + "-is-not-there", "x"}}); err != nil {
		t.Fatal(err)
	}
	until(t, "a word on the disk that is not there", func() bool { return strings.Contains(refused(), "not-there") })
	until(t, "a status of the two that are there", func() bool {
		st, running, err := ReadStatus(cfg.StateDir)
		return err == nil && running && len(st.Disks) == 2 && st.Disks[0].Driver == "trace" && st.Disks[0].WithoutAgent
	})
}
