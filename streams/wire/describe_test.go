package wire

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/streams"
)

var subjects = map[string]string{
	"change-open": streams.ChangesSubject("db-1", "vda"), "change-block-zstd": streams.ChangesSubject("db-1", "vda"),
	"change-block-raw":  streams.TapPrefix + "07.db-1.vda",
	"change-block-zero": streams.ChangesSubject("db-1", "vda"), "change-cut": streams.ChangesSubject("db-1", "vda"),
	"marker": streams.MarkersSubject("shop"), "receipt": streams.ReceiptsSubject("db-1", "vda"),
	"event": streams.EventsSubject("db-1", "freeze-aborted"), "sums-request": streams.SumsSubject("db-1", "vda"), "sums-reply": "_INBOX.x.y",
}

func TestDescribe(t *testing.T) {
	want := map[string][]string{
		"change-open":       {`"message":"change"`, `"kind":"open"`, `"capture":"trace"`, `"min_number":4711`, `"2023-11-14T22:13:20.123456789Z"`},
		"change-block-zstd": {`"codec":"zstd"`, `"7+1 data","9+300 zero"`, `"sums":"2, first abcdabcdabcd…"`, `28 bytes: 70726574`},
		"change-block-raw":  {`"codec":"raw"`, `"data":"8192 bytes: 30313233343536373839616263646566"`},
		"change-block-zero": {`"data":"none"`},
		"change-cut":        {`"point":"p1"`, `"consistency":"app"`},
		"marker":            {`"message":"marker"`, `"frozen":"12.345678ms"`, `"firmware":"uefi"`, `"disk":"vda"`},
		"receipt":           {`"message":"receipt"`, `"resend":true`},
		"event":             {`"message":"event"`, `"severity":"warning"`, `"try":"raise freeze.limit"`},
		"sums-request":      {`"message":"sums request"`, `"count":16384`},
		"sums-reply":        {`"message":"sums reply"`, `"error":"later"`},
	}
	for name, m := range samples() {
		b, err := encodeAny(t, m)
		if err != nil {
			t.Fatal(err)
		}
		by := map[string]string{}
		for _, subject := range []string{subjects[name], "", "some.other.subject"} {
			v, err := Describe(subject, b)
			if err != nil {
				t.Fatalf("%s on %q: %v", name, subject, err)
			}
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			by[string(text)] = subject
			for _, w := range want[name] {
				if !strings.Contains(string(text), w) {
					t.Errorf("%s on %q lacks %s:\n%s", name, subject, w, text)
				}
			}
		}
		if len(by) != 1 {
			t.Errorf("%s is described differently: %v", name, by)
		}
	}
}

func TestDescribeOthers(t *testing.T) {
	if v, err := Describe(streams.TapPrefix+"07.a.b", nil); err != nil || v == nil {
		t.Errorf("headers only: %v, %v", v, err)
	}
	if v, err := Describe("$KV.LEEWARD_LEASES.a.b", []byte(`{"host":"x"}`)); err != nil || !reflect.DeepEqual(v, map[string]any{"host": "x"}) {
		t.Errorf("lease: %v, %v", v, err)
	}
	for _, b := range []string{"{", "hello", "\x93\x01\x02\x03", "\x90"} {
		if v, err := Describe("", []byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, %v", b, v, err)
		}
	}
	if _, err := Describe("leeward.events.a.b", []byte{0x91, 2}); !errors.Is(err, ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
	marker, err := Encode(samples()["marker"].(*Marker))
	if err != nil {
		t.Fatal(err)
	}
	// The subject is right even when the bytes look like another message.
	if v, err := Describe("leeward.events.a.b", marker); !errors.Is(err, ErrMalformed) {
		t.Errorf("a marker among the events: %v, %v", v, err)
	}
}

func TestHeaders(t *testing.T) {
	s := samples()
	for name, want := range map[string]string{
		"change-open":       "Kind=open Length=68719476736",
		"change-block-zstd": "Kind=block Offset=28672 Length=287956992 Codec=zstd",
		"change-block-zero": "Kind=block Offset=0 Length=4096 Codec=raw",
		"change-cut":        "Kind=cut Point=p1 Consistency=app",
	} {
		c := s[name].(*Change)
		h := Headers(c)
		for pair := range strings.FieldsSeq(want + " Machine=db-1 Disk=vda Epoch=3") {
			k, v, _ := strings.Cut(pair, "=")
			if got := h["Leeward-"+k]; len(got) != 1 || got[0] != v {
				t.Errorf("%s: Leeward-%s is %q, want %s", name, k, got, v)
			}
		}
		if n := len(strings.Fields(want)) + 4; len(h) != n {
			t.Errorf("%s has %d headers, want %d: %v", name, len(h), n, h)
		}
	}
	if id := MsgID(s["change-cut"].(*Change)); id != "db-1/vda/3/4" {
		t.Errorf("message id %q", id)
	}
	if Kind(9).String() != "kind 9" || Codec(9).String() != "codec 9" || ExtentKind(9).String() != "extent 9" {
		t.Error("unknown values have no name")
	}
}
