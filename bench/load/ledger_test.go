package load

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLedger(t *testing.T) {
	l := &Ledger{Dir: t.TempDir(), Seed: 4}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	deadline := time.Now().Add(4 * time.Minute)
	for l.Len() < perFile+20 && time.Now().Before(deadline) {
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	n, err := Intact(l.Dir, l.Seed)
	if err != nil || n != l.Len() || n < perFile+20 {
		t.Fatalf("%d of %d records are intact, %v", n, l.Len(), err)
	}
	if got := l.Before(time.Now()); got != n {
		t.Errorf("%d records before now, want %d", got, n)
	}
	if got := l.Before(l.synced[10]); got != 10 {
		t.Errorf("%d records before the time of record 10, want 10", got)
	}
	// A byte in record 0 of the second file.
	file := filepath.Join(l.Dir, "ledger", "00000001")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := Intact(l.Dir, l.Seed); err != nil || n != perFile {
		t.Errorf("%d records are intact after damage to record %d, %v", n, perFile, err)
	}
}

func TestChurn(t *testing.T) {
	c := &Churn{Dir: t.TempDir(), Room: 4 << 20, Seed: 1}
	for long := 700 * time.Millisecond; c.next < 20 && long < time.Minute; long *= 4 { // until a busy machine has done some
		ctx, cancel := context.WithTimeout(context.Background(), long)
		err := c.Run(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	if c.next < 20 {
		t.Errorf("only %d files were made", c.next)
	}
	files, err := os.ReadDir(filepath.Join(c.Dir, "churn"))
	if err != nil || len(files) != len(c.files) {
		t.Errorf("%d files are there, %d are known, %v", len(files), len(c.files), err)
	}
}
