package limits

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	b := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(b[:2<<20])
	if err := os.WriteFile(image, b, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	all := append(CPU(ctx, image), Stream(ctx, dir, 64<<10, 8<<20))
	all = append(all, Disk(ctx, image, dir)...)
	for _, l := range all {
		t.Log(l.Name, l)
		if l.Name == DiskRead && l.Why != "" {
			continue // a filesystem without direct I/O
		}
		if l.Why != "" || l.Rate <= 0 {
			t.Errorf("%s: %s", l.Name, l)
		}
	}
	if bad := Disk(ctx, filepath.Join(dir, "none"), dir); bad[0].Why == "" || bad[1].Why == "" {
		t.Error("a missing image gave a figure")
	}
}
