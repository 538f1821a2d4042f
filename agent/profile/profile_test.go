package profile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/agent/capture/capturetest"
	"github.com/leeward-dr/leeward/agent/capture/scan"
	"github.com/leeward-dr/leeward/agent/profile"
)

// steady changes so many bytes in each of n seconds.
func steady(n int, bytes int64) *profile.Disk {
	d := &profile.Disk{Path: "/dev/sda", Driver: "trace", Size: 100 << 30, Used: 40 << 30, Packed: 0.5, Base: 0.5}
	for range n {
		d.Samples = append(d.Samples, profile.Sample{Seconds: 1, Changed: bytes})
	}
	return d
}

func ask() profile.Question {
	q := profile.Asked()
	q.Interval = time.Second
	return q
}

func TestSumOfASteadyDisk(t *testing.T) {
	// 20 MB a second that compress to 10 MB: 80 Mbit/s.
	r := profile.Sum([]*profile.Disk{steady(600, 20e6)}, time.Time{}, ask())
	for _, l := range r.Links {
		if want := l.Mbit > 80; l.KeepsUp != want {
			t.Errorf("a link of %v Mbit/s keeps up: %v", l.Mbit, l.KeepsUp)
		}
		if l.KeepsUp && (l.RPO95 < 1 || l.RPO95 > 1.01) {
			t.Errorf("RPO at %v Mbit/s is %v", l.Mbit, l.RPO95)
		}
	}
	if c := r.Churn; c.Mean != 20e6 || c.Peak != 20e6 || c.PerDay != 20e6*86400 || c.Ratio != 0.5 {
		t.Errorf("churn %+v", c)
	}
	if v := r.Vault; v.First != 20<<30 || v.PerDay != 10e6*86400 || v.Days != 3 || v.Retained != v.First+3*v.PerDay {
		t.Errorf("vault %+v", v)
	}
	// The longer a backlog may last, the slower a link may be, but never much slower
	// than what comes in.
	last := 1e9
	for _, n := range r.Needs {
		if n.Mbit > last || n.Mbit < 60 {
			t.Errorf("an RPO of %v s needs %v Mbit/s, after %v", n.RPO, n.Mbit, last)
		}
		last = n.Mbit
	}
}

func TestSumOfABurst(t *testing.T) {
	d := steady(600, 0)
	d.Samples[100].Changed = 250e6 // 1000 Mbit after compression
	q := ask()
	q.Links, q.Targets = []float64{100}, []float64{0.5}
	r := profile.Sum([]*profile.Disk{d}, time.Time{}, q)
	l := r.Links[0]
	if !l.KeepsUp || l.RPOMedian != 1 || l.RPO95 > 1.01 || l.RPOMax < 9 || l.RPOMax > 11 {
		t.Errorf("a burst of 10 s of the link: %+v", l)
	}
	if r.Needs[0].Mbit != -1 {
		t.Errorf("an RPO shorter than the interval needs %v", r.Needs[0].Mbit)
	}
	if r := profile.Sum(nil, time.Time{}, q); r.Churn.Ratio != 1 || len(r.Links) != 1 {
		t.Errorf("of nothing: %+v", r)
	}
}

func TestDrawing(t *testing.T) {
	d := steady(80, 1<<20)
	for i := range 40 {
		d.Samples[i].Changed = 0
	}
	r := profile.Sum([]*profile.Disk{d}, time.Unix(0, 0).UTC(), profile.Asked())
	var b bytes.Buffer
	if err := r.Draw(&b); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "report.golden")
	if os.Getenv("LEEWARD_UPDATE") == "1" {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("drawn:\n%s\nwant:\n%s", b.String(), want)
	}
	j, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(j), `"schema":"leeward.profile.v1"`) || !strings.Contains(string(j), `"rpo_p95"`) {
		t.Errorf("%s: %v", j, err)
	}
}

func TestRecord(t *testing.T) {
	f := capturetest.NewFake(4096 * 4096)
	noise := make([]byte, 1024*4096) // a quarter of the disk, incompressible
	rand.NewChaCha8([32]byte{1}).Read(noise)
	if _, err := f.WriteAt(noise, 0); err != nil {
		t.Fatal(err)
	}
	src, err := scan.New(f, scan.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := src.Start(ctx); err != nil {
		t.Fatal(err)
	}
	n := byte(0)
	d, err := profile.Record(ctx, sized{f}, src, profile.Options{Duration: time.Hour, Every: 20 * time.Millisecond, Seed: 1, Tell: func(d *profile.Disk) {
		if len(d.Samples) == 3 {
			cancel()
		}
		n++
		text := bytes.Repeat([]byte{n, 'x', 'y', 'z'}, 10*1024)
		if _, err := f.WriteAt(text, 0); err != nil {
			t.Error(err)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Samples) != 3 || d.Samples[0].Changed != 0 || d.Samples[1].Changed != 10*4096 || d.Samples[2].Changed != 10*4096 {
		t.Errorf("samples %+v", d.Samples)
	}
	if d.Packed > 0.1 || d.Base < 0.9 || d.Used < 3<<20 || d.Used > 5<<20 {
		t.Errorf("changes compress to %v, the disk to %v; %d bytes are used", d.Packed, d.Base, d.Used)
	}
}

// sized is a fake disk with its size.
type sized struct{ *capturetest.Fake }

func (s sized) Size() uint64 { return s.Blocks() * 4096 }
