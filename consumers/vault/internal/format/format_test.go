package format

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

var update = flag.Bool("update", false, "write the golden files anew")

type packer struct {
	*zstd.Encoder
	*zstd.Decoder
}

func (p packer) DecodeAll(src, dst []byte) ([]byte, error) { return p.Decoder.DecodeAll(src, dst) }

func newPacker(t testing.TB) Packer {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	d, err := zstd.NewReader(nil, zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return packer{e, d}
}

// golden compares b with a file of hex digits.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var lines strings.Builder
		for text := hex.EncodeToString(b); len(text) > 0; {
			n := min(64, len(text))
			lines.WriteString(text[:n] + "\n")
			text = text[n:]
		}
		if err := os.WriteFile(path, []byte(lines.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil || !bytes.Equal(b, want) {
		t.Errorf("%s changed: vaults that exist could not be read\n got %x\nwant %x", name, b, want)
	}
}

func pattern(start byte) (b [32]byte) {
	for i := range b {
		b[i] = start + byte(i)
	}
	return b
}

func frames() []Frame {
	return []Frame{
		{Codec: CodecZstd, Blocks: 64, Length: 1000, Extents: []Extent{{Start: 5, Count: 10, Off: 0}, {Start: 100, Count: 3, Off: 20}, {Start: 103, Count: 1, Off: 2}}},
		{Codec: CodecRaw, Blocks: 2, Length: 8200, Extents: []Extent{{Start: 50, Count: 2, Off: 0}}},
		{Codec: CodecZeros, Length: 30, Extents: []Extent{{Start: 0, Count: 5}, {Start: 1 << 40, Count: math.MaxUint32}}},
	}
}

func trailer() *Trailer {
	return &Trailer{
		Epoch: 3, First: 1, Last: 12, Hash: pattern(1), BaseEpoch: 1, BaseNumber: 99, BaseHash: pattern(2),
		Size: 1 << 34, Digest: pattern(3), Frames: 3, Blocks: 16, Zeros: 5 + math.MaxUint32,
		SumsOff: 9300, SumsLen: 16*16 + 16, IndexLen: 70,
		Open: &Open{Size: 1 << 34, Capture: "trace", Guarantee: "g", Host: "db1", Instance: "x1", Path: "/dev/sda", Identity: "serial", Reason: "first", Time: 1764000000123456789},
		Cut:  &Cut{Point: "p1", Group: "db", Time: 1764000000223456789, Consistency: "app", Size: 1 << 34},
	}
}

func point() *Point {
	return &Point{
		ID: "p1", Group: "db", Time: 1764000000223456789, Consistency: "crash", Frozen: 12345678, Listed: 1764000001000000000,
		Machines: []PointMachine{{
			Machine: "db1", Host: "db1.example", CPUs: 8, Memory: 64 << 30, Firmware: "uefi", OS: "Debian 13", Kernel: "6.12", NICs: []string{"eth0 52:54:00:00:00:01"},
			Disks: []PointDisk{{Disk: "sda", Epoch: 3, Number: 12, Size: 1 << 34, Digest: pattern(3), Frozen: true}, {Disk: "sdb", Epoch: 1, Number: 7, Size: 4096, Note: "n"}},
		}},
	}
}

func groupPoint() *Point {
	p := point()
	p.Machines = append(p.Machines, PointMachine{Machine: "db2", Disks: []PointDisk{{Disk: "sda", Epoch: 1, Number: 2, Size: 4096}}, Frozen: 7})
	p.Skew, p.Machines[0].Frozen = 1234567, 8
	return p
}

func outerSlot() *OuterSlot {
	return &OuterSlot{ID: "slot2", Name: "https://keys.example/keys/leeward/1", Blob: []byte{1, 2, 3}, Wrapped: slot().Wrapped}
}

func slot() *Slot {
	s := &Slot{ID: "abc", Kind: SlotPassphrase, Time: 3, Memory: 65536, Threads: 4, Salt: pattern(9)}
	copy(s.Wrapped[:], bytes.Repeat([]byte("w"), WrappedSize))
	return s
}

func fileSlot() *Slot {
	s := slot()
	s.ID, s.Kind, s.Time, s.Memory, s.Threads = "def", SlotFile, 0, 0, 0
	return s
}

func must(t testing.TB) func([]byte, error) []byte {
	return func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func record() *Record {
	return &Record{Time: 1700000000000000000, By: "ada", Value: []byte(`{"interval":"5m"}`)}
}

func TestGolden(t *testing.T) {
	fs, ok := frames(), must(t)
	golden(t, "header", AppendHeader(nil, pattern(1)))
	golden(t, "footer", AppendFooter(nil, Footer{Salt: pattern(1), Trailer: 300}))
	golden(t, "frame", append(AppendFrameMeta(nil, &fs[1]), "data"...))
	golden(t, "index", ok(AppendIndex(nil, fs, newPacker(t))))
	golden(t, "trailer", ok(EncodeTrailer(trailer())))
	golden(t, "point-header", AppendPointHeader(nil, pattern(1)))
	golden(t, "point", ok(EncodePoint(point())))
	golden(t, "point-group", ok(EncodePoint(groupPoint())))
	golden(t, "record-header", AppendRecordHeader(nil, pattern(1)))
	golden(t, "record", ok(EncodeRecord(record())))
	golden(t, "slot", ok(EncodeSlot(slot())))
	golden(t, "slot-context", slot().Context())
	golden(t, "file-slot", ok(EncodeSlot(fileSlot())))
	golden(t, "file-slot-context", fileSlot().Context())
	golden(t, "outer-slot", ok(EncodeOuterSlot(outerSlot())))
	golden(t, "outer-slot-context", outerSlot().Context())
	golden(t, "disk-key", EncodeDiskKey([WrappedSize]byte{1, 2, 3}))
	golden(t, "vault", EncodeMarker([16]byte{0xde, 0xad, 15: 0xff}))
}

func TestRoundTrip(t *testing.T) {
	ok := must(t)
	if got, err := DecodeTrailer(ok(EncodeTrailer(trailer()))); err != nil || !reflect.DeepEqual(got, trailer()) {
		t.Errorf("trailer: %+v, %v", got, err)
	}
	if got, err := DecodePoint(ok(EncodePoint(point()))); err != nil || !reflect.DeepEqual(got, point()) {
		t.Errorf("point: %+v, %v", got, err)
	}
	if got, err := DecodePoint(ok(EncodePoint(groupPoint()))); err != nil || !reflect.DeepEqual(got, groupPoint()) {
		t.Errorf("point of a group: %+v, %v", got, err)
	}
	for _, r := range []*Record{record(), {Time: 7, Gone: true}} {
		if got, err := DecodeRecord(ok(EncodeRecord(r))); err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("record: %+v, %v", got, err)
		}
	}
	for _, r := range []*Record{{Value: make([]byte, MaxRecord+1)}, {Gone: true, Value: []byte("x")}, {By: string(make([]byte, MaxText+1))}} {
		if b, err := EncodeRecord(r); err == nil {
			t.Errorf("a record was encoded to %d bytes that must not be", len(b))
		}
	}
	if got, err := DecodeSlot(ok(EncodeSlot(slot()))); err != nil || !reflect.DeepEqual(got, slot()) {
		t.Errorf("slot: %+v, %v", got, err)
	}
	if got, err := DecodeOuterSlot(ok(EncodeOuterSlot(outerSlot()))); err != nil || !reflect.DeepEqual(got, outerSlot()) {
		t.Errorf("outer slot: %+v, %v", got, err)
	}
	if got, err := DecodeSlot(ok(EncodeSlot(fileSlot()))); err != nil || !reflect.DeepEqual(got, fileSlot()) {
		t.Errorf("file slot: %+v, %v", got, err)
	}
	if got, err := DecodeDiskKey(EncodeDiskKey(slot().Wrapped)); err != nil || got != slot().Wrapped {
		t.Errorf("disk key: %v", err)
	}
	if got, err := DecodeMarker(EncodeMarker([16]byte{1, 2})); err != nil || got != [16]byte{1, 2} {
		t.Errorf("marker: %v", err)
	}
	if got, err := DecodeHeader(AppendHeader(nil, pattern(4))); err != nil || got != pattern(4) {
		t.Errorf("header: %v", err)
	}
	if got, err := DecodeFooter(AppendFooter([]byte("before"), Footer{pattern(4), 77})); err != nil || got != (Footer{pattern(4), 77}) {
		t.Errorf("footer: %v", err)
	}
	h, salt, sealed, err := SplitPoint(append(AppendPointHeader(nil, pattern(4)), make([]byte, 20)...))
	if err != nil || salt != pattern(4) || len(h) != PointHeaderSize || len(sealed) != 20 {
		t.Errorf("point header: %v", err)
	}
}

// TestIndexRoundTrip encodes random indexes.
func TestIndexRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	p := newPacker(t)
	zeros := make([]byte, MaxRaw)
	for range 100 {
		var in []Frame
		offset := uint64(HeaderSize)
		for range rnd.IntN(20) {
			f := Frame{Codec: Codec(rnd.IntN(2)), Blocks: 1 + rnd.Uint32N(256), Length: 16 + rnd.Uint32N(1<<20)}
			if rnd.IntN(4) == 0 {
				f.Codec, f.Blocks = CodecZeros, 0
			}
			next := rnd.Uint64N(1 << 40)
			for range 1 + rnd.IntN(30) {
				e := Extent{Start: next, Count: 1 + rnd.Uint32N(1<<30)}
				if f.Codec != CodecZeros {
					e.Off = rnd.Uint32N(f.Blocks)
					e.Count = 1 + rnd.Uint32N(f.Blocks-e.Off)
				}
				f.Extents = append(f.Extents, e)
				next = e.End() + rnd.Uint64N(100)
			}
			f.Offset = offset + FrameHeaderSize
			offset = f.Offset + uint64(f.Length)
			in = append(in, f)
			meta := AppendFrameMeta(nil, &f)
			data := zeros[:min(1, f.Blocks)]
			if f.Codec == CodecRaw {
				data = zeros[:f.Blocks*BlockSize]
			}
			own, rest, err := DecodeFrame(append(meta, data...))
			if err != nil || len(rest) != len(data) || !reflect.DeepEqual(own.Extents, f.Extents) || own.Codec != f.Codec || own.Blocks != f.Blocks {
				t.Fatalf("frame: %+v, %v", own, err)
			}
			if rest, err := SplitFrame(append(meta, data...)); err != nil || len(rest) != len(data) {
				t.Fatal(err)
			}
		}
		b, err := AppendIndex(nil, in, p)
		if err != nil {
			t.Fatal(err)
		}
		out, err := DecodeIndex(b, p)
		if err != nil || len(out) != len(in) || len(in) > 0 && !reflect.DeepEqual(out, in) {
			t.Fatalf("index of %d frames: %v", len(in), err)
		}
		if FramesEnd(out) != offset {
			t.Fatalf("frames end at %d, want %d", FramesEnd(out), offset)
		}
	}
}

func TestRefuses(t *testing.T) {
	p := newPacker(t)
	index := func(change func([]Frame)) error {
		fs := frames()
		change(fs)
		b, err := AppendIndex(nil, fs, p)
		if err == nil {
			_, err = DecodeIndex(b, p)
		}
		return err
	}
	trail := func(change func(*Trailer)) error {
		tr := trailer()
		change(tr)
		_, err := EncodeTrailer(tr)
		return err
	}
	key := func(change func(*Slot)) error {
		s := slot()
		change(s)
		_, err := EncodeSlot(s)
		return err
	}
	pnt := func(change func(*Point)) error {
		x := point()
		change(x)
		_, err := EncodePoint(x)
		return err
	}
	for name, err := range map[string]error{
		"codec":            index(func(f []Frame) { f[0].Codec = 9 }),
		"no extents":       index(func(f []Frame) { f[0].Extents = nil }),
		"empty extent":     index(func(f []Frame) { f[0].Extents[0].Count = 0 }),
		"overlap":          index(func(f []Frame) { f[0].Extents[1].Start = 6 }),
		"beyond frame":     index(func(f []Frame) { f[0].Extents[0].Off = 60 }),
		"beyond disk":      index(func(f []Frame) { f[2].Extents[1].Start = MaxBlocks - 5 }),
		"blocks":           index(func(f []Frame) { f[0].Blocks = 257 }),
		"zeros and blocks": index(func(f []Frame) { f[2].Blocks = 1 }),
		"short frame":      index(func(f []Frame) { f[0].Length = 15 }),
		"epoch 0":          trail(func(t *Trailer) { t.Epoch = 0 }),
		"backwards":        trail(func(t *Trailer) { t.Last = 0 }),
		"open missing":     trail(func(t *Trailer) { t.Open = nil }),
		"open inside":      trail(func(t *Trailer) { t.First = 2 }),
		"predecessor":      trail(func(t *Trailer) { t.Prev[0] = 1 }),
		"base ahead":       trail(func(t *Trailer) { t.BaseEpoch = 3 }),
		"half a base":      trail(func(t *Trailer) { t.BaseNumber = 0 }),
		"huge disk":        trail(func(t *Trailer) { t.Size = 1 << 63 }),
		"sections":         trail(func(t *Trailer) { t.IndexLen = 1 << 40 }),
		"sums":             trail(func(t *Trailer) { t.Blocks++ }),
		"long text":        trail(func(t *Trailer) { t.Open.Path = strings.Repeat("x", MaxText+1) }),
		"dear slot":        key(func(s *Slot) { s.Memory = 1 << 30 }),
		"slow slot":        key(func(s *Slot) { s.Time = 1000 }),
		"slow file slot":   key(func(s *Slot) { s.Kind = SlotFile }),
		"no machines":      pnt(func(p *Point) { p.Machines = nil }),
		"no disks":         pnt(func(p *Point) { p.Machines[0].Disks = nil }),
		"disk at 0":        pnt(func(p *Point) { p.Machines[0].Disks[0].Number = 0 }),
	} {
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := key(func(s *Slot) { s.Kind, s.Memory = 77, 1<<30 }); err != nil {
		t.Errorf("slot of a kind to come: %v", err)
	}
}

// An index that unpacks to far more than it says must not be unpacked.
func TestBomb(t *testing.T) {
	p := newPacker(t)
	packed := p.EncodeAll(make([]byte, 16<<20), nil)
	b := append([]byte{packZstd, 100}, packed...)
	if _, err := DecodeIndex(b, p); !errors.Is(err, ErrMalformed) {
		t.Errorf("bomb: %v", err)
	}
}
