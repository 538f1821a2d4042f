package format

import (
	"bytes"
	"testing"
)

// What a decoder takes, its encoder must write again byte for byte: no two objects
// say the same, and nothing is ignored.

func FuzzTrailer(f *testing.F) {
	f.Add(must(f)(EncodeTrailer(trailer())))
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0xdc, 0, 18, 0xc6, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeTrailer(b); err == nil {
			if again, err := EncodeTrailer(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}

func FuzzPoint(f *testing.F) {
	f.Add(must(f)(EncodePoint(point())))
	f.Add([]byte{0x97, 0xa1, 'x', 0xa0, 0, 0xa0, 0, 0, 0xdd, 0x7f, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodePoint(b); err == nil {
			if again, err := EncodePoint(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}

func FuzzPointObject(f *testing.F) {
	f.Add(append(AppendPointHeader(nil, pattern(1)), make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, salt, sealed, err := SplitPoint(b); err == nil {
			if again := append(AppendPointHeader(nil, salt), sealed...); !bytes.Equal(again, b) || len(h)+len(sealed) != len(b) {
				t.Errorf("%x became %x", b, again)
			}
		}
	})
}

func FuzzSlot(f *testing.F) {
	f.Add(must(f)(EncodeSlot(slot())))
	f.Add(must(f)(EncodeSlot(fileSlot())))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = fixCRC(b)
		if x, err := DecodeSlot(b); err == nil {
			if again, err := EncodeSlot(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}

func FuzzOuterSlot(f *testing.F) {
	f.Add(must(f)(EncodeOuterSlot(outerSlot())))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = fixCRC(b)
		if x, err := DecodeOuterSlot(b); err == nil {
			if again, err := EncodeOuterSlot(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}

// fixCRC lets the fuzzer past the checksum.
func fixCRC(b []byte) []byte {
	if len(b) < 4 {
		return b
	}
	return appendCRC(bytes.Clone(b[:len(b)-4]))
}

func FuzzDiskKey(f *testing.F) {
	f.Add(EncodeDiskKey([WrappedSize]byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = fixCRC(b)
		if x, err := DecodeDiskKey(b); err == nil && !bytes.Equal(EncodeDiskKey(x), b) {
			t.Errorf("%x became %x", b, EncodeDiskKey(x))
		}
	})
}

func FuzzMarker(f *testing.F) {
	f.Add(EncodeMarker([16]byte{1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeMarker(b); err == nil && !bytes.Equal(EncodeMarker(x), b) {
			t.Errorf("%q became %q", b, EncodeMarker(x))
		}
	})
}

func FuzzEnds(f *testing.F) {
	f.Add(AppendHeader(nil, pattern(1)))
	f.Add(AppendFooter(nil, Footer{pattern(1), 99}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if salt, err := DecodeHeader(b); err == nil && !bytes.Equal(AppendHeader(nil, salt), b[:HeaderSize]) {
			t.Errorf("header %x", b)
		}
		if x, err := DecodeFooter(b); err == nil && !bytes.Equal(AppendFooter(nil, x), b[len(b)-FooterSize:]) {
			t.Errorf("footer %x", b)
		}
	})
}

// FuzzIndex decodes unpacked indexes: the packing is zstd's business.
func FuzzIndex(f *testing.F) {
	p := newPacker(f)
	raw := func(b []byte) []byte {
		body, err := AppendIndex(nil, frames(), noPacking{})
		if err != nil {
			f.Fatal(err)
		}
		return append(b, body[2:]...)
	}
	f.Add(raw(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, body []byte) {
		r := reader{b: body}
		x, err := r.frames()
		if err != nil {
			return
		}
		b, err := AppendIndex(nil, x, noPacking{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeIndex(b, p); err != nil || !bytes.HasSuffix(b, body) {
			t.Errorf("%x became %x, %v", body, b, err)
		}
	})
}

// noPacking makes every index be stored as it is.
type noPacking struct{}

func (noPacking) EncodeAll(src, _ []byte) []byte          { return src }
func (noPacking) DecodeAll(src, _ []byte) ([]byte, error) { return src, nil }

// FuzzPackedIndex feeds whole sections, packed ones too.
func FuzzPackedIndex(f *testing.F) {
	p := newPacker(f)
	f.Add(must(f)(AppendIndex(nil, frames(), p)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 6 && b[1]&b[2]&b[3]&0x80 != 0 {
			return // says more than 2 MiB: allowed, but slow to try
		}
		_, _ = DecodeIndex(b, p)
	})
}

func FuzzFrame(f *testing.F) {
	fs := frames()
	f.Add(append(AppendFrameMeta(nil, &fs[0]), "data"...))
	f.Add(AppendFrameMeta(nil, &fs[2]))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, data, err := DecodeFrame(b)
		if err != nil {
			return
		}
		if again := append(AppendFrameMeta(nil, x), data...); !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

// The bodies of maps are fuzzed unpacked, as that of an index.

func FuzzMapPage(f *testing.F) {
	f.Add(mapPage().body())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := decodeMapPage(b); err == nil && !bytes.Equal(x.body(), b) {
			t.Errorf("%x became %x", b, x.body())
		}
	})
}

func FuzzMapSources(f *testing.F) {
	f.Add(AppendMapSources(nil, mapSources()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeMapSources(b); err == nil && !bytes.Equal(AppendMapSources(nil, x), b) {
			t.Errorf("%x became %x", b, AppendMapSources(nil, x))
		}
	})
}

func FuzzMapDirectory(f *testing.F) {
	f.Add(mapDirectory().body())
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := decodeMapDirectory(b); err == nil && !bytes.Equal(x.body(), b) {
			t.Errorf("%x became %x", b, x.body())
		}
	})
}

func FuzzMapTrailer(f *testing.F) {
	f.Add(must(f)(EncodeMapTrailer(mapTrailer())))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeMapTrailer(b); err == nil {
			if again, err := EncodeMapTrailer(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}

// FuzzPin is for the record of a pin.
func FuzzPin(f *testing.F) {
	f.Add(must(f)(EncodePin(&Pin{Name: "n", Time: 5})))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodePin(b); err == nil {
			if again, err := EncodePin(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}

// FuzzRecord is for the sealed part of a record.
func FuzzRecord(f *testing.F) {
	f.Add(must(f)(EncodeRecord(record())))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := DecodeRecord(b); err == nil {
			if again, err := EncodeRecord(x); err != nil || !bytes.Equal(again, b) {
				t.Errorf("%x became %x, %v", b, again, err)
			}
		}
	})
}
