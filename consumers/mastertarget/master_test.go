package mastertarget

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/leeward-dr/leeward/consumers/vault"
)

// The way home: compare, then deltas, then the proof; each fetches what differs.
func TestBringHome(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, 24<<20+1000) // the last block is not whole
	r := rand.New(rand.NewPCG(1, 1))
	all := s.scribble(r, 1)
	first := s.cut(t, s.identity(t), all...)
	// At home something else went on after the last point that the vault has.
	old := bytes.Clone(s.image)
	for i := 0; i < len(old); i += 37 * block {
		old[i]++
	}
	if err := os.WriteFile(s.home, old, 0o600); err != nil {
		t.Fatal(err)
	}
	m := s.open(t)
	b, err := m.Bring(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	if !b.Whole || b.Differ < 160*block || b.Differ > 167*block {
		t.Errorf("first: %+v", b)
	}
	s.same(t, first)
	if err := m.Verify(ctx, first); err != nil {
		t.Fatal(err)
	}

	changed := s.scribble(r, 0.02)
	next := s.cut(t, "", changed...)
	before := s.st.read.Load()
	if b, err = m.Bring(ctx, next); err != nil {
		t.Fatal(err)
	}
	if b.Whole || b.Looked > int64(len(changed))*block || b.Looked < int64(len(changed))*block/2 {
		t.Errorf("delta of %d blocks: %+v", len(changed), b)
	}
	if got := s.st.read.Load() - before; float64(b.Fetched) > 1.1*float64(b.Written) {
		t.Errorf("%d bytes were fetched (%d from the store in all) for %d", b.Fetched, got, b.Written)
	}
	s.same(t, next)
	if b, err = m.Bring(ctx, next); err != nil || b.Looked != 0 {
		t.Errorf("the same again: %+v, %v", b, err)
	}

	// Back to an older point, also after the program has ended.
	m.Close()
	m = s.open(t)
	if b, err = m.Bring(ctx, first); err != nil || b.Whole {
		t.Errorf("to an older point: %+v, %v", b, err)
	}
	s.same(t, first)
	if err := m.Verify(ctx, first); err != nil {
		t.Error(err)
	}
}

// Somebody else's write is found by Verify, and made good.
func TestSomebodyElseWrote(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, 4<<20)
	p := s.cut(t, s.identity(t), s.scribble(rand.New(rand.NewPCG(2, 2)), 0.5)...)
	m := s.open(t)
	if _, err := m.Bring(ctx, p); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.home, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("zombie"), 1<<20)
	f.Close()
	if err := m.Verify(ctx, p); !errors.Is(err, ErrDiffers) {
		t.Fatalf("verify: %v", err)
	}
	b, err := m.Bring(ctx, p)
	if err != nil || !b.Whole || b.Differ != block {
		t.Errorf("%+v, %v", b, err)
	}
	if err := m.Verify(ctx, p); err != nil {
		t.Error(err)
	}
	s.same(t, p)
}

// Whatever was under way when the power failed, and whatever became of the blocks that
// were being changed: the next Bring gets it right, to the same point or another.
func TestPowerFailsAnywhere(t *testing.T) {
	s := newSite(t, 5<<20)
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 5 {
		identity := "-"
		if i%2 == 0 {
			identity = s.identity(t)
		}
		s.cut(t, identity, s.scribble(r, 0.1)...)
	}
	interrupted := 0
	for round := range 80 {
		p := s.points[r.IntN(len(s.points))]
		ctx, cancel := context.WithCancel(t.Context())
		var stop atomic.Int64 // at this read of contents, or window, or not at all
		stop.Store(r.Int64N(40))
		maybe := func() {
			if stop.Add(-1) == 0 {
				cancel()
			}
		}
		m, err := s.try(func(c *Config) { c.Progress = func(string, int64, int64) { maybe() } })
		if err != nil {
			t.Fatal(err)
		}
		m.window = 40
		s.st.hook = maybe
		_, err = m.Bring(ctx, p)
		s.st.hook = nil
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		m.Close()
		cancel()
		if err == nil {
			s.same(t, p)
		} else {
			interrupted++
			tear(t, s, r)
		}
		if round%10 == 9 {
			m := s.open(t)
			if _, err := m.Bring(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			s.same(t, p)
			m.Close()
		}
	}
	if interrupted < 10 {
		t.Errorf("only %d of 80 were interrupted", interrupted)
	}
}

// tear writes garbage to some of the blocks that the record does not vouch for.
func tear(t *testing.T, s *site, r *rand.Rand) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.state, "web1.sda.home.json"))
	if err != nil {
		t.Fatal(err)
	}
	rec := new(record)
	if err := json.Unmarshal(b, rec); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.home, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, x := range rec.Regions {
		for n := x.From; n < x.To; n++ {
			at := func(p vault.Position) []byte { return s.images[p][n*block : (n+1)*block] }
			sure := len(x.Maybe) > 0 && !slices.ContainsFunc(x.Maybe, func(p vault.Position) bool { return !bytes.Equal(at(p), at(x.Maybe[0])) })
			if !sure && r.IntN(4) == 0 {
				f.WriteAt([]byte("torn"), int64(n)*block+int64(r.IntN(4000)))
			}
		}
	}
}

// A position that the vault does not keep any more, or a record that cannot be read,
// costs a comparison and nothing else.
func TestRecordOfNoUse(t *testing.T) {
	ctx := t.Context()
	s := newSite(t, 2<<20)
	p := s.cut(t, s.identity(t), s.scribble(rand.New(rand.NewPCG(4, 4)), 0.5)...)
	path := filepath.Join(s.state, "web1.sda.home.json")
	for name, change := range map[string]func(b []byte) []byte{
		"position": func(b []byte) []byte { return bytes.Replace(b, []byte(`"Epoch": 1`), []byte(`"Epoch": 9`), 1) },
		"cut":      func(b []byte) []byte { return b[:len(b)/2] },
		"empty":    func([]byte) []byte { return nil },
		"other":    func(b []byte) []byte { return bytes.Replace(b, []byte(`"identity": "`), []byte(`"identity": "x`), 1) },
		"regions":  func(b []byte) []byte { return bytes.Replace(b, []byte(`"from": 0`), []byte(`"from": 5`), 1) },
		"version":  func(b []byte) []byte { return bytes.Replace(b, []byte(`"version": 1`), []byte(`"version": 2`), 1) },
	} {
		m := s.open(t)
		if _, err := m.Bring(ctx, p); err != nil {
			t.Fatal(err)
		}
		m.Close()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := change(bytes.Clone(b))
		if bytes.Equal(changed, b) {
			t.Fatalf("%s: nothing was changed in %s", name, b)
		}
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		f, _ := os.OpenFile(s.home, os.O_RDWR, 0)
		f.WriteAt([]byte("!"), 77777)
		f.Close()
		m = s.open(t)
		if b, err := m.Bring(ctx, p); err != nil || !b.Whole {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
		s.same(t, p)
		m.Close()
	}
}

func TestRefusals(t *testing.T) {
	s := newSite(t, 1<<20)
	p := s.cut(t, s.identity(t), s.scribble(rand.New(rand.NewPCG(5, 5)), 0.5)...)
	other := filepath.Join(s.dir, "other.img")
	refused := func(name, says string, change func(*Config)) {
		t.Helper()
		m, err := s.try(change)
		if err == nil {
			m.Close()
		}
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused("not there", "no such file", func(c *Config) { c.Path = other })
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("another", "say that another disk may be overwritten", func(c *Config) { c.Path = other })
	refused("too small", "name a larger one", func(c *Config) { c.Size += block })
	refused("too large", "name the right one", func(c *Config) { c.Size -= block })
	refused("a directory", "neither a block device", func(c *Config) { c.Path = s.dir })
	m := s.open(t)
	refused("twice", "being written by another process", func(*Config) {})
	wrong := *p
	wrong.Digest[3]++
	if _, err := m.Bring(t.Context(), &wrong); err == nil || !strings.Contains(err.Error(), "vault check") {
		t.Errorf("a point with another digest: %v", err)
	}
	wrong = *p
	wrong.Size++
	if _, err := m.Bring(t.Context(), &wrong); !errors.Is(err, ErrRefused) {
		t.Errorf("a point of another size: %v", err)
	}
	m.Close()

	// An epoch without identity, as that of a machine that runs at the recovery site, does
	// not hide the original.
	s.cut(t, "", 3)
	s.open(t).Close()

	// Another disk, if that is wanted: also one that is not there yet.
	fresh := filepath.Join(s.dir, "fresh.img")
	m = s.open(t, func(c *Config) { c.Path, c.Other = fresh, true })
	if _, err := m.Bring(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fresh)
	if err != nil || !bytes.Equal(b, s.images[p.At]) {
		t.Errorf("the new image differs: %v", err)
	}
}
