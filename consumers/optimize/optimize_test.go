package optimize

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/leeward-dr/leeward/consumers/vault"
	"github.com/leeward-dr/leeward/streams/wire"
)

const diskBlocks = 48

// pattern fills a block with something that compresses if packable.
func pattern(seed uint32, packable bool) []byte {
	b := make([]byte, wire.BlockSize)
	if packable {
		copy(b, bytes.Repeat([]byte(fmt.Sprintf("block %d ", seed)), 100))
		return b
	}
	_, _ = rand.Read(b)
	return b
}

// block makes a wire block and applies it to the model disk.
func block(t interface{ Fatal(...any) }, disk [][]byte, extents []wire.Extent, codec wire.Codec, packable bool, seed *uint32) *wire.Block {
	b := &wire.Block{Codec: codec, Extents: extents}
	for _, e := range extents {
		for i := e.Start; i < e.Start+uint64(e.Count); i++ {
			if e.Kind != wire.ExtentData {
				disk[i] = make([]byte, wire.BlockSize)
				continue
			}
			*seed++
			disk[i] = pattern(*seed, packable)
			s := wire.SumOf(disk[i])
			b.Sums = append(b.Sums, s[:]...)
			b.Data = append(b.Data, disk[i]...)
		}
	}
	b.Raw = uint32(len(b.Data))
	if b.Codec == wire.CodecZstd {
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		b.Data = enc.EncodeAll(b.Data, nil)
	}
	return b
}

func drawExtents(t *rapid.T) []wire.Extent {
	var out []wire.Extent
	at := uint64(rapid.IntRange(0, diskBlocks-1).Draw(t, "start"))
	for at < diskBlocks && len(out) < 6 {
		n := min(uint64(rapid.IntRange(1, 8).Draw(t, "count")), diskBlocks-at)
		out = append(out, wire.Extent{Start: at, Count: uint32(n), Kind: wire.ExtentKind(rapid.IntRange(0, 2).Draw(t, "kind"))})
		if rapid.IntRange(0, 3).Draw(t, "more") == 0 {
			break
		}
		at += n + uint64(rapid.IntRange(0, 4).Draw(t, "gap"))
	}
	return out
}

// TestBatchIsTheLastWriterOfEveryBlock compares the batch of a random run with a
// disk that is an array of blocks.
func TestBatchIsTheLastWriterOfEveryBlock(t *testing.T) {
	o, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		model := make([][]byte, diskBlocks)
		var links []Link
		var seed uint32
		written := map[uint64]bool{}
		first := uint64(rapid.IntRange(2, 100).Draw(t, "first"))
		for i := range rapid.IntRange(1, 12).Draw(t, "links") {
			ex := drawExtents(t)
			data := 0
			for _, e := range ex {
				if e.Kind == wire.ExtentData {
					data += int(e.Count)
				}
				for b := range uint64(e.Count) {
					written[e.Start+b] = true
				}
			}
			codec := wire.CodecRaw
			if data > 0 && rapid.Bool().Draw(t, "zstd") {
				codec = wire.CodecZstd
			}
			c := &wire.Change{Kind: wire.KindBlock, Machine: "m", Disk: "d", Epoch: 3, Number: first + uint64(i)}
			c.Block = block(t, model, ex, codec, rapid.Bool().Draw(t, "packable"), &seed)
			if err := Check(c.Block); err != nil {
				t.Fatal(err)
			}
			links = append(links, Link{Change: c, Hash: wire.Hash{byte(i + 1)}})
		}
		b, err := o.Batch(links)
		if err != nil {
			t.Fatal(err)
		}
		if b.First != first || b.Last != first+uint64(len(links))-1 || b.Epoch != 3 || b.Hash != links[len(links)-1].Hash {
			t.Fatalf("batch is links %d to %d of epoch %d", b.First, b.Last, b.Epoch)
		}
		compare(t, b, model, written)
	})
}

func compare(t *rapid.T, b *vault.Batch, model [][]byte, written map[uint64]bool) {
	mapped := map[uint64]bool{}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	for i, f := range b.Frames {
		data := f.Data
		if f.Codec == vault.CodecZstd {
			if data, err = dec.DecodeAll(f.Data, nil); err != nil {
				t.Fatal(err)
			}
		}
		if len(data) != int(f.Raw) {
			t.Fatalf("frame %d unpacks to %d bytes, says %d", i, len(data), f.Raw)
		}
		next, sum := uint64(0), 0
		for _, e := range f.Extents {
			if e.Start < next || e.Count == 0 || e.Zero != (f.Raw == 0) {
				t.Fatalf("frame %d: extent %+v after block %d, %d bytes", i, e, next, f.Raw)
			}
			next = e.Start + uint64(e.Count)
			for n := range uint64(e.Count) {
				at := e.Start + n
				if mapped[at] {
					t.Fatalf("block %d is mapped twice", at)
				}
				mapped[at] = true
				got := make([]byte, wire.BlockSize)
				if !e.Zero {
					got = data[(uint64(e.Off)+n)*wire.BlockSize:][:wire.BlockSize]
					if f.Sums[sum] != vault.SumOf(got) {
						t.Fatalf("block %d has another's sum", at)
					}
					sum++
				}
				if !bytes.Equal(got, model[at]) {
					t.Fatalf("block %d is not what was written last", at)
				}
			}
		}
		if sum != len(f.Sums) || len(f.Extents) == 0 {
			t.Fatalf("frame %d has %d sums for %d blocks, %d extents", i, len(f.Sums), sum, len(f.Extents))
		}
	}
	if len(mapped) != len(written) {
		t.Fatalf("%d blocks are mapped, %d were written", len(mapped), len(written))
	}
}

func link(number uint64, b *wire.Block) Link {
	return Link{Change: &wire.Change{Kind: wire.KindBlock, Machine: "m", Disk: "d", Epoch: 1, Number: number, Block: b}, Hash: wire.Hash{byte(number)}}
}

func TestFramesKeepOrLoseTheirForm(t *testing.T) {
	o, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	disk := make([][]byte, diskBlocks)
	var seed uint32
	data := func(start uint64, count uint32) []wire.Extent { return []wire.Extent{{Start: start, Count: count}} }
	packed := block(t, disk, data(0, 8), wire.CodecZstd, true, &seed)
	rawPays := block(t, disk, data(8, 8), wire.CodecRaw, true, &seed)
	rawNot := block(t, disk, data(16, 8), wire.CodecRaw, false, &seed)
	dead := block(t, disk, data(24, 4), wire.CodecZstd, true, &seed)
	half := block(t, disk, append(data(4, 4), wire.Extent{Start: 18, Count: 2, Kind: wire.ExtentDiscard}, wire.Extent{Start: 20, Count: 1, Kind: wire.ExtentZero}, wire.Extent{Start: 24, Count: 4}), wire.CodecRaw, false, &seed)
	b, err := o.Batch([]Link{link(2, packed), link(3, rawPays), link(4, rawNot), link(5, dead), link(6, half)})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Frames) != 5 {
		t.Fatalf("%d frames, want 5: the dead one dropped, one of zeros", len(b.Frames))
	}
	f := b.Frames
	if &f[0].Data[0] != &packed.Data[0] || f[0].Codec != vault.CodecZstd || f[0].Raw != 8*wire.BlockSize || len(f[0].Sums) != 4 {
		t.Error("the compressed frame was touched, or its dead blocks have sums")
	}
	if f[1].Codec != vault.CodecZstd || len(f[1].Data) > len(rawPays.Data)/2 {
		t.Error("the raw frame that compresses well was not compressed")
	}
	if f[2].Codec != vault.CodecRaw || f[2].Raw != 5*wire.BlockSize || len(f[2].Data) != 5*wire.BlockSize || f[2].Extents[1].Off != 2 {
		t.Errorf("the raw frame kept its dead blocks or was packed for nothing: %+v", f[2].Extents)
	}
	if len(f[4].Extents) != 1 || f[4].Extents[0] != (vault.Extent{Start: 18, Count: 3, Zero: true}) || len(f[4].Data) != 0 {
		t.Errorf("zeros: %+v", f[4].Extents)
	}
}

func TestCheckRefusesWhatCannotBeCommitted(t *testing.T) {
	disk := make([][]byte, diskBlocks)
	var seed uint32
	good := func() *wire.Block {
		return block(t, disk, []wire.Extent{{Start: 0, Count: 4}}, wire.CodecZstd, true, &seed)
	}
	for name, tc := range map[string]struct{ spoil func(*wire.Block) }{
		"sums":       {func(b *wire.Block) { b.Sums = b.Sums[:48] }},
		"raw":        {func(b *wire.Block) { b.Raw -= wire.BlockSize }},
		"no zstd":    {func(b *wire.Block) { b.Data = []byte("hello, world") }},
		"other size": {func(b *wire.Block) { b.Extents[0].Count, b.Raw, b.Sums = 3, 3*wire.BlockSize, b.Sums[:48] }},
	} {
		b := good()
		if err := Check(b); err != nil {
			t.Fatalf("good block: %v", err)
		}
		tc.spoil(b)
		if Check(b) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBatchRefusesLinksThatAreNoRun(t *testing.T) {
	o, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	zero := &wire.Block{Extents: []wire.Extent{{Start: 1, Count: 1, Kind: wire.ExtentZero}}}
	cut := Link{Change: &wire.Change{Kind: wire.KindCut, Epoch: 1, Number: 2, Cut: &wire.Cut{}}}
	for name, links := range map[string][]Link{
		"none": nil, "hole": {link(2, zero), link(4, zero)}, "cut inside": {cut, link(3, zero)},
		"sums": {link(2, &wire.Block{Raw: wire.BlockSize, Extents: []wire.Extent{{Count: 1}}, Data: make([]byte, wire.BlockSize)})},
	} {
		if _, err := o.Batch(links); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOpenAndCutAreCarriedOver(t *testing.T) {
	o, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	open := &wire.Change{Kind: wire.KindOpen, Epoch: 7, Number: 1, Time: at.UnixNano(), Open: &wire.Open{
		Size: 4096, Capture: "scan", Guarantee: "g", Host: "h", Instance: "i", Path: "/p", Identity: "id", Reason: "first", MinEpoch: 6, MinNumber: 9}}
	b, err := o.Batch([]Link{{Change: open}})
	if err != nil {
		t.Fatal(err)
	}
	want := vault.Open{Size: 4096, Capture: "scan", Guarantee: "g", Host: "h", Instance: "i", Path: "/p", Identity: "id", Reason: "first", Time: at}
	if *b.Open != want || b.MinBase != (vault.Position{Epoch: 6, Number: 9}) || b.Cut != nil {
		t.Errorf("open became %+v, base at least %+v", b.Open, b.MinBase)
	}
	cut := &wire.Change{Kind: wire.KindCut, Epoch: 7, Number: 2, Cut: &wire.Cut{Point: "p", Group: "g", Time: at.UnixNano(), Consistency: wire.App, Size: 4096}}
	if b, err = o.Batch([]Link{{Change: cut}}); err != nil {
		t.Fatal(err)
	}
	if *b.Cut != (vault.Cut{Point: "p", Group: "g", Time: at, Consistency: "app", Size: 4096}) || b.Open != nil {
		t.Errorf("cut became %+v", b.Cut)
	}
}

func TestRunsEnd(t *testing.T) {
	l := Limits{Bytes: 100, Age: time.Second, Links: 3, Extents: 4}
	now := time.Unix(1000, 0)
	small := &wire.Change{Kind: wire.KindBlock, Block: &wire.Block{Data: make([]byte, 10), Extents: make([]wire.Extent, 1)}}
	for name, adds := range map[string][]*wire.Change{
		"bytes":   {small, {Kind: wire.KindBlock, Block: &wire.Block{Data: make([]byte, 90)}}},
		"links":   {small, small, small},
		"extents": {small, {Kind: wire.KindBlock, Block: &wire.Block{Extents: make([]wire.Extent, 3)}}},
	} {
		var r Run
		for i, c := range adds {
			if r.Full(l) {
				t.Errorf("%s: full after %d", name, i)
			}
			r.Add(c, now.Add(time.Duration(i)*time.Second))
		}
		if !r.Full(l) || !r.Due(l).Equal(now.Add(time.Second)) {
			t.Errorf("%s: full %v, due %v", name, r.Full(l), r.Due(l))
		}
	}
	if !(new(Run)).Due(l).IsZero() {
		t.Error("an empty run is due")
	}
	open, cut := &wire.Change{Kind: wire.KindOpen}, &wire.Change{Kind: wire.KindCut}
	if !Ends(open) || !Ends(cut) || Ends(small) || !Starts(open) || Starts(cut) || Starts(small) {
		t.Error("opens stand alone, cuts end a run, blocks do neither")
	}
}

// BenchmarkBatch shows what a run of 32 MiB costs by what its frames are.
func BenchmarkBatch(b *testing.B) {
	o, err := New(1)
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []string{"packed", "raw-packable", "raw-random"} {
		b.Run(kind, func(b *testing.B) {
			disk := make([][]byte, 64*128)
			var links []Link
			var seed uint32
			for i := range 128 {
				codec := wire.CodecRaw
				if kind == "packed" {
					codec = wire.CodecZstd
				}
				links = append(links, link(uint64(2+i), block(b, disk, []wire.Extent{{Start: uint64(64 * i), Count: 64}}, codec, kind != "raw-random", &seed)))
			}
			b.SetBytes(32 << 20)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := o.Batch(links); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
