package vault

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/consumers/vault/store/storetest"
)

func pointAt(id string, at time.Time, h Head) *Point {
	return &Point{
		ID: id, Group: "db", Time: at, Consistency: "app", Frozen: 3 * time.Millisecond, Listed: at.Add(time.Second),
		Machines: []PointMachine{{
			Machine: testDisk.Machine, Host: "h", CPUs: 2, Memory: 1 << 30, Firmware: "bios", OS: "Debian", Kernel: "6", NICs: []string{"eth0 52:54"},
			Disks: []PointDisk{{Disk: testDisk.Disk, At: h.Position, Size: h.Size, Digest: h.Digest, Frozen: true, Note: "n"}},
		}},
	}
}

func TestPoints(t *testing.T) {
	ctx := t.Context()
	st, v := memVault(t)
	w := openDisk(t, v)
	h := commit(t, w, cutAt(opening(1, 8*BlockSize, frame(CodecRaw, write{1, 1, text(1, 1)})), 8*BlockSize))
	noCut := commit(t, w, batch(h, 1))

	second, first := pointAt("b-2", testTime.Add(time.Nanosecond), h), pointAt("a_1", testTime, h)
	other := pointAt("c", testTime.Add(-time.Hour), h)
	other.Group = "db-old"
	for _, p := range []*Point{second, first, other} {
		if err := v.PutPoint(ctx, p); err != nil {
			t.Fatal(err)
		}
	}
	again := *first
	again.Listed = again.Listed.Add(time.Minute)
	if err := v.PutPoint(ctx, &again); err != nil {
		t.Errorf("same point again: %v", err)
	}
	again.Frozen++
	if err := v.PutPoint(ctx, &again); !errors.Is(err, ErrExists) {
		t.Errorf("another point of the same name: %v", err)
	}
	if got, bad, err := v.Points(ctx, "db"); err != nil || len(bad) > 0 || !reflect.DeepEqual(got, []*Point{first, second}) {
		t.Errorf("points of db: %v, %v, %v", got, bad, err)
	}
	if got, err := v.Point(ctx, "b-2"); err != nil || !reflect.DeepEqual(got, second) {
		t.Errorf("point b-2: %+v, %v", got, err)
	}
	if _, err := v.Point(ctx, "2"); !errors.Is(err, ErrNotFound) {
		t.Errorf("point 2: %v", err)
	}

	// The vault promises nothing that it does not hold.
	for name, c := range map[string]struct {
		change func(*Point, *PointDisk)
		want   error
	}{
		"no cut":     {func(_ *Point, d *PointDisk) { d.At = noCut.Position }, ErrNotFound},
		"no segment": {func(_ *Point, d *PointDisk) { d.At.Number = 77 }, ErrNotFound},
		"no epoch":   {func(_ *Point, d *PointDisk) { d.At.Epoch = 77 }, ErrNotFound},
		"no disk":    {func(_ *Point, d *PointDisk) { d.Disk = "sdz" }, ErrNotFound},
		"digest":     {func(_ *Point, d *PointDisk) { d.Digest[5]++ }, ErrInvalid},
		"size":       {func(_ *Point, d *PointDisk) { d.Size++ }, ErrInvalid},
		"id":         {func(p *Point, _ *PointDisk) { p.ID = "../x" }, ErrInvalid},
		"group":      {func(p *Point, _ *PointDisk) { p.Group = "" }, ErrInvalid},
		"time":       {func(p *Point, _ *PointDisk) { p.Time = time.Time{} }, ErrInvalid},
		"machines":   {func(p *Point, _ *PointDisk) { p.Machines = nil }, ErrInvalid},
	} {
		p := pointAt("new", testTime.Add(time.Minute), h)
		c.change(p, &p.Machines[0].Disks[0])
		if err := v.PutPoint(ctx, p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}

	// A damaged manifest is told, and hides no other.
	key := pointKey("db", first.Time, first.ID)
	b := st.Bytes(key)
	b[len(b)/2] ^= 1
	st.Set(key, b)
	got, bad, err := v.Points(ctx, "")
	if err != nil || len(got) != 2 || len(bad) != 1 || !errors.Is(bad[0], ErrDamaged) || !strings.Contains(bad[0].Error(), key) {
		t.Errorf("with a damaged one: %d points, %v, %v", len(got), bad, err)
	}
}

// Cut must not list or walk the history again and again.
func TestCutIsCheap(t *testing.T) {
	st, v := memVault(t)
	w := openDisk(t, v)
	const size = 8 * BlockSize
	commit(t, w, cutAt(opening(1, size), size))
	var at []Position
	for range 200 {
		at = append(at, commit(t, w, cutAt(batch(w.Head(), 2), size)).Position)
	}
	v = unlockTest(t, st)
	lists, gets := 0, 0
	st.Faults(func(op storetest.Op) storetest.Fault {
		switch op.Verb {
		case "list":
			lists++
		case "get":
			gets++
		}
		return storetest.Fault{}
	})
	for _, p := range at {
		if c, err := v.Cut(t.Context(), testDisk, p); err != nil || c.At != p || c.Disk != testDisk || c.Size != size {
			t.Fatalf("cut %s: %+v, %v", p, c, err)
		}
	}
	if lists > 1 || gets > 2*len(at)+2 {
		t.Errorf("%d cuts took %d lists and %d gets", len(at), lists, gets)
	}
	for _, p := range []Position{{1, at[0].Number - 1}, {1, 9999}, {2, 1}, {}} {
		if _, err := v.Cut(t.Context(), testDisk, p); !errors.Is(err, ErrNotFound) {
			t.Errorf("cut %s: %v", p, err)
		}
	}
	for range 50 { // far back and forth
		for _, p := range []Position{at[199], at[0]} {
			if c, err := v.Cut(t.Context(), testDisk, p); err != nil || c.At != p {
				t.Fatalf("cut %s: %v", p, err)
			}
		}
	}
}

func TestInspect(t *testing.T) {
	s := newSpecimen(t)
	v := unlockTest(t, s.st)
	for _, key := range s.st.Keys() {
		o, err := v.Inspect(t.Context(), key)
		if err != nil {
			t.Errorf("%s: %v", key, err)
			continue
		}
		b, err := json.Marshal(o)
		if err != nil || !strings.Contains(string(b), key) {
			t.Errorf("%s: %s, %v", key, b, err)
		}
		var back Object
		if err := json.Unmarshal(b, &back); err != nil || back.Kind == "" {
			t.Errorf("%s: %s, %v", key, b, err)
		}
		if strings.HasPrefix(key, diskPrefix) && (back.Segment == nil || len(back.Segment.Frames) == 0 && back.Segment.Blocks > 0) {
			t.Errorf("%s: %s", key, b)
		}
	}
	for key, want := range map[string]error{"none": ErrNotFound, "../x": nil} {
		if _, err := v.Inspect(t.Context(), key); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestOpened(t *testing.T) {
	v := unlockTest(t, newSpecimen(t).st)
	if o, err := v.Opened(t.Context(), testDisk, 2); err != nil || o.Base != (Position{1, 4}) || !o.Time.Equal(testTime) {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := v.Opened(t.Context(), testDisk, 7); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
