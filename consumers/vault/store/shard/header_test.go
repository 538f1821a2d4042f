package shard

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden vectors anew")

// vectors are the shards of a fixed object, its blocker and its identity.
func vectors(t testing.TB) map[string][]byte {
	s := newCoder(t, 2, 1)
	e := &encoded{h: header{kind: kindShard, k: 2, m: 1, length: 11, gen: id{1, 2, 3}, set: id{4, 5, 6}, created: 1e18}}
	copy(e.h.sum[:], bytes.Repeat([]byte{7}, 32))
	if err := s.split(e, []byte("hello world")); err != nil {
		t.Fatal(err)
	}
	blocker := header{kind: kindBlocker, k: 2, m: 1, index: 1, set: id{4, 5, 6}}
	return map[string][]byte{
		"shard0": e.shards[0], "shard1": e.shards[1], "shard2": e.shards[2], "blocker": blocker.encode(), "identity": s.identity(2),
	}
}

func newCoder(t testing.TB, k, m int) *Store {
	t.Helper()
	s := &Store{k: k, m: m, set: id{4, 5, 6}}
	var err error
	if s.code, err = newCode(k, m); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGolden(t *testing.T) {
	for name, b := range vectors(t) {
		file := filepath.Join("testdata", name+".hex")
		text := hex.EncodeToString(b) + "\n"
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(want) != text {
			t.Errorf("%s: the format has changed:\n got %swant %s", name, text, want)
		}
		h, err := decodeHeader(b)
		if err != nil || !bytes.Equal(h.encode(), b[:headerSize]) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// Every single bit of a shard matters.
func TestEveryBit(t *testing.T) {
	for name, good := range vectors(t) {
		h, err := decodeHeader(good)
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(good) * 8 {
			b := bytes.Clone(good)
			b[i/8] ^= 1 << (i % 8)
			got, err := decodeHeader(b)
			if err == nil {
				_, err = got.unpack(nil, h.index, 0, b[headerSize:])
			}
			if !errors.Is(err, errMalformed) {
				t.Errorf("%s: bit %d: %v", name, i, err)
			}
		}
	}
}

func TestSizes(t *testing.T) {
	for _, n := range []int64{0, 1, blockSize - 1, blockSize, blockSize + 1, 10*blockSize - 1, 10 * blockSize, 10*blockSize + 1} {
		if got := unstored(stored(n)); got != n {
			t.Errorf("%d bytes are stored in %d, which hold %d", n, stored(n), got)
		}
	}
	for _, size := range []int64{0, headerSize - 1, headerSize + 1, headerSize + sumSize, stored(blockSize) + 1, stored(blockSize) + sumSize} {
		if got := unstored(size); got != -1 {
			t.Errorf("no shard has %d bytes, but %d were taken out of one", size, got)
		}
	}
	for _, c := range [][2]int{{1, 1}, {2, 2}, {4, 0}, {30, 3}, {0, 0}} {
		if checkCode(c[0], c[1]) == nil {
			t.Errorf("%d+%d is allowed", c[0], c[1])
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, b := range vectors(f) {
		f.Add(b)
	}
	f.Add(bytes.Repeat([]byte{0xff}, headerSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err != nil {
			return
		}
		if !bytes.Equal(h.encode(), b[:headerSize]) {
			t.Errorf("%+v does not encode as it was", h)
		}
		data, err := h.unpack(nil, h.index, 0, b[headerSize:])
		if err == nil && !bytes.Equal(h.pack(data), b) {
			t.Errorf("%d bytes do not pack as they were", len(data))
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add("p-" + ballot{3, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}.String())
	f.Add("v-" + ballot{3, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}.String() + "-" + genName(id{1}))
	f.Add("c-" + genName(id{9}))
	f.Add("s-" + genName(id{9}))
	f.Add("v-")
	f.Add("")
	f.Fuzz(func(t *testing.T, record string) {
		v := new(view)
		v.read([]string{record})
		if v.commit != nil && commitMark+genName(*v.commit) != record {
			t.Errorf("%q is read as %s", record, genName(*v.commit))
		}
		if v.promised != (ballot{}) && promiseMark+v.promised.String() != record {
			t.Errorf("%q is read as %s", record, v.promised)
		}
	})
}
