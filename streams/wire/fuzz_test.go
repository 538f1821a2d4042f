package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

// fuzz checks one decoder: it never panics, fails only with the documented
// errors, and what it accepts encodes to the very same bytes.
func fuzz[M message](f *testing.F, decode func([]byte) (M, error)) {
	for _, m := range samples() {
		b, err := encodeAny(f, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	for _, b := range oldBlocks(f) {
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
				t.Fatalf("undocumented error %v", err)
			}
			return
		}
		if again := m.write(nil); !bytes.Equal(again, b) {
			t.Fatalf("%x\nencodes again to\n%x", b, again)
		}
		if _, err := Encode(m); err != nil { // by the newest version
			t.Fatalf("decoded, but does not encode: %v", err)
		}
	})
}

func FuzzDecodeChange(f *testing.F)      { fuzz(f, DecodeChange) }
func FuzzDecodeMarker(f *testing.F)      { fuzz(f, DecodeMarker) }
func FuzzDecodeReceipt(f *testing.F)     { fuzz(f, DecodeReceipt) }
func FuzzDecodeEvent(f *testing.F)       { fuzz(f, DecodeEvent) }
func FuzzDecodeSumsRequest(f *testing.F) { fuzz(f, DecodeSumsRequest) }
func FuzzDecodeSumsReply(f *testing.F)   { fuzz(f, DecodeSumsReply) }

func FuzzDescribe(f *testing.F) {
	for name, m := range samples() {
		b, err := encodeAny(f, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(subjects[name], b)
		f.Add("", b)
	}
	f.Add("$KV.LEEWARD_LEASES.a.b", []byte(`{"instance":"x"}`))
	f.Fuzz(func(t *testing.T, subject string, b []byte) {
		v, err := Describe(subject, b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
				t.Fatalf("undocumented error %v", err)
			}
			return
		}
		if _, err := json.Marshal(v); err != nil {
			t.Fatalf("does not marshal: %v", err)
		}
	})
}
