package format

import (
	"reflect"
	"testing"
)

func mapPage() *MapPage {
	return &MapPage{
		Frames: []MapFrame{
			{Source: 3, Ordinal: 0, Offset: 46, Length: 5000, Blocks: 64, Codec: CodecZstd},
			{Source: 3, Ordinal: 1, Offset: 5050, Length: 300, Blocks: 2, Codec: CodecRaw},
			{Source: 1, Ordinal: 9, Offset: 70000, Length: 300, Blocks: 256, Codec: CodecZstd},
		},
		Pieces: []MapPiece{
			{Start: 0, Count: 10, Frame: 0, Off: 54}, {Start: 10, Count: 5, Frame: NoFrame}, {Start: 100, Count: 2, Frame: 1},
			{Start: 16000, Count: 256, Frame: 2}, {Start: 16383, Count: 1, Frame: 0},
		},
	}
}

func mapSources() []MapSource {
	return []MapSource{
		{Epoch: 1, First: 1, Salt: pattern(3)},
		{Epoch: 2, First: 5, Last: 9, Level: 1, UntilEpoch: 3, UntilNumber: 1 << 40, Salt: pattern(4)},
	}
}

func mapDirectory() *MapDirectory {
	return &MapDirectory{Pages: []MapEntry{{0, 100}, {1, 2000}, {1 << 30, 16}}, Sources: []uint32{5000, 70}}
}

func mapTrailer() *MapTrailer {
	return &MapTrailer{
		Epoch: 2, First: 5, Last: 90, Prev: pattern(1), Hash: pattern(2), BaseEpoch: 1, BaseNumber: 7, BaseHash: pattern(5),
		Size: 1 << 40, Digest: pattern(6), Sources: 130, DirOff: 1 << 33, DirLen: 70000,
	}
}

func TestMapVectors(t *testing.T) {
	ok := must(t)
	golden(t, "map-page", mapPage().body())
	golden(t, "map-sources", AppendMapSources(nil, mapSources()))
	golden(t, "map-directory", mapDirectory().body())
	golden(t, "map-trailer", ok(EncodeMapTrailer(mapTrailer())))
	golden(t, "map-header", AppendMapHeader(nil, pattern(1)))
	p := newPacker(t)
	if got, err := DecodeMapPage(AppendMapPage(nil, mapPage(), p), p); err != nil || !reflect.DeepEqual(got, mapPage()) {
		t.Errorf("page: %+v, %v", got, err)
	}
	if got, err := DecodeMapSources(AppendMapSources(nil, mapSources())); err != nil || !reflect.DeepEqual(got, mapSources()) {
		t.Errorf("sources: %+v, %v", got, err)
	}
	if got, err := DecodeMapDirectory(AppendMapDirectory(nil, mapDirectory(), p), p); err != nil || !reflect.DeepEqual(got, mapDirectory()) {
		t.Errorf("directory: %+v, %v", got, err)
	}
	if got, err := DecodeMapTrailer(ok(EncodeMapTrailer(mapTrailer()))); err != nil || !reflect.DeepEqual(got, mapTrailer()) {
		t.Errorf("trailer: %+v, %v", got, err)
	}
	if got, err := DecodeMapHeader(AppendMapHeader(nil, pattern(1))); err != nil || got != pattern(1) {
		t.Errorf("header: %x, %v", got, err)
	}
}

// A full page, every block from another frame, fits what decoders allow.
func TestMapPageLimits(t *testing.T) {
	m := &MapPage{}
	for i := range uint32(MapPageBlocks) {
		m.Frames = append(m.Frames, MapFrame{Source: i * 7919 % 100000, Ordinal: i, Offset: HeaderSize + i*30000, Length: 4000, Blocks: 1})
		m.Pieces = append(m.Pieces, MapPiece{Start: i, Count: 1, Frame: i})
	}
	p := newPacker(t)
	b := AppendMapPage(nil, m, p)
	if got, err := DecodeMapPage(b, p); err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("%d bytes: %v", len(b), err)
	}
	t.Logf("%d bytes", len(b))
}
