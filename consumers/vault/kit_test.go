package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/leeward-dr/leeward/consumers/vault/internal/seal"
	"github.com/leeward-dr/leeward/consumers/vault/store"
	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// full tells whether the heavy variants were asked for.
func full() bool { return os.Getenv("LEEWARD_FULL") != "" }

// cheapKey opens vaults without the price of a real passphrase.
func cheapKey(p string) Key {
	k := KeyFromPassphrase(p)
	k.cost = seal.Argon{Time: 1, Memory: 64, Threads: 1}
	return k
}

var testKey = cheapKey("correct horse battery staple")

func newTestVault(t testing.TB, st store.Store) *Vault {
	t.Helper()
	v, err := Create(context.Background(), st, testKey)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func unlockTest(t testing.TB, st store.Store) *Vault {
	t.Helper()
	v, err := Unlock(context.Background(), st, testKey)
	if err != nil {
		t.Fatal(err)
	}
	v.fan = 3 // so that short histories have maps of several levels
	return v
}

var testDisk = DiskID{"machine-1", "sda"}

var testEncoder = func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err)
	}
	return e
}()

// write is a run of blocks to be written; nil data means zeros.
type write struct {
	start uint64
	count uint32
	data  []byte
}

// frame packs writes into one frame.
func frame(codec Codec, writes ...write) Frame {
	f := Frame{Codec: codec}
	var raw []byte
	for _, w := range writes {
		if w.data == nil {
			f.Extents = append(f.Extents, Extent{Start: w.start, Count: w.count, Zero: true})
			continue
		}
		f.Extents = append(f.Extents, Extent{Start: w.start, Count: w.count, Off: uint32(len(raw) / BlockSize)})
		for i := range int(w.count) {
			f.Sums = append(f.Sums, SumOf(w.data[i*BlockSize:][:BlockSize]))
		}
		raw = append(raw, w.data...)
	}
	f.Raw = uint32(len(raw))
	if f.Data = raw; codec == CodecZstd && len(raw) > 0 {
		f.Data = testEncoder.EncodeAll(raw, nil)
	}
	return f
}

// text returns n blocks that differ from each other and pack well.
func text(n int, seed uint64) []byte {
	b := make([]byte, n*BlockSize)
	for i := range n {
		line := fmt.Sprintf("block %d of %d; ", i, seed)
		for at := i * BlockSize; at < (i+1)*BlockSize; at += copy(b[at:(i+1)*BlockSize], line) {
		}
	}
	return b
}

// hashAt is the chain hash of a link in tests: whatever identifies it.
func hashAt(epoch, number, branch uint64) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%d %d %d", epoch, number, branch))
}

// chain builds batches that continue a head.
func batch(h Head, links uint64, frames ...Frame) *Batch {
	last := h.Number + links
	return &Batch{Epoch: h.Epoch, First: h.Number + 1, Last: last, Prev: h.Hash, Hash: hashAt(h.Epoch, last, 0), Frames: frames}
}

// opening returns the first batch of an epoch.
func opening(epoch, size uint64, frames ...Frame) *Batch {
	return &Batch{
		Epoch: epoch, First: 1, Last: 1, Hash: hashAt(epoch, 1, 0), Frames: frames,
		Open: &Open{Size: size, Capture: "scan", Host: "host", Instance: "i", Reason: "first", Time: testTime},
	}
}

var testTime = time.Date(2025, 11, 22, 10, 0, 0, 0, time.UTC)

func cutAt(b *Batch, size uint64) *Batch {
	b.Cut = &Cut{Point: fmt.Sprintf("p-%d-%d", b.Epoch, b.Last), Group: "g", Time: testTime.Add(time.Duration(b.Last) * time.Second), Consistency: "crash", Size: size}
	return b
}

func commit(t testing.TB, w *DiskWriter, b *Batch) Head {
	t.Helper()
	h, err := w.Commit(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func openDisk(t testing.TB, v *Vault) *DiskWriter {
	t.Helper()
	w, err := v.OpenDisk(context.Background(), testDisk)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// image is a disk in memory, as Restore's destination and as a model.
type image []byte

func (m image) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, errors.New("write beyond the end of the image")
	}
	return copy(m[off:], p), nil
}

// digestOf computes a digest the plain way.
func digestOf(b []byte) (d Digest) {
	for i := 0; i*BlockSize < len(b); i++ {
		block := make([]byte, BlockSize)
		copy(block, b[i*BlockSize:])
		if s := SumOf(block); s != (Sum{}) {
			var in [24]byte
			binary.BigEndian.PutUint64(in[:8], uint64(i))
			copy(in[8:], s[:])
			d.add(sha256.Sum256(in[:]))
		}
	}
	return d
}

// wantDisk fails unless the disk at a position is exactly want.
func wantDisk(t testing.TB, v *Vault, at Position, want []byte) {
	t.Helper()
	ctx := context.Background()
	r, err := v.OpenAt(ctx, testDisk, at, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if r.Size() != int64(len(want)) || r.Digest() != digestOf(want) {
		t.Fatalf("at %s: size %d, want %d; digests differ: %v", at, r.Size(), len(want), r.Digest() != digestOf(want))
	}
	got := make(image, len(want))
	if _, err := r.Restore(ctx, got, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("at %s: restore differs from byte %d on", at, firstDifference(got, want))
	}
	for i := range got {
		got[i] = 0xee
	}
	if _, err := r.Restore(ctx, got, RestoreOptions{Zero: true, Workers: 2}); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("at %s: restore with zeros: differs from byte %d on, %v", at, firstDifference(got, want), err)
	}
	for range 10 {
		off := rand.IntN(len(want))
		n := 1 + rand.IntN(len(want)-off)
		p := make([]byte, n)
		if _, err := r.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+n]) {
			t.Fatalf("at %s: read %d+%d differs, %v", at, off, n, err)
		}
	}
	covered := make([]byte, len(want))
	r.Extents(func(off, length int64) bool {
		copy(covered[off:off+length], want[off:off+length])
		return true
	})
	if !bytes.Equal(covered, want) {
		t.Fatalf("at %s: there is data outside the extents", at)
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return -1
}

// wantClean fails unless a check that reads everything finds nothing.
func wantClean(t testing.TB, v *Vault) *Report {
	t.Helper()
	r, err := v.Check(context.Background(), CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range r.Problems {
		t.Errorf("check: %s", p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return r
}

func memVault(t testing.TB) (*storetest.Mem, *Vault) {
	t.Helper()
	st := storetest.NewMem()
	return st, newTestVault(t, st)
}

// newNoise returns a source of bytes that do not pack.
func newNoise(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }
