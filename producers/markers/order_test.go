package markers

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/streams/timing"
	"github.com/leeward-dr/leeward/streams/wire"
)

func messages() map[string]any {
	return map[string]any{
		"order": &Order{Barrier: "k3j9", Group: "shop", Stage: Go, Consistency: wire.App, Point: "20261130T120000-k3j9", Time: 1_800_000_000_123_456_789, Limit: 200 * time.Millisecond, Every: 5 * time.Second},
		"needs": &Needs{
			Machine: "db", Version: "1.2.3", Host: "db.local", Kernel: "6.1.0", Since: 1_800_000_000_000_000_000, Rate: 1 << 20, SentBytes: 5 << 30,
			Waited: 90 * time.Second, Refused: 3, Trouble: "maximum bytes exceeded", Points: 720, Aborted: 2, Lost: 1, Heap: 40 << 20, Goroutines: 31,
			Acks:  timing.Counts{Buckets: append(make([]uint64, len(timing.Bounds())), 7), Sum: time.Hour},
			Disks: []DiskNeeds{{Disk: "sda", Driver: "trace", Dirty: 4096, Unconfirmed: 1 << 20, Left: 1 << 30}},
		},
		"report": &Report{Barrier: "k3j9", Machine: "db", Stage: Go, Frozen: 12345678, Member: cut("db")},
	}
}

// The JSON of a release is frozen: agents and control of one version talk to each other.
func TestGolden(t *testing.T) {
	for name, m := range messages() {
		b, err := json.MarshalIndent(m, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".json"
		if *update {
			if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(want)) != string(b) {
			t.Errorf("%s is written as\n%s\nwant\n%s (%v)", name, b, want, err)
		}
		var back any
		switch name {
		case "order":
			back, err = DecodeOrder(want)
		case "needs":
			back, err = DecodeNeeds(want)
		default:
			back, err = DecodeReport(want)
		}
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("%s is read as %+v, %v", name, back, err)
		}
	}
}

func TestDecodersRefuse(t *testing.T) {
	for _, s := range []string{
		``, `{}`, `null`, `[]`, `{"barrier":"a"}`, `{"barrier":"a","group":"g","stage":"dance","consistency":"crash"}`,
		`{"barrier":"a","group":"g","stage":"freeze","consistency":"crash"}`, `{"barrier":"a","group":"g","stage":"call","consistency":"some"}`,
		`{"barrier":"a.b","group":"g","stage":"call","consistency":"crash"}`, `{"barrier":"a","group":"g","stage":"call","consistency":"crash","x":1}`,
		`{"barrier":"a","group":"g","stage":"call","consistency":"crash"}{}`, `{"barrier":"a","group":"g","stage":"call","consistency":"crash","limit_ns":-1}`,
	} {
		if o, err := DecodeOrder([]byte(s)); err == nil {
			t.Errorf("order %s was read as %+v", s, o)
		}
	}
	for _, s := range []string{
		`{"barrier":"a","machine":"m","stage":"abort"}`, `{"barrier":"a","machine":"m","stage":"go"}`, `{"barrier":"a","machine":"m","stage":"call","frozen_ns":-1}`,
		`{"barrier":"a","machine":"m","stage":"go","member":{"machine":"other","facts":{},"disks":[{"disk":"d","epoch":1,"number":1,"size":1}]}}`,
		`{"barrier":"a","machine":"m","stage":"go","member":{"machine":"m","facts":{},"disks":[]}}`,
	} {
		if r, err := DecodeReport([]byte(s)); err == nil {
			t.Errorf("report %s was read as %+v", s, r)
		}
	}
}

func TestNeeds(t *testing.T) {
	for _, s := range []string{
		``, `[]`, `{}`, `{"machine":"a.b"}`, `{"machine":"a","disks":[{"disk":"*"}]}`, `{"machine":"a","rate":-1}`, `{"machine":"a","goroutines":-1}`, `{"machine":"a","waited_ns":-1}`,
	} {
		if n, err := DecodeNeeds([]byte(s)); err == nil {
			t.Errorf("%s was read as %+v", s, n)
		}
	}
	n, err := DecodeNeeds([]byte(`{"machine":"a","of_tomorrow":1,"acks":{"buckets":[1,2],"sum_ns":5}}`))
	if err != nil || len(n.Acks.Buckets) != 0 || n.Acks.Sum != 0 {
		t.Errorf("of a newer agent: %+v, %v", n, err)
	}
}

func FuzzDecodeNeeds(f *testing.F) {
	b, err := json.Marshal(messages()["needs"])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := DecodeNeeds(b); err == nil {
			again(t, n, func(b []byte) (any, error) { return DecodeNeeds(b) })
		}
	})
}

func FuzzDecodeOrder(f *testing.F) {
	f.Add([]byte(`{"barrier":"a","group":"g","stage":"freeze","consistency":"crash","point":"p"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := DecodeOrder(b); err == nil {
			again(t, o, func(b []byte) (any, error) { return DecodeOrder(b) })
		}
	})
}

func FuzzDecodeReport(f *testing.F) {
	b, err := json.Marshal(messages()["report"])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeReport(b); err == nil {
			again(t, r, func(b []byte) (any, error) { return DecodeReport(b) })
		}
	})
}

func again(t *testing.T, m any, decode func([]byte) (any, error)) {
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(b); err != nil {
		t.Fatalf("%s was read once, not twice: %v", b, err)
	}
}
