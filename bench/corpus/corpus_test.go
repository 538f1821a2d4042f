package corpus

import (
	"context"
	"math"
	"path/filepath"
	"testing"
)

func TestCorpus(t *testing.T) {
	o := Options{Size: 48 << 20, Seed: 3, Percents: []float64{1, 5}}
	dir := filepath.Join(t.TempDir(), "c")
	c, err := Load(context.Background(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", c.Parts)
	for i, d := range c.Days {
		if want := float64(o.Size/Block) * o.Percents[i] / 100; math.Abs(float64(d.Changed)-want) > want/20 {
			t.Errorf("%d blocks changed by %g %%, want about %.0f", d.Changed, d.Percent, want)
		}
	}
	if share := float64(c.NonZero) / float64(c.Size); share < 0.45 || share > 0.85 {
		t.Errorf("%.2f of the disk is not zero, want about 0.64", share)
	}
	if c.SHA256 == c.Days[0].SHA256 || c.Days[0].SHA256 == c.Days[1].SHA256 {
		t.Error("two days are the same")
	}
	again, err := Load(context.Background(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if again.SHA256 != c.SHA256 || len(again.Last().ChangedAt) != len(c.Last().ChangedAt) {
		t.Error("a corpus that is there was built again")
	}
}

// TestPlain builds the variant that needs no root, twice: it must be the same to
// the last byte.
func TestPlain(t *testing.T) {
	var first string
	for range 2 {
		c := &Corpus{Base: filepath.Join(t.TempDir(), "base.img")}
		c.Info = Info{Size: 32 << 20, Parts: map[string]int64{}}
		if err := sparse(c.Base, c.Size); err != nil {
			t.Fatal(err)
		}
		if err := fillPlain(context.Background(), c, newSource(5)); err != nil {
			t.Fatal(err)
		}
		if err := c.measure(context.Background()); err != nil {
			t.Fatal(err)
		}
		if share := float64(c.NonZero) / float64(c.Size); share < 0.45 || share > 0.85 {
			t.Errorf("%.2f of the disk is not zero, want about 0.64", share)
		}
		if first == "" {
			first = c.SHA256
		}
		if c.SHA256 != first {
			t.Error("two builds differ")
		}
	}
}
