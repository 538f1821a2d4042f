package vault

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/dir"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// words is data that packs about 2.5 times, as what is on disks does.
func words(n int, seed byte) []byte {
	src := newNoise(seed)
	dictionary := make([]byte, 16<<10)
	src.Read(dictionary)
	b := make([]byte, 0, n+32)
	for len(b) < n {
		r := src.Uint64()
		if r%3 == 0 {
			for range 4 {
				r = r>>8 ^ src.Uint64()
				b = append(b, byte(r), byte(r>>8), byte(r>>16))
			}
			continue
		}
		at := int(r>>8) % (len(dictionary) - 32)
		if at < 0 {
			at = -at
		}
		b = append(b, dictionary[at:at+8+int(r>>60)]...)
	}
	return b[:n]
}

// bigBatch is 32 MiB of data as the process server hands it over.
func bigBatch(codec Codec) ([]Frame, int64) {
	const frames, blocks = 128, 64
	data := words(blocks*BlockSize, 1)
	var out []Frame
	n := int64(0)
	for i := range frames {
		f := frame(codec, write{uint64(i * blocks), blocks, data})
		n += int64(len(f.Data))
		out = append(out, f)
	}
	return out, n
}

func BenchmarkCommit(b *testing.B) {
	stores := map[string]func() (store.Store, error){
		"discard": func() (store.Store, error) { return discard{storetest.NewMem()}, nil },
		"dir":     func() (store.Store, error) { return dir.Create(b.TempDir()) },
	}
	for name, open := range stores {
		b.Run(name, func(b *testing.B) {
			st, err := open()
			if err != nil {
				b.Fatal(err)
			}
			w := openDisk(b, newTestVault(b, st))
			frames, size := bigBatch(CodecRaw)
			commit(b, w, opening(1, 128<<20))
			b.SetBytes(size)
			b.ReportAllocs()
			other := make([]Frame, len(frames)) // other content, as far as the vault can see
			for i, f := range frames {
				f.Sums = slices.Clone(f.Sums)
				for k := range f.Sums {
					f.Sums[k][0]++
				}
				other[i] = f
			}
			report := cpu(b, size)
			for b.Loop() {
				commit(b, w, batch(w.Head(), 100, frames...))
				frames, other = other, frames
			}
			report()
		})
	}
}

// discard forgets segments.
type discard struct{ *storetest.Mem }

func (d discard) Put(ctx context.Context, key string, data []byte) error {
	if filepath.Ext(key) == segmentSuffix {
		return nil
	}
	return d.Mem.Put(ctx, key, data)
}

// benchDisk fills a disk with n bytes of compressible data, then changes random
// blocks in later segments.
func benchDisk(b testing.TB, st store.Store, n int, later, perSegment int) (*Vault, Head) {
	v := newTestVault(b, st)
	w := openDisk(b, v)
	const blocks = 64
	commit(b, w, opening(1, uint64(n)))
	at := 0
	pool := words(8<<20, 3)
	for at < n {
		var frames []Frame
		for range 32 << 20 / (blocks * BlockSize) {
			if at < n {
				from := at % (len(pool) - blocks*BlockSize)
				frames = append(frames, frame(CodecZstd, write{uint64(at / BlockSize), blocks, pool[from : from+blocks*BlockSize]}))
				at += blocks * BlockSize
			}
		}
		commit(b, w, batch(w.Head(), 1, frames...))
	}
	for i := range later {
		seen := map[uint64]bool{}
		var writes []write
		for len(writes) < perSegment {
			if block := rand.Uint64N(uint64(n / BlockSize)); !seen[block] {
				seen[block] = true
				writes = append(writes, write{block, 1, text(1, uint64(i)<<32+block)})
			}
		}
		var frames []Frame
		for len(writes) > 0 {
			k := min(64, len(writes))
			frames = append(frames, frame(CodecZstd, writes[:k]...))
			writes = writes[k:]
		}
		commit(b, w, cutAt(batch(w.Head(), 1, frames...), uint64(n)))
	}
	return v, w.Head()
}

// cpu reports the processor time of each operation, which, unlike the wall's, can be
// compared on a machine that is busy with other things.
func cpu(b *testing.B, bytes int64) func() {
	used := func() float64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	before := used()
	return func() {
		each := (used() - before) / float64(b.N)
		b.ReportMetric(each*1000, "cpu-ms/op")
		if bytes > 0 {
			b.ReportMetric(float64(bytes)/1e6/each, "MB/cpu-s")
		}
	}
}

type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

func BenchmarkRestore(b *testing.B) {
	const size = 512 << 20
	st, err := dir.Create(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	v, h := benchDisk(b, st, size, 20, 500)
	path := filepath.Join(b.TempDir(), "image")
	file, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	for name, dst := range map[string]io.WriterAt{"nowhere": nowhere{}, "file": file} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(size)
			report := cpu(b, size)
			for b.Loop() {
				r, err := v.OpenAt(b.Context(), testDisk, h.Position, ReaderOptions{})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.Restore(b.Context(), dst, RestoreOptions{}); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(r.BytesFetched())/(1<<20), "MiB-fetched")
				r.Close()
			}
			report()
		})
	}
}

func BenchmarkOpenAt(b *testing.B) {
	for _, segments := range []int{100, 1000} {
		b.Run(fmt.Sprint(segments), func(b *testing.B) {
			st := storetest.NewMem()
			_, h := benchDisk(b, st, 256<<20, segments, 200)
			d, err := dir.Create(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			for _, key := range st.Keys() { // without the price of a thousand fsyncs
				path := filepath.Join(d.URL()[len("dir://"):], key)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(path, st.Bytes(key), 0o600); err != nil {
					b.Fatal(err)
				}
			}
			v := unlockTest(b, d)
			b.ReportAllocs()
			report := cpu(b, 0)
			for b.Loop() {
				r, err := v.OpenAt(b.Context(), testDisk, h.Position, ReaderOptions{})
				if err != nil {
					b.Fatal(err)
				}
				p := make([]byte, BlockSize)
				if _, err := r.ReadAt(p, 4096*1234); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(r.now.Load().stack)), "layers")
				r.Close()
			}
			report()
		})
	}
}
