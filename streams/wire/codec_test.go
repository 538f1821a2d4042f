package wire

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
	"pgregory.net/rapid"
)

// A message may be read with any msgpack library, as doc.go says. It is also a
// second opinion on the hand-written code.
func TestLibraryReadsTheSame(t *testing.T) {
	for name, m := range samples() {
		if name == "marker-barrier" {
			continue // the longer form of a marker is not in the tags
		}
		t.Run(name, func(t *testing.T) {
			b, err := encodeAny(t, m)
			if err != nil {
				t.Fatal(err)
			}
			back := reflect.New(reflect.TypeOf(m).Elem()).Interface()
			if err := msgpack.Unmarshal(b, back); err != nil {
				t.Fatal(err)
			}
			var again bytes.Buffer
			e := msgpack.NewEncoder(&again)
			e.UseCompactInts(true)
			if err := e.Encode(back); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again.Bytes(), b) {
				t.Fatalf("the library reads and writes\n%x\nwant\n%x", again.Bytes(), b)
			}
		})
	}
}

var (
	names = rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}`)
	texts = rapid.StringN(-1, -1, 300)
)

func hashes(t *rapid.T) (h Hash) {
	copy(h[:], rapid.SliceOfN(rapid.Byte(), len(h), len(h)).Draw(t, "hash"))
	return h
}

func draw[V any](t *rapid.T, g *rapid.Generator[V]) V { return g.Draw(t, "v") }

func drawBlock(t *rapid.T) *Block {
	b := &Block{Codec: Codec(rapid.Uint8Range(0, 1).Draw(t, "codec"))}
	next, data := uint64(0), uint64(0)
	for range rapid.IntRange(1, 40).Draw(t, "extents") {
		e := Extent{
			Start: next + rapid.Uint64Range(0, 1<<40).Draw(t, "gap"),
			Count: rapid.Uint32Range(1, 5).Draw(t, "count"), Kind: ExtentKind(rapid.Uint8Range(0, 2).Draw(t, "kind")),
		}
		if e.Kind == ExtentData {
			data += uint64(e.Count)
		} else {
			e.Count = draw(t, rapid.Uint32Range(1, math.MaxUint32))
		}
		next = e.Start + uint64(e.Count)
		b.Extents = append(b.Extents, e)
	}
	b.Raw = uint32(data * BlockSize)
	if data > 0 {
		b.Sums = bytes.Repeat([]byte{draw(t, rapid.Byte())}, int(data)*16)
		n := int(b.Raw)
		if b.Codec == CodecZstd {
			n = rapid.IntRange(1, 300).Draw(t, "packed")
		}
		b.Data = bytes.Repeat([]byte{draw(t, rapid.Byte())}, n)
	}
	return b
}

func drawChange(t *rapid.T) any {
	c := &Change{
		Version: Version, Kind: Kind(rapid.Uint8Range(1, 3).Draw(t, "kind")), Machine: draw(t, names), Disk: draw(t, names),
		Epoch: draw(t, rapid.Uint64Min(1)), Number: 1, Time: draw(t, rapid.Int64()),
	}
	if c.Kind != KindOpen {
		c.Number, c.Prev = rapid.Uint64Min(2).Draw(t, "number"), hashes(t)
	}
	switch c.Kind {
	case KindOpen:
		c.Open = &Open{
			Size: draw(t, rapid.Uint64Range(1, math.MaxInt64)), Capture: draw(t, texts), Guarantee: draw(t, texts), Host: draw(t, texts),
			Instance: draw(t, texts), Path: draw(t, texts), Identity: draw(t, texts), Reason: draw(t, texts),
			MinEpoch: draw(t, rapid.Uint64()), MinNumber: draw(t, rapid.Uint64()),
		}
	case KindBlock:
		c.Block = drawBlock(t)
	case KindCut:
		c.Cut = &Cut{Point: draw(t, names), Group: draw(t, names), Time: draw(t, rapid.Int64()), Consistency: App, Size: draw(t, rapid.Uint64Range(1, math.MaxInt64))}
	}
	return c
}

func drawMarker(t *rapid.T) any {
	m := &Marker{Version: Version, ID: draw(t, names), Group: draw(t, names), Time: draw(t, rapid.Int64()), Consistency: Crash, Frozen: draw(t, rapid.Int64())}
	for range rapid.IntRange(1, 20).Draw(t, "members") {
		k := Member{Machine: draw(t, names), Facts: Facts{Host: draw(t, texts), CPUs: draw(t, rapid.Uint32()), Memory: draw(t, rapid.Uint64()), OS: draw(t, texts)}}
		for range rapid.IntRange(0, 20).Draw(t, "nics") {
			k.Facts.NICs = append(k.Facts.NICs, draw(t, texts))
		}
		for range rapid.IntRange(1, 20).Draw(t, "disks") {
			k.Disks = append(k.Disks, DiskCut{
				Disk: draw(t, names), Epoch: draw(t, rapid.Uint64Min(1)), Number: draw(t, rapid.Uint64Min(1)),
				Size: draw(t, rapid.Uint64Range(1, math.MaxInt64)), Frozen: draw(t, rapid.Bool()), Note: draw(t, texts),
			})
		}
		m.Members = append(m.Members, k)
	}
	if rapid.Bool().Draw(t, "barrier") {
		m.Skew, m.Took, m.Members[0].Frozen = draw(t, rapid.Int64()), draw(t, rapid.Int64()), draw(t, rapid.Int64())
	}
	return m
}

func drawOther(t *rapid.T) any {
	switch rapid.IntRange(0, 3).Draw(t, "which") {
	case 0:
		return &Receipt{
			Version: Version, Machine: draw(t, names), Disk: draw(t, names), Epoch: draw(t, rapid.Uint64()), Number: draw(t, rapid.Uint64()),
			Hash: hashes(t), BaseEpoch: draw(t, rapid.Uint64()), BaseNumber: draw(t, rapid.Uint64()), Size: draw(t, rapid.Uint64()),
			Digest: hashes(t), Resend: draw(t, rapid.Bool()), Reason: draw(t, texts), Time: draw(t, rapid.Int64()),
		}
	case 1:
		return &Event{
			Version: Version, Time: draw(t, rapid.Int64()), Machine: draw(t, names), Disk: draw(t, texts), Kind: draw(t, names),
			Severity: Info, What: draw(t, texts), Try: draw(t, texts),
		}
	case 2:
		return &SumsRequest{Version: Version, Epoch: draw(t, rapid.Uint64()), Start: draw(t, rapid.Uint64Range(0, maxBlock)), Count: draw(t, rapid.Uint32Range(1, MaxSums))}
	}
	m := &SumsReply{Version: Version, Epoch: draw(t, rapid.Uint64()), Start: draw(t, rapid.Uint64()), Error: draw(t, texts)}
	if n := rapid.IntRange(0, 100).Draw(t, "sums"); n > 0 {
		m.Sums = bytes.Repeat([]byte{draw(t, rapid.Byte())}, 16*n)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	for name, gen := range map[string]func(*rapid.T) any{"change": drawChange, "marker": drawMarker, "other": drawOther} {
		t.Run(name, rapid.MakeCheck(func(r *rapid.T) {
			m := gen(r)
			b, err := encodeAny(t, m)
			if err != nil {
				r.Fatalf("%+v: %v", m, err)
			}
			back, err := decodeLike(t, m, b)
			if err != nil {
				r.Fatalf("%+v: %v", m, err)
			}
			if !reflect.DeepEqual(m, back) {
				r.Fatalf("%+v\nbecame\n%+v", m, back)
			}
			if _, err := Describe("", b); err != nil {
				r.Fatalf("describe: %v", err)
			}
			// A message that lost its end is never taken for a whole one.
			if _, err := decodeLike(t, m, b[:rapid.IntRange(0, len(b)-1).Draw(r, "cut")]); err == nil {
				r.Fatal("a message that was cut short decodes")
			}
			if _, err := decodeLike(t, m, append(b, 0)); !errors.Is(err, ErrMalformed) {
				r.Fatalf("a byte behind the message: %v", err)
			}
		}))
	}
}

func TestOtherVersions(t *testing.T) {
	for name, m := range samples() {
		b, err := encodeAny(t, m)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []byte{0, 3, 127} {
			b[versionAt(b)] = v
			if _, err := decodeLike(t, m, b); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
				t.Errorf("%s of version %d: %v", name, v, err)
			}
		}
		// A later version may be longer than we know and hold what we do not.
		later := []byte{0xdc, 0, 20, 3, 0xcb, 1, 2, 3, 4, 5, 6, 7, 8}
		if _, err := decodeLike(t, m, append(later, make([]byte, 20)...)); !errors.Is(err, ErrVersion) {
			t.Errorf("%s of a later, longer version: %v", name, err)
		}
	}
}

func versionAt(b []byte) int {
	if b[0] == 0xdc {
		return 3
	}
	return 1
}

// Lengths are an attacker's: none may cost memory before it is checked.
func TestLengthsDoNotAllocate(t *testing.T) {
	prefix := func(m any) []byte {
		b, err := encodeAny(t, m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	s := samples()
	block, marker := prefix(s["change-block-zero"]), prefix(s["marker"])
	extents := bytes.Index(block, []byte{0x91, 0x93, 0, 1, 1})
	members := bytes.Index(marker, []byte{0x92, 0x93}[1:]) - 1
	for name, b := range map[string][]byte{
		"extents":      append(bytes.Clone(block[:extents]), 0xdd, 0xff, 0xff, 0xff, 0xff),
		"extents16":    append(bytes.Clone(block[:extents]), 0xdc, 0x0f, 0xff),
		"data":         append(bytes.Clone(block[:len(block)-3]), 0xc6, 0xff, 0xff, 0xff, 0xff),
		"members":      append(bytes.Clone(marker[:members]), 0xdd, 0x7f, 0xff, 0xff, 0xff),
		"machine":      {0x9b, 1, 1, 0xdb, 0xff, 0xff, 0xff, 0xff},
		"elements":     {0xdd, 0xff, 0xff, 0xff, 0xff, 1},
		"million nils": append(append(bytes.Clone(marker[:members]), 0xdd, 0, 0x0f, 0, 0), bytes.Repeat([]byte{0xc0}, 1<<20)...),
		"deep":         bytes.Repeat([]byte{0x91}, 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range 10 {
				for _, m := range samples() {
					if _, err := decodeLike(t, m, b); err == nil {
						t.Fatalf("%T: decodes", m)
					}
				}
				if _, err := Describe("", b); err == nil {
					t.Fatal("describes")
				}
			}
			runtime.ReadMemStats(&after)
			if spent := after.TotalAlloc - before.TotalAlloc; spent > 4<<20 {
				t.Fatalf("refusing it 110 times allocated %d bytes", spent)
			}
		})
	}
}

// Every message has one encoding, so nothing can be said in two ways.
func TestOnlyShortestForm(t *testing.T) {
	ok := []byte{0x94, 1, 3, 5, 7}
	if _, err := DecodeSumsRequest(ok); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"number in 8 bits":    {0x94, 1, 0xcc, 3, 5, 7},
		"number in 64 bits":   {0x94, 1, 3, 0xcf, 0, 0, 0, 0, 0, 0, 0, 5, 7},
		"signed number":       {0x94, 1, 3, 0xd0, 5, 7},
		"negative number":     {0x94, 1, 3, 0xff, 7},
		"array in 16 bits":    {0xdc, 0, 4, 1, 3, 5, 7},
		"count beyond 32 bit": {0x94, 1, 3, 5, 0xcf, 0, 0, 0, 1, 0, 0, 0, 7},
		"float":               {0x94, 1, 3, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 7},
		"nil":                 {0x94, 1, 0xc0, 5, 7},
	} {
		if m, err := DecodeSumsRequest(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
}

// A message that is built around its data is the same, and moves the data only when
// there is no room.
func TestEncodeInPlace(t *testing.T) {
	for name, m := range samples() {
		c, ok := m.(*Change)
		if !ok {
			continue
		}
		want, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, room := range []int{0, 10, len(want), 4096} {
			for _, spare := range []int{0, 1} {
				buf := make([]byte, room, room+BlockSize*2+100+spare)
				if c.Block != nil {
					buf = append(buf, c.Block.Data...)
					buf = buf[: len(buf) : len(buf)+spare]
					c.Block.Data = buf[room:]
				}
				got, err := EncodeInPlace(c, buf, room)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%s with %d bytes of room: %v\n%x\nwant\n%x", name, room, err, got, want)
				}
				if c.Block == nil || len(c.Block.Data) == 0 {
					continue
				}
				inPlace := &got[len(got)-2] == &c.Block.Data[len(c.Block.Data)-1]
				if inPlace != (room == 4096 && spare == 1) && room != len(want) {
					t.Errorf("%s with %d bytes of room and %d behind: in place %v", name, room, spare, inPlace)
				}
			}
		}
		if c.Block != nil {
			c.Block.Raw++
			if _, err := EncodeInPlace(c, nil, 0); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: a bad block is encoded: %v", name, err)
			}
		}
	}
}
