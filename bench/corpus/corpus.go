package corpus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Block is the unit of change in bytes.
const Block = 4096

// Options say what to build.
type Options struct {
	Size    int64   // bytes of the disk, a multiple of 1 MiB
	Seed    uint64  // decides which files and which changes
	Percent float64 // of all blocks that change by day two
}

// Info says what was built.
type Info struct {
	Kind      string           `json:"kind"` // "ext4" or "synthetic"
	Size      int64            `json:"size"`
	Seed      uint64           `json:"seed"`
	Percent   float64          `json:"percent"`
	NonZero   int64            `json:"nonzero"` // bytes in blocks that are not zero, day one
	Parts     map[string]int64 `json:"parts"`   // bytes put there, by kind of content
	SHA256    string           `json:"sha256"`  // of day one
	DayTwo    string           `json:"sha256_day2"`
	Changed   int64            `json:"changed"` // blocks that differ on day two
	ChangedAt []int64          `json:"-"`       // which
}

// Corpus is two images of one disk.
type Corpus struct {
	Info
	Base string // path of day one
	Day2 string // path of day two
}

// Load takes a corpus from dir if it is the one that o describes, and builds it
// there if not.
func Load(ctx context.Context, dir string, o Options) (*Corpus, error) {
	c := &Corpus{Base: filepath.Join(dir, "base.img"), Day2: filepath.Join(dir, "day2.img")}
	meta := filepath.Join(dir, "corpus.json")
	b, err := os.ReadFile(meta)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read corpus: %w", err)
	}
	if err == nil && json.Unmarshal(b, &c.Info) == nil && c.Size == o.Size && c.Seed == o.Seed && c.Percent == o.Percent && c.Kind == kind() {
		c.ChangedAt, err = differences(ctx, c.Base, c.Day2)
		if err == nil && int64(len(c.ChangedAt)) == c.Changed {
			return c, nil
		}
	}
	if err := build(ctx, c, o); err != nil {
		return nil, err
	}
	if b, err = json.MarshalIndent(c.Info, "", "  "); err != nil {
		return nil, err
	}
	return c, os.WriteFile(meta, append(b, '\n'), 0o644)
}

func kind() string {
	if rig.Missing("ext4") == "" {
		return "ext4"
	}
	return "synthetic"
}

func build(ctx context.Context, c *Corpus, o Options) error {
	if o.Size < 16<<20 || o.Size%(1<<20) != 0 {
		return fmt.Errorf("corpus of %d bytes: use whole MiB, at least 16", o.Size)
	}
	c.Info = Info{Kind: kind(), Size: o.Size, Seed: o.Seed, Percent: o.Percent, Parts: map[string]int64{}}
	if err := os.MkdirAll(filepath.Dir(c.Base), 0o755); err != nil {
		return fmt.Errorf("make corpus directory: %w", err)
	}
	if err := sparse(c.Base, o.Size); err != nil {
		return err
	}
	src := newSource(o.Seed)
	fill := fillPlain
	if c.Kind == "ext4" {
		fill = fillExt4
	}
	if err := fill(ctx, c, src); err != nil {
		return fmt.Errorf("fill corpus: %w", err)
	}
	if _, err := rig.Run(ctx, "cp", "--sparse=always", c.Base, c.Day2); err != nil {
		return err
	}
	if err := change(ctx, c, rand.New(rand.NewPCG(o.Seed, 2))); err != nil {
		return fmt.Errorf("make day two: %w", err)
	}
	return c.measure(ctx)
}

// measure fills in what is known of the finished images.
func (c *Corpus) measure(ctx context.Context) error {
	base, err := rig.FileImage(ctx, c.Base)
	if err != nil {
		return err
	}
	day2, err := rig.FileImage(ctx, c.Day2)
	if err != nil {
		return err
	}
	c.SHA256, c.DayTwo = fmt.Sprintf("%x", base.SHA256), fmt.Sprintf("%x", day2.SHA256)
	c.NonZero = 0
	err = rig.ReadCached(ctx, c.Base, func(_ int64, p []byte) error {
		for ; len(p) > 0; p = p[min(Block, len(p)):] {
			if !zero(p[:min(Block, len(p))]) {
				c.NonZero += Block
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.ChangedAt, err = differences(ctx, c.Base, c.Day2)
	c.Changed = int64(len(c.ChangedAt))
	return err
}

// differences lists the blocks in which two files of the same size differ.
func differences(ctx context.Context, a, b string) (at []int64, err error) {
	g, err := os.Open(b)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	other := make([]byte, rig.Chunk)
	err = rig.ReadCached(ctx, a, func(off int64, p []byte) error {
		q := other[:len(p)]
		if _, err := g.ReadAt(q, off); err != nil {
			return err
		}
		for i := 0; i < len(p); i += Block {
			if string(p[i:min(i+Block, len(p))]) != string(q[i:min(i+Block, len(p))]) {
				at = append(at, (off+int64(i))/Block)
			}
		}
		return nil
	})
	return at, err
}

func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func zero(p []byte) bool {
	for _, c := range p {
		if c != 0 {
			return false
		}
	}
	return true
}
