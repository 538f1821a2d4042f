package wire

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// Encode refuses what Decode would refuse, for every rule of check.go.
func TestRefused(t *testing.T) {
	long := strings.Repeat("x", MaxText+1)
	change := func(sample string, f func(*Change)) any {
		c := samples()[sample].(*Change)
		f(c)
		return c
	}
	block := func(f func(*Block)) any { return change("change-block-raw", func(c *Change) { f(c.Block) }) }
	marker := func(f func(*Marker)) any { m := samples()["marker"].(*Marker); f(m); return m }
	event := func(f func(*Event)) any { m := samples()["event"].(*Event); f(m); return m }
	for name, m := range map[string]any{
		"machine name":          change("change-cut", func(c *Change) { c.Machine = "a.b" }),
		"disk name":             change("change-cut", func(c *Change) { c.Disk = "" }),
		"epoch 0":               change("change-cut", func(c *Change) { c.Epoch = 0 }),
		"number 0":              change("change-cut", func(c *Change) { c.Number = 0 }),
		"kind without body":     change("change-cut", func(c *Change) { c.Kind = KindBlock }),
		"two bodies":            change("change-cut", func(c *Change) { c.Open = &Open{Size: 1} }),
		"unknown kind":          change("change-cut", func(c *Change) { c.Kind, c.Cut = 9, nil }),
		"open later":            change("change-open", func(c *Change) { c.Number = 2 }),
		"first is no open":      change("change-cut", func(c *Change) { c.Number = 1 }),
		"first has predecessor": change("change-open", func(c *Change) { c.Prev[0] = 1 }),
		"open of nothing":       change("change-open", func(c *Change) { c.Open.Size = 0 }),
		"open of too much":      change("change-open", func(c *Change) { c.Open.Size = math.MaxUint64 }),
		"open with long text":   change("change-open", func(c *Change) { c.Open.Guarantee = long }),
		"cut point":             change("change-cut", func(c *Change) { c.Cut.Point = "../x" }),
		"cut group":             change("change-cut", func(c *Change) { c.Cut.Group = "*" }),
		"cut consistency":       change("change-cut", func(c *Change) { c.Cut.Consistency = "perfect" }),
		"cut size":              change("change-cut", func(c *Change) { c.Cut.Size = 0 }),
		"no extents":            block(func(b *Block) { b.Extents = nil }),
		"too many extents":      block(func(b *Block) { b.Extents = make([]Extent, MaxExtents+1) }),
		"empty extent":          block(func(b *Block) { b.Extents[1].Count = 0 }),
		"extents overlap":       block(func(b *Block) { b.Extents[1].Start = b.Extents[0].Start }),
		"extent overflows":      block(func(b *Block) { b.Extents[3].Start = math.MaxUint64 - 3 }),
		"extent beyond int64":   block(func(b *Block) { b.Extents[3].Start = maxBlock }),
		"extent kind":           block(func(b *Block) { b.Extents[3].Kind = 7 }),
		"raw too small":         block(func(b *Block) { b.Raw -= BlockSize }),
		"raw without extents":   block(func(b *Block) { b.Extents[0].Kind = ExtentZero }),
		"raw beyond limit":      block(func(b *Block) { b.Extents[0].Count, b.Extents[1].Start = 300, 400; b.Raw = 301 * BlockSize }),
		"sums short":            block(func(b *Block) { b.Sums = b.Sums[16:] }),
		"sums long":             block(func(b *Block) { b.Sums = append(b.Sums, 1) }),
		"data short":            block(func(b *Block) { b.Data = b.Data[1:] }),
		"data missing":          block(func(b *Block) { b.Codec, b.Data = CodecZstd, nil }),
		"data too long":         block(func(b *Block) { b.Codec, b.Data = CodecZstd, make([]byte, MaxData+1) }),
		"codec":                 block(func(b *Block) { b.Codec = 2 }),
		"marker without disks":  marker(func(m *Marker) { m.Members[0].Disks = nil }),
		"marker machine":        marker(func(m *Marker) { m.Members[0].Machine = "" }),
		"machine without disks": marker(func(m *Marker) { m.Members = append(m.Members, Member{Machine: long}) }),
		"too many machines":     marker(func(m *Marker) { m.Members = append(m.Members, make([]Member, MaxMembers)...) }),
		"too many disks":        marker(func(m *Marker) { d := m.Members[0].Disks; m.Members[0].Disks = repeat(d[0], MaxMembers+1) }),
		"too many cards":        marker(func(m *Marker) { m.Members[0].Facts.NICs = make([]string, MaxNICs+1) }),
		"long card":             marker(func(m *Marker) { m.Members[0].Facts.NICs[0] = long }),
		"marker disk":           marker(func(m *Marker) { m.Members[0].Disks[0].Disk = "a/b" }),
		"marker position":       marker(func(m *Marker) { m.Members[0].Disks[0].Number = 0 }),
		"marker note":           marker(func(m *Marker) { m.Members[0].Disks[0].Note = long }),
		"receipt reason":        &Receipt{Machine: "a", Disk: "b", Reason: long},
		"receipt disk":          &Receipt{Machine: "a"},
		"event kind":            event(func(m *Event) { m.Kind = "a.b" }),
		"event severity":        event(func(m *Event) { m.Severity = "" }),
		"event text":            event(func(m *Event) { m.What = long }),
		"no sums asked":         &SumsRequest{},
		"too many sums asked":   &SumsRequest{Count: MaxSums + 1},
		"half a sum":            &SumsReply{Sums: make([]byte, 8)},
		"too many sums":         &SumsReply{Sums: make([]byte, 16*MaxSums+16)},
	} {
		if b, err := encodeAny(t, m); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		} else if b != nil {
			t.Errorf("%s: refused with %d bytes", name, len(b))
		}
	}
}

func repeat[V any](v V, n int) []V {
	out := make([]V, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func TestIsZeroAndSum(t *testing.T) {
	b := make([]byte, 3*BlockSize+5)
	if !IsZero(b) || !IsZero(nil) {
		t.Error("zeros are not zero")
	}
	for _, i := range []int{0, BlockSize - 1, BlockSize, 3 * BlockSize, len(b) - 1} {
		b[i] = 1
		if IsZero(b) {
			t.Errorf("a one at %d is overlooked", i)
		}
		b[i] = 0
	}
	if SumOf(b[:BlockSize]) != (Sum{}) {
		t.Error("the sum of zeros is not zero")
	}
	b[7] = 1
	if h := HashOf(b[:BlockSize]); SumOf(b[:BlockSize]) != Sum(h[:16]) {
		t.Error("a sum is not the first 16 bytes of SHA-256")
	}
}
