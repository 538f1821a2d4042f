package rescue

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/streams/wire"
)

var update = flag.Bool("update", false, "write the golden messages anew")

func id(b byte) (i ID) {
	for k := range i {
		i[k] = b
	}
	return i
}

func sums(n int) []wire.Sum {
	all := make([]wire.Sum, n)
	for i := range all {
		all[i] = wire.Sum{byte(i), 1}
	}
	return all
}

// golden are messages as they must stay.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	host, err := EncodeHost(&Host{Name: "live", Version: "1.0.0", Disks: []Disk{{Disk: "sda", Path: "/dev/sdb", Size: 1 << 30, Block: true, Identity: "naa.5"}}})
	if err != nil {
		t.Fatal(err)
	}
	q := &Question{Size: 10000, Start: 1, Count: 2, Group: 2, Tags: []Tag{TagOf(sums(2))}}
	order := func(k Kind, body []byte) []byte {
		return (&Order{Kind: k, ID: 7, Session: id(1), Owner: id(2), Disk: "sda", Body: body}).Encode()
	}
	return map[string][]byte{
		"hello":          (&Order{Kind: Hello, ID: 7, Owner: id(2)}).Encode(),
		"hello-report":   (&Report{Kind: Hello, ID: 7, Session: id(1), Body: host}).Encode(),
		"compare":        order(Compare, q.Encode()),
		"compare-report": (&Report{Kind: Compare, ID: 7, Session: id(1), Body: q.Answer(make([]wire.Sum, 2))}).Encode(),
		"write":          order(Write, append(EncodeExtents(Write, []Extent{{4096, 512}, {8192, 100}}), 0x28, 0xb5)),
		"zero":           order(Zero, EncodeExtents(Zero, []Extent{{4096, 1 << 33}})),
		"sync":           order(Sync, nil),
		"progress":       order(Progress, (&Step{Done: 1, Total: 2, What: "bring"}).Encode()),
		"done":           order(Done, []byte("p0001")),
		"failed-report":  (&Report{Kind: Sync, Status: Failed, ID: 7, Session: id(1), Body: []byte("no room")}).Encode(),
	}
}

// The format is what it was: both sides may be of different versions.
func TestGolden(t *testing.T) {
	for name, b := range golden(t) {
		file := filepath.Join("testdata", name+".hex")
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(b) + "\n"; got != string(want) {
			t.Errorf("%s is %s", name, got)
		}
		var again []byte
		if strings.HasSuffix(name, "-report") {
			p, err := ParseReport(b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			again = p.Encode()
		} else {
			o, err := ParseOrder(b)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			again = o.Encode()
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%s is not read as it is written", name)
		}
	}
}

// Only groups that differ are answered, and the answer makes what was hoped for what is.
func TestCompare(t *testing.T) {
	hoped, have := sums(37), sums(37)
	have[9], have[36] = wire.Sum{9}, wire.Sum{}
	q := &Question{Size: 37 * wire.BlockSize, Count: 37, Group: 8}
	for at := 0; at < 37; at += 8 {
		q.Tags = append(q.Tags, TagOf(hoped[at:min(at+8, 37)]))
	}
	p, err := ParseQuestion(q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	answer := p.Answer(have)
	if want := 4 + 8*16 + 4 + 5*16; len(answer) != want {
		t.Errorf("the answer has %d bytes, want %d", len(answer), want)
	}
	if err := q.Merge(hoped, answer); err != nil {
		t.Fatal(err)
	}
	for i := range have {
		if hoped[i] != have[i] {
			t.Errorf("block %d is %v", i, hoped[i])
		}
	}
	for _, bad := range [][]byte{{1}, {0, 0, 0, 9}, {0, 0, 0, 0, 1}, append(bytes.Clone(answer), answer...)} {
		if q.Merge(sums(37), bad) == nil {
			t.Errorf("%x was believed", bad)
		}
	}
}

func TestRefused(t *testing.T) {
	for what, q := range map[string]Question{
		"nothing":  {Size: 1 << 20, Group: 1},
		"too many": {Size: 1 << 40, Count: MaxBlocks + 1, Group: 1},
		"behind":   {Size: 4096, Start: 1, Count: 1, Group: 1, Tags: make([]Tag, 1)},
		"wraps":    {Size: 1 << 63, Start: 1<<64 - 1, Count: 2, Group: 2, Tags: make([]Tag, 1)},
		"tags":     {Size: 1 << 20, Count: 8, Group: 2, Tags: make([]Tag, 3)},
		"no group": {Size: 1 << 20, Count: 8},
	} {
		if _, err := ParseQuestion(q.Encode()); err == nil {
			t.Errorf("%s was believed", what)
		}
	}
	for what, e := range map[string]Extent{"empty": {0, 0}, "wraps": {1<<64 - 1, 2}, "large": {0, MaxData + 1}} {
		if _, _, err := ParseExtents(Write, EncodeExtents(Write, []Extent{e})); err == nil {
			t.Errorf("%s was believed", what)
		}
	}
	if _, err := ParseOrder((&Order{Kind: Sync, Disk: "../x"}).Encode()); err == nil {
		t.Error("a disk of another name")
	}
	if s := Text([]byte("a\x1b[2Jb\u009bc\x9b")); strings.ContainsAny(s, "\x1b\u009b\ufffd") {
		t.Errorf("%q obeys", s)
	}
}

func FuzzMessages(f *testing.F) {
	for _, b := range golden(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := ParseOrder(b); err == nil {
			if !bytes.Equal(o.Encode(), b) {
				t.Fatal("an order is not written as it was read")
			}
			if q, err := ParseQuestion(o.Body); err == nil {
				if !bytes.Equal(q.Encode(), o.Body) {
					t.Fatal("a question is not written as it was read")
				}
				q.Answer(make([]wire.Sum, q.Count))
			}
			for _, k := range []Kind{Write, Zero} {
				if all, rest, err := ParseExtents(k, o.Body); err == nil && !bytes.Equal(append(EncodeExtents(k, all), rest...), o.Body) {
					t.Fatal("extents are not written as they were read")
				}
			}
			_, _ = ParseStep(o.Body)
		}
		if p, err := ParseReport(b); err == nil {
			_, _ = ParseHost(p.Body)
			q := &Question{Size: 1 << 20, Count: 16, Group: 3, Tags: make([]Tag, 6)}
			_ = q.Merge(make([]wire.Sum, 16), p.Body)
			_ = Text(p.Body)
		}
	})
}
