package streams

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var someFence = Fence{Machine: "web", Generation: 3, Holder: "copy-web-3", Why: "it was failed over by ann", Since: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}

func TestFenceGolden(t *testing.T) {
	b, err := someFence.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "fence.json"))
	if err != nil || !bytes.Equal(b, bytes.TrimSpace(want)) {
		t.Fatalf("%v: a fence is written as\n%s, and was\n%s", err, b, want)
	}
	f, err := DecodeFence("web", b)
	if err != nil || *f != someFence {
		t.Errorf("%+v, %v", f, err)
	}
	long := someFence
	long.Why = strings.Repeat("ä", maxWhy)
	if b, err = long.Encode(); err != nil {
		t.Fatal(err)
	}
	if f, err = DecodeFence("web", b); err != nil || len(f.Why) != maxWhy {
		t.Errorf("a long reason: %v", err)
	}
}

func TestFenceRefused(t *testing.T) {
	for name, bad := range map[string]string{
		"empty": ``, "other machine": `{"machine":"db","generation":1,"why":"","since":"2026-11-30T12:00:00Z"}`,
		"unknown field": `{"machine":"web","generation":1,"why":"","since":"2026-11-30T12:00:00Z","except":"sda"}`,
		"two":           `{"machine":"web"}{"machine":"web"}`, "long": `{"machine":"web","why":"` + strings.Repeat("x", maxFence) + `"}`,
		"holder": `{"machine":"web","holder":"a b"}`, "reason": `{"machine":"web","why":"` + strings.Repeat("x", maxWhy+1) + `"}`,
	} {
		if f, err := DecodeFence("web", []byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func FuzzDecodeFence(f *testing.F) {
	b, err := someFence.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("web", b)
	f.Add("web", []byte(`{"machine":"web"}`))
	f.Fuzz(func(t *testing.T, machine string, b []byte) {
		got, err := DecodeFence(machine, b)
		if err != nil {
			return
		}
		again, err := got.Encode()
		if err != nil {
			return // a time that JSON reads and does not write
		}
		if same, err := DecodeFence(machine, again); err != nil || !same.Since.Equal(got.Since) || same.Why != got.Why || same.Holder != got.Holder {
			t.Errorf("%+v becomes %+v, %v", got, same, err)
		}
	})
}
