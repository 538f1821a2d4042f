package rig

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func newRig(t *testing.T) *Rig {
	r, err := New(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestClose(t *testing.T) {
	r := newRig(t)
	var order []int
	bad := errors.New("cannot")
	for i := range 3 {
		r.Defer("step", func() error { order = append(order, i); return map[bool]error{true: bad}[i == 1] })
	}
	if err := r.Close(); !errors.Is(err, bad) {
		t.Errorf("Close hides what it could not take away: %v", err)
	}
	if !slices.Equal(order, []int{2, 1, 0}) {
		t.Errorf("taken away in the order %v", order)
	}
	if _, err := os.Stat(r.Dir); !os.IsNotExist(err) {
		t.Error("the directory is still there")
	}
}

func TestMeasure(t *testing.T) {
	if m, ok := Have("sh", "sleep"); !ok {
		t.Fatal(m + " is not installed")
	}
	ctx := context.Background()
	u, out, err := Measure(ctx, Command{Name: "busy", Argv: []string{"sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; echo done"}}, nil)
	if err != nil || out != "done\n" {
		t.Fatalf("%q, %v", out, err)
	}
	if u.CPU <= 0 || u.Wall < u.CPU/4 || u.RSS <= 0 {
		t.Errorf("a busy program cost %+v", u)
	}
	slept, _, err := Measure(ctx, Command{Name: "idle", Argv: []string{"sleep", "0.2"}}, nil)
	if err != nil || slept.Wall < 200*time.Millisecond || slept.CPU > slept.Wall/2 {
		t.Errorf("an idle program cost %+v, %v", slept, err)
	}
	if _, _, err := Measure(ctx, Command{Name: "failing", Argv: []string{"sh", "-c", "echo why >&2; exit 3"}}, nil); err == nil || !bytes.Contains([]byte(err.Error()), []byte("why")) {
		t.Errorf("a failing program: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, _, err := Measure(short, Command{Name: "slow", Argv: []string{"sleep", "60"}}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program that takes too long: %v", err)
	}
}

func TestKill(t *testing.T) {
	r := newRig(t)
	p, err := r.Start(Command{Name: "sleeper", Argv: []string{"sleep", "60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Alive(); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if p.Alive() == nil || p.ExitCode() != -1 {
		t.Errorf("killed, and %v, code %d", p.Alive(), p.ExitCode())
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killed twice: %v", err)
	}
}

func TestImages(t *testing.T) {
	ctx := context.Background()
	b := make([]byte, 3*Chunk+5*Block)
	for i := range b {
		b[i] = byte(i >> 7)
	}
	a := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(a, b, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := FileImage(ctx, a)
	if err != nil || m.SHA256 != sha256.Sum256(b) || m.Size != int64(len(b)) || len(m.Blocks) != len(b)/Block {
		t.Fatalf("wrong image of %d bytes: %v", m.Size, err)
	}
	if d, err := DeviceImage(ctx, a); err == nil { // not every filesystem has direct I/O
		if d.SHA256 != m.SHA256 {
			t.Error("read past the page cache, the file is another")
		}
	}
	b[700*Block+9]++
	if err := os.WriteFile(a, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := FileImage(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	if at, count := n.Differ(m, 5); count != 1 || !slices.Equal(at, []int{700}) {
		t.Errorf("differ in %d blocks %v, want block 700", count, at)
	}
}

// What nothing is mounted on belongs to somebody else: its power must not fail.
func TestMounted(t *testing.T) {
	dir := filepath.Join(newRig(t).Dir, "plain")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mounted(dir); err == nil || !strings.Contains(err.Error(), "nothing is mounted") {
		t.Errorf("a plain directory: %v", err)
	}
	if err := mounted("/proc"); err != nil {
		t.Error(err)
	}
}
