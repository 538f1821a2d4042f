package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

// specimen is a vault with a bit of everything, and what it must give back.
type specimen struct {
	st     *storetest.Mem
	states map[Position][]byte
}

func newSpecimen(t testing.TB) *specimen {
	st, v := memVault(t)
	s := &specimen{st: st, states: map[Position][]byte{}}
	const size = 64 * BlockSize
	disk := make([]byte, size)
	noise := make([]byte, 8*BlockSize)
	newNoise(1).Read(noise)
	w := openDisk(t, v)
	add := func(b *Batch, writes ...write) {
		for _, x := range writes {
			part := disk[x.start*BlockSize : (x.start+uint64(x.count))*BlockSize]
			clear(part)
			copy(part, x.data)
		}
		h := commit(t, w, cutAt(b, size))
		s.states[h.Position] = bytes.Clone(disk)
		p := &Point{
			ID: fmt.Sprintf("p%d-%d", h.Epoch, h.Number), Group: "g", Time: b.Cut.Time, Consistency: "crash",
			Machines: []PointMachine{{
				Machine: testDisk.Machine, Host: "host", CPUs: 2, Memory: 1 << 30, NICs: []string{"eth0 00:11"},
				Disks: []PointDisk{{Disk: testDisk.Disk, At: h.Position, Size: size, Digest: h.Digest}},
			}},
		}
		if err := v.PutPoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	a, b, c := write{0, 20, text(20, 1)}, write{30, 8, noise}, write{10, 15, nil}
	add(opening(1, size, frame(CodecZstd, a), frame(CodecRaw, b)), a, b)
	add(batch(w.Head(), 3, frame(CodecRaw, c)), c)
	d, e := write{12, 3, text(3, 2)}, write{50, 14, text(14, 3)}
	add(opening(2, size, frame(CodecZstd, d, e)), d, e)
	add(batch(w.Head(), 1))
	return s
}

// served opens a damaged vault and restores every state. It fails the test if one
// comes back without an error and is not what it was; it returns what was refused.
func (s *specimen) served(t *testing.T, st *storetest.Mem) (refused []error) {
	ctx := context.Background()
	v, err := Unlock(ctx, st, testKey)
	if err != nil {
		return []error{err}
	}
	for at, want := range s.states {
		r, err := v.OpenAt(ctx, testDisk, at, ReaderOptions{})
		if err != nil {
			refused = append(refused, err)
			continue
		}
		got := make(image, r.Size())
		if _, err := r.Restore(ctx, got, RestoreOptions{}); err != nil {
			refused = append(refused, err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("at %s other bytes were served", at)
		}
		p := make([]byte, r.Size())
		if _, err := r.ReadAt(p, 0); err == nil && !bytes.Equal(p, want) {
			t.Errorf("at %s other bytes were read", at)
		}
		r.Close()
	}
	return refused
}

// detected tells whether Unlock or a full check sees that something is wrong with the
// object at key, or, if key is gone, with anything.
func detected(t *testing.T, st *storetest.Mem, key string) bool {
	v, err := Unlock(context.Background(), st, testKey)
	if err != nil {
		return true
	}
	r, err := v.Check(context.Background(), CheckOptions{ReadData: true})
	if err != nil {
		t.Fatalf("%s: check gave up: %v", key, err)
	}
	for _, p := range r.Problems {
		if p.Key == key && p.What != "" && p.Try != "" {
			return true
		}
	}
	return false
}

// Every flipped bit is detected, and none is served.
func TestBitRot(t *testing.T) {
	s := newSpecimen(t)
	total := 1000 / slower
	if full() {
		total = 20000
	}
	keys := s.st.Keys()
	flips := 0
	for _, key := range keys {
		whole := s.st.Bytes(key)
		n := min(total/len(keys), len(whole)*8)
		bits := rand.Perm(len(whole) * 8)[:n]
		if n < len(whole)*8 { // the ends hold most of what is not data
			for i := range n / 3 {
				bits[i] = rand.IntN(min(len(whole), 60) * 8)
				bits[n-1-i] = len(whole)*8 - 1 - rand.IntN(min(len(whole), 700)*8)
			}
		}
		for _, bit := range bits {
			st := s.st.Clone()
			b := bytes.Clone(whole)
			b[bit/8] ^= 1 << (bit % 8)
			st.Set(key, b)
			flips++
			if !detected(t, st, key) {
				t.Errorf("%s: bit %d of %d flipped: not detected", key, bit, len(whole)*8)
			}
			s.served(t, st)
		}
	}
	t.Logf("%d flips in %d objects", flips, len(keys))
}

// The same for a vault with all kinds of objects: folded segments, maps, pins and two
// kinds of key slot.
func TestBitRotEverywhere(t *testing.T) {
	p, _ := newMapped(t)
	v := unlockTest(t, p.st)
	if _, err := v.Maintain(t.Context(), now(keepers, p.stay...)); err != nil {
		t.Fatal(err)
	}
	if err := v.Pin(t.Context(), p.stay[0], "kept"); err != nil {
		t.Fatal(err)
	}
	if _, err := v.AddKey(t.Context(), KeyFromWrapper(newRSAWrapper(t, "k"))); err != nil {
		t.Fatal(err)
	}
	p.verify(t, p.st)
	total := 80 / slower
	if full() {
		total = 10000
	}
	keys := p.st.Keys()
	kinds := map[string]int{}
	for n := range total {
		key := keys[n%len(keys)]
		st := flipped(p.st, key, 0, len(p.st.Bytes(key)))
		kinds[strings.SplitN(key, "/", 2)[0]+key[strings.LastIndexByte(key, '.'):]]++
		if !detected(t, st, key) {
			t.Errorf("%s: a flip is not detected", key)
		}
		v, err := Unlock(t.Context(), st, testKey)
		if err != nil {
			continue
		}
		id := p.stay[n%len(p.stay)]
		at := p.m.listed[id]
		r, err := v.OpenAt(t.Context(), testDisk, at, ReaderOptions{})
		if err != nil {
			continue
		}
		want := p.m.states[at]
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, 0); err == nil && !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes were served for point %s", key, id)
		}
		r.Close()
	}
	t.Logf("%d flips: %v", total, kinds)
}

// Every object cut short, grown or gone is detected.
func TestTruncated(t *testing.T) {
	s := newSpecimen(t)
	for _, key := range s.st.Keys() {
		whole := s.st.Bytes(key)
		for _, n := range []int{0, 1, 9, len(whole) / 2, len(whole) - 70, len(whole) - 1, len(whole) + 1, len(whole) + 20000} {
			if n < 0 {
				continue
			}
			st := s.st.Clone()
			b := bytes.Clone(whole[:min(n, len(whole))])
			st.Set(key, append(b, make([]byte, n-len(b))...))
			if !detected(t, st, key) {
				t.Errorf("%s with %d of %d bytes: not detected", key, n, len(whole))
			}
			for _, err := range s.served(t, st) {
				if !strings.Contains(err.Error(), key) {
					t.Errorf("%s with %d of %d bytes: error does not name it: %v", key, n, len(whole), err)
				}
			}
		}
	}
}

func TestMissing(t *testing.T) {
	s := newSpecimen(t)
	for _, key := range s.st.Keys() {
		st := s.st.Clone()
		st.Remove(key)
		s.served(t, st)
		v, err := Unlock(t.Context(), st, testKey)
		if err != nil {
			if key != markerKey && !strings.HasPrefix(key, slotPrefix) {
				t.Errorf("without %s: %v", key, err)
			}
			continue
		}
		r, err := v.Check(t.Context(), CheckOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(key, pointPrefix) && len(r.Problems) == 0 {
			t.Errorf("without %s the check finds nothing", key)
		}
	}
}

// Objects in each other's place do not open.
func TestSwapped(t *testing.T) {
	s := newSpecimen(t)
	other := newSpecimen(t)
	keys := s.st.Keys()
	for _, a := range keys {
		for _, b := range keys {
			if a == b || a == markerKey || b == markerKey {
				continue
			}
			st := s.st.Clone()
			st.Set(a, s.st.Bytes(b))
			if !detected(t, st, a) {
				t.Errorf("%s in the place of %s: not detected", b, a)
			}
			s.served(t, st)
		}
		if foreign := other.st.Bytes(a); foreign != nil && a != markerKey {
			st := s.st.Clone()
			st.Set(a, foreign)
			if !detected(t, st, a) {
				t.Errorf("%s of another vault: not detected", a)
			}
			s.served(t, st)
		}
	}
}

// What an operator reads must name the object, what is wrong and what to do.
func TestMessages(t *testing.T) {
	s := newSpecimen(t)
	segment := segmentKey(testDisk, 1, 2)
	version := func(key string, at int) *storetest.Mem {
		st := s.st.Clone()
		b := st.Bytes(key)
		if at < 0 {
			at += len(b)
		}
		if b[at] == 9 { // by chance: it must become another
			b[at]++
		} else {
			b[at] = 9
		}
		st.Set(key, b)
		return st
	}
	open := func(st *storetest.Mem) error {
		v, err := Unlock(t.Context(), st, testKey)
		if err != nil {
			return err
		}
		_, err = v.OpenAt(t.Context(), testDisk, Position{1, 4}, ReaderOptions{})
		return err
	}
	for name, c := range map[string]struct {
		err  error
		is   error
		says []string
	}{
		"version of a segment": {open(version(segment, -9)), ErrVersion, []string{segment, "version 9", "version 1"}},
		"magic of a segment":   {open(version(segment, -3)), ErrDamaged, []string{segment, "cut short", "vault check"}},
		"trailer":              {open(version(segment, -100)), ErrDamaged, []string{segment, "trailer", "vault check"}},
		"disk key":             {open(version(diskKeyKey(testDisk), 20)), ErrDamaged, []string{diskKeyKey(testDisk), "checksum"}},
		"marker":               {open(version(markerKey, 5)), ErrDamaged, []string{markerKey}},
	} {
		if !errors.Is(c.err, c.is) {
			t.Errorf("%s: %v, want %v", name, c.err, c.is)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(c.err.Error(), s) || strings.Contains(c.err.Error(), "\n") {
				t.Errorf("%s: %q does not say %q in one line", name, c.err, s)
			}
		}
	}
}

// A strange object is pointed out and harms nothing.
func TestStrangeObject(t *testing.T) {
	s := newSpecimen(t)
	s.st.Set("disks/notes.txt", []byte("hello"))
	v := unlockTest(t, s.st)
	var done, all int64
	r, err := v.Check(t.Context(), CheckOptions{Progress: func(d, total int64) { done, all = d, total }})
	if err == nil && (done != all || all != r.Bytes) {
		t.Errorf("progress ended at %d of %d bytes, the vault has %d", done, all, r.Bytes)
	}
	if err != nil || len(r.Problems) != 1 || r.Problems[0].Key != "disks/notes.txt" {
		t.Errorf("%+v, %v", r, err)
	}
	if errs := s.served(t, s.st); len(errs) > 0 {
		t.Error(errs)
	}
}

// Points that need a damaged segment are named, those that do not are not.
func TestCheckNamesThePoints(t *testing.T) {
	s := newSpecimen(t)
	key := segmentKey(testDisk, 1, 2)
	b := s.st.Bytes(key)
	b[len(b)-80] ^= 4
	s.st.Set(key, b)
	r, err := unlockTest(t, s.st).Check(t.Context(), CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, p := range r.Problems {
		named[p.Key] = true
	}
	for _, key := range s.st.Keys() {
		if strings.HasPrefix(key, pointPrefix) && named[key] == strings.HasSuffix(key, "-p1-1.point") {
			t.Errorf("%s is named: %v", key, named[key])
		}
	}
}

// A point that promises what the vault does not hold is named.
func TestCheckComparesPoints(t *testing.T) {
	for name, change := range map[string]func(*PointDisk){
		"digest": func(d *PointDisk) { d.Digest[0]++ },
		"size":   func(d *PointDisk) { d.Size += BlockSize },
		"cut":    func(d *PointDisk) { d.At.Number = 3 },
		"epoch":  func(d *PointDisk) { d.At.Epoch = 9 },
		"disk":   func(d *PointDisk) { d.Disk = "sdz" },
	} {
		s := newSpecimen(t)
		v := unlockTest(t, s.st)
		p, err := v.Point(t.Context(), "p1-4")
		if err != nil {
			t.Fatal(err)
		}
		p.ID = "forged"
		change(&p.Machines[0].Disks[0])
		if err := v.storePoint(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		r, err := v.Check(t.Context(), CheckOptions{})
		if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Key, "forged") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
