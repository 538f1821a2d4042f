package wire

import (
	"math/rand/v2"
	"testing"
)

// bigBlock is what an agent sends most: 256 KiB of blocks in a few extents.
func bigBlock() *Change {
	r := rand.New(rand.NewPCG(1, 2))
	const blocks = 256 << 10 / BlockSize
	b := &Block{Codec: CodecRaw, Raw: blocks * BlockSize, Sums: make([]byte, blocks*16), Data: make([]byte, blocks*BlockSize)}
	for i := range uint64(blocks / 8) {
		b.Extents = append(b.Extents, Extent{Start: i * 1000, Count: 8})
	}
	for i := range b.Data {
		b.Data[i] = byte(r.Uint32())
	}
	return &Change{Kind: KindBlock, Machine: "db-1", Disk: "vda", Epoch: 3, Number: 4711, Prev: HashOf(nil), Time: 1_700_000_000_000_000_000, Block: b}
}

func BenchmarkEncodeBlock(b *testing.B) {
	m := bigBlock()
	b.SetBytes(int64(len(m.Block.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeBlock(b *testing.B) {
	m := bigBlock()
	p, err := Encode(m)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(m.Block.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeChange(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHash(b *testing.B) {
	m := bigBlock()
	p, err := Encode(m)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		LinkHash(m, p)
	}
}
