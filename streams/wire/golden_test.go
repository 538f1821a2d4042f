package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden vectors in testdata")

// a message of every type and kind, with every element set to something else.
func samples() map[string]any {
	block := func(codec Codec, data []byte) *Block {
		return &Block{
			Codec: codec, Raw: 2 * BlockSize,
			Extents: []Extent{{Start: 7, Count: 1}, {Start: 9, Count: 300, Kind: ExtentZero}, {Start: 1 << 33, Count: 1}, {Start: 1 << 34, Count: 70000, Kind: ExtentDiscard}},
			Sums:    bytes.Repeat([]byte{0xAB, 0xCD}, 16), Data: data,
		}
	}
	change := func(k Kind, number uint64) *Change {
		c := &Change{Version: Version, Kind: k, Machine: "db-1", Disk: "vda", Epoch: 3, Number: number, Time: 1_700_000_000_123_456_789}
		if number > 1 {
			c.Prev = HashOf([]byte("the link before"))
		}
		return c
	}
	open := change(KindOpen, 1)
	open.Open = &Open{
		Size: 64 << 30, Capture: "trace", Guarantee: "every write is seen", Host: "db-1.example", Instance: "k3j9",
		Path: "/dev/vda", Identity: "QM00001", Reason: "restart", MinEpoch: 2, MinNumber: 4711,
	}
	packed := change(KindBlock, 2)
	packed.Block = block(CodecZstd, []byte("pretend this is a zstd frame"))
	raw := change(KindBlock, 1<<40)
	raw.Block = block(CodecRaw, bytes.Repeat([]byte("0123456789abcdef"), 2*BlockSize/16))
	zeros := change(KindBlock, 3)
	zeros.Block = &Block{Extents: []Extent{{Start: 0, Count: 1, Kind: ExtentZero}}}
	cut := change(KindCut, 4)
	cut.Cut = &Cut{Point: "p1", Group: "shop", Time: 1_700_000_001_000_000_000, Consistency: App, Size: 64 << 30}
	return map[string]any{
		"change-open": open, "change-block-zstd": packed, "change-block-raw": raw, "change-block-zero": zeros, "change-cut": cut,
		"marker": &Marker{
			Version: Version, ID: "p1", Group: "shop", Time: 1_700_000_001_000_000_000, Consistency: Crash, Frozen: 12_345_678,
			Members: []Member{{
				Machine: "db-1",
				Facts: Facts{Host: "db-1.example", CPUs: 8, Memory: 32 << 30, Firmware: "uefi", OS: "Debian GNU/Linux 12", Kernel: "6.1.0",
					NICs: []string{"eth0 02:00:00:00:00:01"}},
				Disks: []DiskCut{{Disk: "vda", Epoch: 3, Number: 4, Size: 64 << 30, Frozen: true, Note: "loose"}, {Disk: "vdb", Epoch: 1, Number: 9, Size: 4096}},
			}},
		},
		"marker-barrier": &Marker{
			Version: Version, ID: "p2", Group: "shop", Time: 1_700_000_001_000_000_000, Consistency: App, Frozen: 9_000_000, Skew: 1_234_567, Took: 890_000_000,
			Members: []Member{
				{Machine: "db-1", Disks: []DiskCut{{Disk: "vda", Epoch: 3, Number: 4, Size: 64 << 30, Frozen: true}}, Frozen: 9_000_000},
				{Machine: "db-2", Disks: []DiskCut{{Disk: "vda", Epoch: 1, Number: 9, Size: 4096, Frozen: true}}, Frozen: 8_000_000},
			},
		},
		"receipt": &Receipt{
			Version: Version, Machine: "db-1", Disk: "vda", Epoch: 3, Number: 4, Hash: HashOf([]byte("link")), BaseEpoch: 2, BaseNumber: 4700,
			Size: 64 << 30, Digest: HashOf([]byte("disk")), Resend: true, Reason: "links 5 to 7 are missing", Time: 1_700_000_002_000_000_000,
		},
		"event": &Event{
			Version: Version, Time: 1_700_000_003_000_000_000, Machine: "db-1", Disk: "vda", Kind: "freeze-aborted", Severity: Warning,
			What: "the freeze took too long", Try: "raise freeze.limit",
		},
		"sums-request": &SumsRequest{Version: Version, Epoch: 3, Start: 1 << 20, Count: MaxSums},
		"sums-reply":   &SumsReply{Version: Version, Epoch: 3, Start: 1 << 20, Sums: bytes.Repeat([]byte{1, 2, 3, 4}, 8), Error: "later"},
	}
}

func encodeAny(t testing.TB, m any) ([]byte, error) {
	switch m := m.(type) {
	case *Change:
		return Encode(m)
	case *Marker:
		return Encode(m)
	case *Receipt:
		return Encode(m)
	case *Event:
		return Encode(m)
	case *SumsRequest:
		return Encode(m)
	case *SumsReply:
		return Encode(m)
	}
	t.Fatalf("no message: %T", m)
	return nil, nil
}

func decodeLike(t testing.TB, m any, b []byte) (any, error) {
	switch m.(type) {
	case *Change:
		return DecodeChange(b)
	case *Marker:
		return DecodeMarker(b)
	case *Receipt:
		return DecodeReceipt(b)
	case *Event:
		return DecodeEvent(b)
	case *SumsRequest:
		return DecodeSumsRequest(b)
	case *SumsReply:
		return DecodeSumsReply(b)
	}
	t.Fatalf("no message: %T", m)
	return nil, nil
}

// The bytes of every message are frozen: agents and servers of different builds
// of one version talk to each other.
func TestGolden(t *testing.T) {
	for name, m := range samples() {
		t.Run(name, func(t *testing.T) {
			got, err := encodeAny(t, m)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".hex")
			if *update {
				if err := os.WriteFile(file, wrapHex(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want := vector(t, file)
			if !bytes.Equal(got, want) {
				t.Fatalf("encodes to\n%s\nwant\n%s", wrapHex(got), wrapHex(want))
			}
			back, err := decodeLike(t, m, want)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(back, m) {
				t.Fatalf("decodes to\n%+v\nwant\n%+v", back, m)
			}
		})
	}
}

// vector reads one file of testdata.
func vector(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (make it with -update)", err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// oldBlocks are the vectors of blocks of version 1, by the name of their sample.
func oldBlocks(t testing.TB) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, name := range []string{"change-block-zstd", "change-block-raw", "change-block-zero"} {
		all[name] = vector(t, filepath.Join("testdata", "v1-"+name+".hex"))
	}
	return all
}

// Agents are upgraded after process servers, so blocks of version 1 are read, and
// their place in the chain is what it was.
func TestOldBlocks(t *testing.T) {
	for name, b := range oldBlocks(t) {
		c, err := DecodeChange(b)
		if err != nil {
			t.Fatal(err)
		}
		want := samples()[name].(*Change) // of version 1 and without a checksum until it is encoded
		if !reflect.DeepEqual(c, want) {
			t.Errorf("%s decodes to\n%+v\nwant\n%+v", name, c, want)
		}
		if LinkHash(c, b) != HashOf(b) {
			t.Errorf("%s has another hash than before", name)
		}
	}
}

// The chain holds every byte of a link but those of its data, which has a checksum: no
// byte can change unseen.
func TestLinkHash(t *testing.T) {
	for _, name := range []string{"change-open", "change-block-zstd", "change-block-zero", "change-cut"} {
		c := samples()[name].(*Change)
		b, err := Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		want := LinkHash(c, b)
		for i := range b {
			for _, bit := range []byte{1, 0x10, 0x80} {
				b[i] ^= bit
				if back, err := DecodeChange(b); err == nil && LinkHash(back, b) == want {
					t.Errorf("%s: a flipped bit in byte %d of %d is not seen", name, i, len(b))
				}
				b[i] ^= bit
			}
		}
		if back, err := DecodeChange(b); err != nil || LinkHash(back, b) != want {
			t.Errorf("%s: reader and writer disagree on the hash (%v)", name, err)
		}
	}
}

func wrapHex(b []byte) []byte {
	var out bytes.Buffer
	for len(b) > 0 {
		n := min(48, len(b))
		out.WriteString(hex.EncodeToString(b[:n]) + "\n")
		b = b[n:]
	}
	return out.Bytes()
}
