package markers

import (
	"errors"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/streams/wire"
)

const goldenQuiet = `{"machine":"web","fence":3,"bytes":8192,"error":"a disk is gone"}`

func TestQuiet(t *testing.T) {
	q := &Quiet{Machine: "web", Fence: 3, Bytes: 8192, Error: "a disk is gone"}
	b, err := q.Encode()
	if err != nil || string(b) != goldenQuiet {
		t.Fatalf("%s, %v", b, err)
	}
	if got, err := DecodeQuiet(b); err != nil || *got != *q {
		t.Errorf("%+v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"no fence": `{"machine":"web","bytes":1}`, "machine": `{"machine":"a b","fence":1}`, "field": `{"machine":"web","fence":1,"host":"x"}`,
		"error": `{"machine":"web","fence":1,"error":"` + strings.Repeat("x", wire.MaxText+1) + `"}`, "two": goldenQuiet + goldenQuiet,
	} {
		if got, err := DecodeQuiet([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := DecodeSettings([]byte(`{"machine":"web","policy":"p","fenced":"` + strings.Repeat("x", wire.MaxText+1) + `"}`)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a reason without end: %v", err)
	}
}

func FuzzDecodeQuiet(f *testing.F) {
	f.Add([]byte(goldenQuiet))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := DecodeQuiet(b)
		if err != nil {
			return
		}
		again, err := q.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if same, err := DecodeQuiet(again); err != nil || same.Machine != q.Machine || same.Fence != q.Fence || same.Bytes != q.Bytes {
			t.Errorf("%+v becomes %+v, %v", q, same, err)
		}
	})
}
