package peers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/leeward-dr/leeward/bench/rig"
)

// TestTools takes every installed peer through all steps on a small image.
func TestTools(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "disk.img")
	day1 := make([]byte, 8<<20)
	rnd := rand.NewChaCha8([32]byte{1})
	rnd.Read(day1[1<<20 : 3<<20])
	rnd.Read(day1[:rig.Block])
	day2 := bytes.Clone(day1)
	rnd.Read(day2[5<<20:][:rig.Block])
	place := Place{filepath.Join(dir, "peers"), src}
	for _, tool := range append(All(place), More(place)...) {
		t.Run(tool.Name(), func(t *testing.T) {
			if why := tool.Missing(); why != "" {
				t.Skip(why) // peers are optional: the bench says which it did not have
			}
			ctx := context.Background()
			if err := os.WriteFile(src, day1, 0o644); err != nil {
				t.Fatal(err)
			}
			if c, ok := tool.(io.Closer); ok {
				defer func() {
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			if err := tool.Init(ctx); err != nil {
				t.Fatal(err)
			}
			for i, b := range [][]byte{day1, day2} {
				if err := os.WriteFile(src, b, 0o644); err != nil {
					t.Fatal(err)
				}
				if f, ok := tool.(Follower); ok && i > 0 {
					if err := f.Change(ctx, src, []int64{5 << 20 / rig.Block}); err != nil {
						t.Fatal(err)
					}
				}
				u, err := tool.Backup(ctx, i+1)
				if err != nil {
					t.Fatal(err)
				}
				n, err := Stored(tool)
				if err != nil || n < 2<<20 || u.Wall <= 0 {
					t.Errorf("day %d: %d bytes stored in %v, %v", i+1, n, u.Wall, err)
				}
			}
			_, path, err := tool.Restore(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, day2) {
				t.Errorf("restored image differs (%v)", err)
			}
			if f, ok := tool.(Follower); ok {
				// Were the bitmap not asked, the day would be as large as the disk.
				if n, err := os.Stat(tool.(*bitmap).image(2)); err != nil || n.Size() > 1<<20 || f == nil {
					t.Errorf("one changed block made an image of %v, %v", n, err)
				}
			}
			b, at, _, err := tool.First(ctx, 2<<20)
			if !errors.Is(err, errWhole) && (err != nil || !bytes.Equal(b, day2[at:][:rig.Block])) {
				t.Errorf("first read at %d differs (%v)", at, err)
			}
		})
	}
}
