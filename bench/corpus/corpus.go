package corpus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/leeward-dr/leeward/bench/rig"
)

// Block is the unit of change in bytes.
const Block = 4096

// Options say what to build.
type Options struct {
	Size     int64     // bytes of the disk, a multiple of 1 MiB
	Seed     uint64    // decides which files and which changes
	Percents []float64 // of all blocks that change: by day two, from then to day three, and so on
}

// Info says what was built.
type Info struct {
	Kind    string           `json:"kind"` // "ext4" or "synthetic"
	Size    int64            `json:"size"`
	Seed    uint64           `json:"seed"`
	NonZero int64            `json:"nonzero"` // bytes in blocks that are not zero, day one
	Parts   map[string]int64 `json:"parts"`   // bytes put there, by kind of content
	SHA256  string           `json:"sha256"`  // of day one
	Days    []Day            `json:"days"`    // that follow, from day two on
}

// Day is the disk some time later.
type Day struct {
	Percent   float64 `json:"percent"` // of all blocks that were to change since the day before
	SHA256    string  `json:"sha256"`
	Changed   int64   `json:"changed"` // blocks that differ from the day before
	ChangedAt []int64 `json:"-"`       // which
	Path      string  `json:"-"`
}

// Corpus is images of one disk.
type Corpus struct {
	Info
	Base string // path of day one
}

// Last is the last day.
func (c *Corpus) Last() Day { return c.Days[len(c.Days)-1] }

// dayPath is where the image of a day lies, which is 2 or more.
func (c *Corpus) dayPath(day int) string {
	return filepath.Join(filepath.Dir(c.Base), fmt.Sprintf("day%d.img", day))
}

// before is the image of the day before that of index i.
func (c *Corpus) before(i int) string {
	if i == 0 {
		return c.Base
	}
	return c.Days[i-1].Path
}

// Load takes a corpus from dir if it is the one that o describes, and builds it
// there if not.
func Load(ctx context.Context, dir string, o Options) (*Corpus, error) {
	c := &Corpus{Base: filepath.Join(dir, "base.img")}
	meta := filepath.Join(dir, "corpus.json")
	b, err := os.ReadFile(meta)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read corpus: %w", err)
	}
	if err == nil && json.Unmarshal(b, &c.Info) == nil && c.is(o) && c.there(ctx) {
		return c, nil
	}
	if err := build(ctx, c, o); err != nil {
		return nil, err
	}
	if b, err = json.MarshalIndent(c.Info, "", "  "); err != nil {
		return nil, err
	}
	return c, os.WriteFile(meta, append(b, '\n'), 0o644)
}

// is says whether the corpus is the one that o describes.
func (c *Corpus) is(o Options) bool {
	var percents []float64
	for _, d := range c.Days {
		percents = append(percents, d.Percent)
	}
	return c.Size == o.Size && c.Seed == o.Seed && c.Kind == kind() && slices.Equal(percents, o.Percents)
}

// there says whether the images are there and differ as they should.
func (c *Corpus) there(ctx context.Context) bool {
	for i := range c.Days {
		d := &c.Days[i]
		d.Path = c.dayPath(i + 2)
		var err error
		if d.ChangedAt, err = Differences(ctx, c.before(i), d.Path); err != nil || int64(len(d.ChangedAt)) != d.Changed {
			return false
		}
	}
	return true
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
	c.Info = Info{Kind: kind(), Size: o.Size, Seed: o.Seed, Parts: map[string]int64{}}
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
	for i, p := range o.Percents {
		d := Day{Percent: p, Path: c.dayPath(i + 2)}
		if _, err := rig.Run(ctx, "cp", "--sparse=always", c.before(i), d.Path); err != nil {
			return err
		}
		if err := Change(ctx, d.Path, p, o.Seed, uint64(i)+2); err != nil {
			return fmt.Errorf("make day %d: %w", i+2, err)
		}
		c.Days = append(c.Days, d)
	}
	return c.measure(ctx)
}

// measure fills in what is known of the finished images.
func (c *Corpus) measure(ctx context.Context) error {
	base, err := rig.FileImage(ctx, c.Base)
	if err != nil {
		return err
	}
	c.SHA256 = fmt.Sprintf("%x", base.SHA256)
	for i := range c.Days {
		d := &c.Days[i]
		m, err := rig.FileImage(ctx, d.Path)
		if err != nil {
			return err
		}
		d.SHA256 = fmt.Sprintf("%x", m.SHA256)
		if d.ChangedAt, err = Differences(ctx, c.before(i), d.Path); err != nil {
			return err
		}
		d.Changed = int64(len(d.ChangedAt))
	}
	c.NonZero = 0
	return rig.ReadCached(ctx, c.Base, func(_ int64, p []byte) error {
		for ; len(p) > 0; p = p[min(Block, len(p)):] {
			if !zero(p[:min(Block, len(p))]) {
				c.NonZero += Block
			}
		}
		return nil
	})
}

// Differences lists the blocks in which two files of the same size differ.
func Differences(ctx context.Context, a, b string) (at []int64, err error) {
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
