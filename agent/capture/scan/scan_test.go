package scan_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/capture"
	"github.com/leeward-dr/leeward/agent/capture/capturetest"
	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/disk"
	"github.com/leeward-dr/leeward/streams/wire"
)

const block = wire.BlockSize

var ctx = context.Background()

// sumsOf are the sums of whole blocks.
func sumsOf(b []byte) []wire.Sum {
	sums := make([]wire.Sum, len(b)/block)
	for i := range sums {
		sums[i] = wire.SumOf(b[i*block : (i+1)*block])
	}
	return sums
}

// disks in memory with some data: half zeros, half noise, in runs.
func noisy(blocks int64, seed uint64) *capturetest.Fake {
	f := capturetest.NewFake(blocks * block)
	rnd := rand.New(rand.NewPCG(seed, 7))
	for at := rnd.Int64N(64); at < blocks; at += rnd.Int64N(200) {
		scribble(f, rnd, at, min(1+rnd.Int64N(100), blocks-at))
	}
	return f
}

func scribble(f *capturetest.Fake, rnd *rand.Rand, start, count int64) {
	b := make([]byte, count*block)
	for i := 0; i < len(b); i += 8 {
		binary.NativeEndian.PutUint64(b[i:], rnd.Uint64())
	}
	if _, err := f.WriteAt(b, start*block); err != nil {
		panic(err)
	}
}

func contents(t testing.TB, dev scan.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Blocks()*block)
	if err := dev.ReadBlocks(ctx, 0, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConforms(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		capturetest.Run(t, func(t *testing.T) *capturetest.Env { return env(t, noisy(3000, 1)) })
	})
	t.Run("image file", func(t *testing.T) {
		capturetest.Run(t, func(t *testing.T) *capturetest.Env { return imageEnv(t) })
	})
}

func env(t *testing.T, f *capturetest.Fake) *capturetest.Env {
	t.Helper()
	src, err := scan.New(f, scan.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &capturetest.Env{Source: src, Blocks: f.Blocks(), Read: f.ReadBlocks,
		Copied: func(start uint64, b []byte) error { return src.Seed(start, sumsOf(b)) },
		Write: func(start uint64, b []byte) error {
			_, err := f.WriteAt(b, int64(start*block))
			return err
		}}
}

func imageEnv(t *testing.T) *capturetest.Env {
	t.Helper()
	path := t.TempDir() + "/image"
	if err := os.WriteFile(path, make([]byte, 500*block), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); dev.Close() })
	src, err := scan.New(dev, scan.Options{Workers: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &capturetest.Env{Source: src, Blocks: dev.Blocks(), Read: dev.ReadBlocks,
		Copied: func(start uint64, b []byte) error { return src.Seed(start, sumsOf(b)) },
		Write: func(start uint64, b []byte) error {
			_, err := f.WriteAt(b, int64(start*block))
			return err
		}}
}

func TestFirstTakeIsWhatIsNotZero(t *testing.T) {
	f := noisy(5000, 2)
	data := contents(t, f)
	e := env(t, f)
	defer e.Source.Close()
	if err := e.Source.Start(ctx); err != nil {
		t.Fatal(err)
	}
	set, err := e.Source.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for b := range f.Blocks() {
		if zero := wire.IsZero(data[b*block : (b+1)*block]); set.Has(b) == zero {
			t.Fatalf("block %d: zero=%v, in the set=%v", b, zero, set.Has(b))
		}
	}
	if s := e.Source.(*scan.Source).Stats(); s.Blocks != 5000 || s.Zero+set.Len() != 5000 || s.Differ != set.Len() || s.Next != 5000 {
		t.Errorf("stats %+v", s)
	}
}

func TestSeedPreventsABlockFromGoingBackUnnoticed(t *testing.T) {
	f := capturetest.NewFake(10 * block)
	e := env(t, f)
	defer e.Source.Close()
	write := func(c byte) {
		if _, err := f.WriteAt(bytes.Repeat([]byte{c}, block), 3*block); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Source.Start(ctx); err != nil {
		t.Fatal(err)
	}
	write('a')
	if _, err := e.Source.Take(ctx); err != nil {
		t.Fatal(err)
	}
	write('b') // read and sent by the agent
	if err := e.Copied(3, bytes.Repeat([]byte{'b'}, block)); err != nil {
		t.Fatal(err)
	}
	write('a')
	if set, err := e.Source.Take(ctx); err != nil || !set.Has(3) {
		t.Fatalf("the block went back to its old contents unnoticed (%v)", err)
	}
}

func TestNewRefusesAnotherSize(t *testing.T) {
	table, err := scan.NewTable(9, "")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if _, err := scan.New(capturetest.NewFake(10*block), scan.Options{}, table); err == nil {
		t.Error("a table of another size was accepted")
	}
	for _, n := range []uint64{0, 1 << 60} {
		if _, err := scan.NewTable(n, ""); err == nil {
			t.Errorf("a table of %d blocks was made", n)
		}
	}
	if table.Seed(8, make([]wire.Sum, 2)) == nil || table.Seed(^uint64(0), make([]wire.Sum, 2)) == nil {
		t.Error("sums behind the end were accepted")
	}
}

// compare runs Compare and returns the set of what differs.
func compare(t *testing.T, dev scan.Device, o scan.Options, theirs []wire.Sum) (*capture.Set, scan.Stats, error) {
	t.Helper()
	data := contents(t, dev)
	var set capture.Set
	last := uint64(0)
	stats, err := scan.Compare(ctx, dev, o, func(_ context.Context, start uint64, count int) ([]wire.Sum, error) {
		return theirs[start:][:count], nil
	}, func(start uint64, blocks []byte, sums []wire.Sum) error {
		if start < last || !bytes.Equal(blocks, data[start*block:][:len(blocks)]) || !slices.Equal(sums, sumsOf(blocks)) {
			t.Fatalf("what is handed on at %d is not what is on the disk", start)
		}
		last = start + uint64(len(sums))
		set.Add(start, uint64(len(sums)))
		return nil
	})
	return &set, stats, err
}

func TestCompare(t *testing.T) {
	for _, blocks := range []int64{1, 1023, 1024, 1025, 2*wire.MaxSums - 5000} {
		f := noisy(blocks, uint64(blocks))
		theirs := sumsOf(contents(t, f))
		rnd := rand.New(rand.NewPCG(3, uint64(blocks)))
		for range 20 {
			at := rnd.Int64N(blocks)
			scribble(f, rnd, at, min(blocks-at, 1+rnd.Int64N(2000)/(1+rnd.Int64N(100))))
		}
		mine := sumsOf(contents(t, f))
		set, stats, err := compare(t, f, scan.Options{Workers: 3}, theirs)
		if err != nil || stats.Blocks != uint64(blocks) || stats.Differ != set.Len() || stats.Next != uint64(blocks) {
			t.Fatalf("%d blocks: %+v, %v", blocks, stats, err)
		}
		for b := range mine {
			if set.Has(uint64(b)) == (mine[b] == theirs[b]) {
				t.Fatalf("%d blocks: block %d wrong", blocks, b)
			}
		}
		if from := uint64(blocks / 2); from > 0 {
			if set, stats, err := compare(t, f, scan.Options{From: from}, theirs); err != nil || stats.Blocks != uint64(blocks)-from || set.Has(from-1) {
				t.Fatalf("from the middle: %+v, %v", stats, err)
			}
		}
	}
}

// failing is a device with a bad block.
type failing struct {
	*capturetest.Fake
	at uint64
}

var errBad = errors.New("bad block")

func (f failing) ReadBlocks(ctx context.Context, start uint64, buf []byte) error {
	if start <= f.at && f.at < start+uint64(len(buf)/block) {
		return errBad
	}
	return f.Fake.ReadBlocks(ctx, start, buf)
}

func TestCompareErrorsAndResume(t *testing.T) {
	f := noisy(20000, 5)
	theirs := make([]wire.Sum, 20000)
	nop := func(uint64, []byte, []wire.Sum) error { return nil }
	fetch := func(_ context.Context, start uint64, count int) ([]wire.Sum, error) {
		return theirs[start:][:count], nil
	}
	stats, err := scan.Compare(ctx, failing{f, 7000}, scan.Options{}, fetch, nop)
	if !errors.Is(err, errBad) || stats.Next > 7000 || stats.Next < 6000 {
		t.Errorf("a bad block: %+v, %v", stats, err)
	}
	rest, err := scan.Compare(ctx, f, scan.Options{From: stats.Next}, fetch, nop)
	if err != nil || rest.Next != 20000 || rest.Blocks != 20000-stats.Next {
		t.Errorf("going on at %d: %+v, %v", stats.Next, rest, err)
	}
	stop := errors.New("stop")
	if _, err := scan.Compare(ctx, f, scan.Options{}, fetch, func(uint64, []byte, []wire.Sum) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callback's error: %v", err)
	}
	for name, fetch := range map[string]scan.Fetch{
		"error": func(context.Context, uint64, int) ([]wire.Sum, error) { return nil, stop },
		"short": func(_ context.Context, _ uint64, n int) ([]wire.Sum, error) { return theirs[:n-1], nil },
	} {
		if _, err := scan.Compare(ctx, f, scan.Options{}, fetch, nop); err == nil {
			t.Errorf("%s from fetch was accepted", name)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	hang := func(ctx context.Context, _ uint64, _ int) ([]wire.Sum, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := scan.Compare(cancelled, f, scan.Options{}, hang, nop); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTakeKeepsWhatItFoundWhenItFails(t *testing.T) {
	f := noisy(20000, 6)
	dev := &flaky{Fake: f}
	src, err := scan.New(dev, scan.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := src.Start(ctx); err != nil {
		t.Fatal(err)
	}
	dev.set(true)
	if _, err := src.Take(ctx); !errors.Is(err, errBad) {
		t.Fatalf("got %v", err)
	}
	dev.set(false)
	set, err := src.Take(ctx)
	if err != nil {
		t.Fatal(err)
	}
	data := contents(t, f)
	for b := range f.Blocks() {
		if set.Has(b) == wire.IsZero(data[b*block:(b+1)*block]) {
			t.Fatalf("block %d was lost", b)
		}
	}
}

// flaky fails in its second half while told to.
type flaky struct {
	*capturetest.Fake
	mu  sync.Mutex
	bad bool
}

func (f *flaky) set(bad bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = bad
}

func (f *flaky) ReadBlocks(ctx context.Context, start uint64, buf []byte) error {
	f.mu.Lock()
	bad := f.bad
	f.mu.Unlock()
	if bad && start > f.Blocks()/2 {
		return errBad
	}
	return f.Fake.ReadBlocks(ctx, start, buf)
}

func TestThrottle(t *testing.T) {
	f := capturetest.NewFake(6 << 20)
	theirs := make([]wire.Sum, f.Blocks())
	began := time.Now()
	_, err := scan.Compare(ctx, f, scan.Options{BytesPerSecond: 40 << 20},
		func(_ context.Context, start uint64, n int) ([]wire.Sum, error) { return theirs[start:][:n], nil },
		func(uint64, []byte, []wire.Sum) error { return nil })
	// The second 4 MiB may begin after 0.1 s.
	if took := time.Since(began); err != nil || took < 100*time.Millisecond {
		t.Fatalf("6 MiB at 40 MiB/s took %v, %v", took, err)
	}
}
