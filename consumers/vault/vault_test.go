package vault

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// The whole way once, on a real directory and with a real passphrase.
func TestEndToEnd(t *testing.T) {
	ctx := t.Context()
	url := "dir://" + filepath.Join(t.TempDir(), "vault")
	if _, err := OpenStore(url, false); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("open a missing directory: %v", err)
	}
	st, err := OpenStore(url, true)
	if err != nil {
		t.Fatal(err)
	}
	key := KeyFromPassphrase("secret")
	if _, err := Unlock(ctx, st, key); !errors.Is(err, ErrNotVault) || !strings.Contains(err.Error(), "vault.json") {
		t.Fatalf("open an empty directory: %v", err)
	}
	v, err := Create(ctx, st, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(ctx, st, key); !errors.Is(err, ErrExists) {
		t.Fatalf("create twice: %v", err)
	}
	w := openDisk(t, v)
	if h := w.Head(); h != (Head{}) {
		t.Fatalf("new disk has head %+v", h)
	}
	const size = 100*BlockSize + 512
	want := make([]byte, size)
	copy(want[3*BlockSize:], text(10, 1))
	commit(t, w, opening(1, size, frame(CodecZstd, write{3, 10, text(10, 1)})))
	last := make([]byte, BlockSize)
	copy(last, "tail")
	copy(want[100*BlockSize:], last)
	h := commit(t, w, cutAt(batch(w.Head(), 3, frame(CodecRaw, write{100, 1, last})), size))

	if _, err := Unlock(ctx, st, KeyFromPassphrase("Secret")); !errors.Is(err, ErrWrongKey) {
		t.Fatalf("wrong passphrase: %v", err)
	}
	v2, err := Unlock(ctx, st, key)
	if err != nil || v2.ID() != v.ID() {
		t.Fatalf("open: %v", err)
	}
	if disks, err := v2.Disks(ctx); err != nil || !reflect.DeepEqual(disks, []DiskID{testDisk}) {
		t.Fatalf("disks %v, %v", disks, err)
	}
	if got := openDisk(t, v2).Head(); !reflect.DeepEqual(got, h) {
		t.Fatalf("head read back:\n got %+v\nwant %+v", got, h)
	}
	wantDisk(t, v2, h.Position, want)
	if r := wantClean(t, v2); r.Segments != 2 || r.Disks != 1 || r.Bytes == 0 {
		t.Fatalf("report %+v", r)
	}
}

func TestOpenStore(t *testing.T) {
	dir := t.TempDir()
	for url, want := range map[string]string{
		"dir://" + dir: "", dir: "", "dir://relative": "want dir:///absolute/path", "azure://account/x": "container",
		"shard:a,b": "K+M", "s3://x": "unknown scheme", "": "empty",
	} {
		_, err := OpenStore(url, false)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
}

func TestKeyFromFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{"one\ntwo\n": "one", "one": "one", "one\r\n": "one", "": "!", "\n": "!"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if k, err := KeyFromFile(path); (err != nil) != (want == "!") || err == nil && k.passphrase != want {
			t.Errorf("%q: %q, %v", content, k.passphrase, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := KeyFromFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("readable by the group: %v", err)
	}
	if _, err := KeyFromFile(filepath.Dir(path)); err == nil {
		t.Error("a directory was read as a key")
	}
}

// A commit must say why it does not take a batch, and change nothing.
func TestCommitRefuses(t *testing.T) {
	_, v := memVault(t)
	w := openDisk(t, v)
	const size = 64 * BlockSize
	commit(t, w, opening(5, size, frame(CodecRaw, write{0, 2, text(2, 1)})))
	h := commit(t, w, batch(w.Head(), 4, frame(CodecRaw, write{2, 2, text(2, 2)})))
	good := func() *Batch { return batch(h, 1, frame(CodecRaw, write{4, 2, text(2, 3)})) }
	for name, c := range map[string]struct {
		change func(*Batch)
		want   error
	}{
		"repeat":         {func(b *Batch) { b.First, b.Last = 3, 5 }, ErrConflict},
		"gap":            {func(b *Batch) { b.First, b.Last = 7, 7 }, ErrChain},
		"fork":           {func(b *Batch) { b.Prev[0] ^= 1 }, ErrChain},
		"old epoch":      {func(b *Batch) { b.Epoch = 4 }, ErrFenced},
		"no open":        {func(b *Batch) { b.Epoch = 6 }, ErrChain},
		"open inside":    {func(b *Batch) { b.Open = &Open{} }, ErrInvalid},
		"epoch 0":        {func(b *Batch) { b.Epoch = 0 }, ErrInvalid},
		"backwards":      {func(b *Batch) { b.Last = b.First - 1 }, ErrInvalid},
		"behind":         {func(b *Batch) { *b = *opening(6, size); b.MinBase = Position{5, 6} }, ErrBehind},
		"other branch":   {func(b *Batch) { *b = *opening(6, size); b.MinBase = Position{4, 1} }, ErrBehind},
		"two extents":    {func(b *Batch) { b.Frames = append(b.Frames, frame(CodecRaw, write{5, 1, text(1, 9)})) }, ErrInvalid},
		"zero over data": {func(b *Batch) { b.Frames = append(b.Frames, frame(CodecRaw, write{5, 9, nil})) }, ErrInvalid},
		"few sums":       {func(b *Batch) { b.Frames[0].Sums = b.Frames[0].Sums[1:] }, ErrInvalid},
		"short data":     {func(b *Batch) { b.Frames[0].Data = b.Frames[0].Data[1:] }, ErrInvalid},
		"odd raw":        {func(b *Batch) { b.Frames[0].Raw = 5000 }, ErrInvalid},
		"beyond frame":   {func(b *Batch) { b.Frames[0].Extents[0].Off = 1 }, ErrInvalid},
		"empty extent":   {func(b *Batch) { b.Frames[0].Extents[0].Count = 0 }, ErrInvalid},
		"huge extent":    {func(b *Batch) { b.Frames[0].Extents[0].Start = 1 << 60 }, ErrInvalid},
		"codec":          {func(b *Batch) { b.Frames[0].Codec = 7 }, ErrInvalid},
		"long text":      {func(b *Batch) { *b = *opening(6, size); b.Open.Path = strings.Repeat("x", 2000) }, nil},
	} {
		b := good()
		c.change(b)
		got, err := w.Commit(t.Context(), b)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if !reflect.DeepEqual(got, h) {
			t.Errorf("%s: head moved to %+v", name, got)
		}
	}
	commit(t, w, good())
	wantClean(t, v)
}

// A newer epoch starts where the older one stands, an abandoned branch stays
// readable, and a zombie can harm neither.
func TestZombie(t *testing.T) {
	_, v := memVault(t)
	const size = 32 * BlockSize
	zombie, w := openDisk(t, v), openDisk(t, v)
	commit(t, zombie, opening(1, size, frame(CodecRaw, write{0, 8, text(8, 1)})))
	h1 := commit(t, zombie, cutAt(batch(zombie.Head(), 5), size))

	b := opening(3, size, frame(CodecZstd, write{4, 8, text(8, 3)}))
	b.MinBase = h1.Position
	h3 := commit(t, w, cutAt(b, size)) // w has never seen epoch 1: it looks before it opens
	if h3.Base != h1.Position || h3.Open.Base != h1.Position || h3.Open.BaseHash != h1.Hash {
		t.Fatalf("epoch 3 has base %s", h3.Base)
	}
	hz := commit(t, zombie, cutAt(batch(zombie.Head(), 2, frame(CodecRaw, write{0, 16, text(16, 2)})), size))

	before := make([]byte, size)
	copy(before, text(8, 1))
	after, abandoned := bytes.Clone(before), bytes.Clone(before)
	copy(after[4*BlockSize:], text(8, 3))
	copy(abandoned, text(16, 2))
	wantDisk(t, v, h1.Position, before)
	wantDisk(t, v, h3.Position, after)
	wantDisk(t, v, hz.Position, abandoned)
	wantClean(t, v)

	if err := zombie.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := zombie.Head(); !reflect.DeepEqual(got, h3) {
		t.Fatalf("zombie reloads to %+v, want %+v", got, h3)
	}
	if _, err := zombie.Commit(t.Context(), batch(hz, 1)); !errors.Is(err, ErrFenced) {
		t.Fatalf("zombie after reload: %v", err)
	}
	late := opening(4, size)
	late.MinBase = hz.Position // of the abandoned branch: later epochs do not contain it
	if _, err := w.Commit(t.Context(), late); !errors.Is(err, ErrBehind) {
		t.Fatalf("open on an abandoned branch: %v", err)
	}
	late.MinBase = h1.Position
	commit(t, w, late)
	wantClean(t, v)
}

// What the disk holds already is not stored again.
func TestSameContentIsNotStored(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	const size = 512 * BlockSize
	noise := make([]byte, 128*BlockSize)
	newNoise(7).Read(noise)
	want := make([]byte, size)
	copy(want[10*BlockSize:], noise)
	first := commit(t, w, opening(1, size, frame(CodecRaw, write{10, 128, noise}), frame(CodecRaw, write{300, 100, nil})))
	again := commit(t, w, batch(w.Head(), 1, frame(CodecRaw, write{10, 128, noise})))
	if n := len(st.Bytes(segmentKey(testDisk, 1, 2))); n > 1000 {
		t.Errorf("a rewrite of the same content takes %d bytes", n)
	}
	if again.Digest != first.Digest {
		t.Error("digest changed without a change")
	}
	copy(noise[5*BlockSize:], "changed")
	copy(want[15*BlockSize:], "changed")
	commit(t, w, batch(w.Head(), 1, frame(CodecRaw, write{10, 128, noise}), frame(CodecRaw, write{200, 300, nil})))
	s, err := (&disk{v: v, id: testDisk, key: v.diskKeys[testDisk]}).read(t.Context(), segmentRef{epoch: 1, first: 3}, partIndex)
	if err != nil || s.Blocks != 1 || s.Zeros != 0 {
		t.Errorf("one changed block is stored as %d blocks and %d of zeros, %v", s.Blocks, s.Zeros, err)
	}
	wantDisk(t, v, w.Head().Position, want)
	if got := w.Sums(15, 1)[0]; got != SumOf(want[15*BlockSize:16*BlockSize]) {
		t.Error("sums of the head are wrong")
	}
}

// Size follows open, extents and cut; what was cut off reads as zeros afterwards.
func TestSizes(t *testing.T) {
	_, v := memVault(t)
	w := openDisk(t, v)
	commit(t, w, opening(1, 20*BlockSize, frame(CodecRaw, write{0, 20, text(20, 1)})))
	h := commit(t, w, cutAt(batch(w.Head(), 1, frame(CodecRaw, write{8, 8, text(8, 2)})), 10*BlockSize))
	want := text(20, 1)[:10*BlockSize]
	copy(want[8*BlockSize:], text(8, 2))
	wantDisk(t, v, h.Position, want)

	h = commit(t, w, batch(w.Head(), 1, frame(CodecRaw, write{18, 2, text(2, 3)})))
	want = append(want, make([]byte, 10*BlockSize)...)
	copy(want[18*BlockSize:], text(2, 3))
	wantDisk(t, v, h.Position, want)

	b := opening(2, 5*BlockSize, frame(CodecRaw, write{7, 1, text(1, 4)}))
	h = commit(t, w, cutAt(b, 30*BlockSize-100))
	want = append(want[:5*BlockSize:5*BlockSize], make([]byte, 25*BlockSize-100)...)
	copy(want[7*BlockSize:], text(1, 4))
	wantDisk(t, v, h.Position, want)
	wantClean(t, v)
}

func TestReadAtEdges(t *testing.T) {
	_, v := memVault(t)
	w := openDisk(t, v)
	h := commit(t, w, opening(1, 10*BlockSize+7, frame(CodecZstd, write{2, 3, text(3, 1)}, write{10, 1, text(1, 2)})))
	r, err := v.OpenAt(t.Context(), testDisk, h.Position, ReaderOptions{CacheBytes: 1, ReadAhead: -1})
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	for _, c := range []struct {
		off  int64
		n    int
		err  error
		size int
	}{{10 * BlockSize, 7, io.EOF, 100}, {10*BlockSize + 7, 0, io.EOF, 100}, {1 << 50, 0, io.EOF, 100}, {10 * BlockSize, 7, nil, 7}, {5, 0, nil, 0}} {
		if n, err := r.ReadAt(p[:c.size], c.off); n != c.n || err != c.err {
			t.Errorf("read %d at %d: %d, %v, want %d, %v", c.size, c.off, n, err, c.n, c.err)
		}
	}
	if _, err := r.ReadAt(p, -1); !errors.Is(err, ErrInvalid) {
		t.Errorf("negative offset: %v", err)
	}
	r.Close()
	if _, err := r.ReadAt(p, 2*BlockSize); err == nil {
		t.Error("read after close")
	}
	if _, err := r.Restore(t.Context(), make(image, 0), RestoreOptions{}); err == nil {
		t.Error("restore after close")
	}
	for _, at := range []Position{{}, {1, 2}, {1, 0}, {2, 1}} {
		if _, err := v.OpenAt(t.Context(), testDisk, at, ReaderOptions{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("open at %s: %v", at, err)
		}
	}
	if _, err := v.OpenAt(t.Context(), DiskID{"m", "none"}, h.Position, ReaderOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("open an unknown disk: %v", err)
	}
}

// A write that fails must end a restore with that error.
func TestRestoreFails(t *testing.T) {
	_, v := memVault(t)
	w := openDisk(t, v)
	h := commit(t, w, opening(1, 1000*BlockSize, frame(CodecZstd, write{0, 100, text(100, 1)})))
	r, err := v.OpenAt(t.Context(), testDisk, h.Position, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Restore(t.Context(), make(image, 5*BlockSize), RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "beyond the end") {
		t.Errorf("full destination: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Restore(ctx, make(image, 1000*BlockSize), RestoreOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	var calls, last int64
	_, err = r.Restore(t.Context(), make(image, 1000*BlockSize), RestoreOptions{Progress: func(done, total int64) {
		if calls++; done < last || total != 100*BlockSize {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	}})
	if err != nil || last != 100*BlockSize || calls == 0 {
		t.Errorf("progress ended at %d after %d calls, %v", last, calls, err)
	}
}

// Sums that do not belong to their data must not survive a restore or a check.
func TestLyingSums(t *testing.T) {
	_, v := memVault(t)
	w := openDisk(t, v)
	f := frame(CodecRaw, write{0, 4, text(4, 1)})
	f.Sums[2][3] ^= 1
	h := commit(t, w, opening(1, 8*BlockSize, f))
	r, err := v.OpenAt(t.Context(), testDisk, h.Position, ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Restore(t.Context(), make(image, 8*BlockSize), RestoreOptions{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("restore: %v", err)
	}
	rep, err := v.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil || len(rep.Problems) != 1 || !strings.Contains(rep.Problems[0].What, "block 2") {
		t.Errorf("check: %+v, %v", rep, err)
	}
}
