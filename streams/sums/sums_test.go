package sums

import (
	"crypto/rand"
	"testing"

	"pgregory.net/rapid"
)

type sum [16]byte

// Sums of many blocks are the sums of each.
func TestAll(t *testing.T) {
	if !inPairs {
		t.Log("this CPU sums up one block at a time")
	}
	rapid.Check(t, func(rt *rapid.T) {
		kinds := rapid.SliceOfN(rapid.IntRange(0, 3), 0, 20).Draw(rt, "blocks")
		data := make([]byte, len(kinds)*BlockSize)
		for i, k := range kinds {
			b := data[i*BlockSize : (i+1)*BlockSize]
			switch k {
			case 1:
				_, _ = rand.Read(b)
			case 2:
				b[rapid.IntRange(0, BlockSize-1).Draw(rt, "where")] = 1
			case 3:
				for j := range b {
					b[j] = 0xff
				}
			}
		}
		got := make([]sum, len(kinds))
		for i := range got {
			got[i][0] = 7 // what is not written stays wrong
		}
		All(data, got)
		for i := range got {
			if want := sum(Of(data[i*BlockSize : (i+1)*BlockSize])); got[i] != want {
				rt.Fatalf("block %d of %v: %x, want %x", i, kinds, got[i], want)
			}
		}
	})
}

func FuzzAll(f *testing.F) {
	f.Add([]byte("one"), []byte("another"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		data := make([]byte, 2*BlockSize)
		copy(data[:BlockSize], a)
		copy(data[BlockSize:], b)
		var got [2]sum
		All(data, got[:])
		if got[0] != Of(data[:BlockSize]) || got[1] != Of(data[BlockSize:]) {
			t.Fatalf("%x", got)
		}
	})
}

func BenchmarkSums(b *testing.B) {
	data := make([]byte, 64*BlockSize)
	_, _ = rand.Read(data)
	to := make([]sum, 64)
	b.Run("each", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for i := range to {
				to[i] = Of(data[i*BlockSize : (i+1)*BlockSize])
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			All(data, to)
		}
	})
}
