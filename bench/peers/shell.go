package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

// shell is a peer that needs nothing but command lines. In them stand $SRC for the image,
// $REPO for the repository, $OUT for the restored file and $DAY for the day.
type shell struct {
	Place
	name, note string
	encrypted  bool
	programs   []string
	backup     string
	restore    string
	first      string // prints 4 KiB from the head of the image; "": it cannot read a part
	last       *int   // the newest day
}

// More lists peers that take long and win nothing: they show what plain copies cost.
func More(p Place) []Tool {
	in := func(name string) Place { return Place{filepath.Join(p.Dir, name), p.Source} }
	tools := []shell{
		{
			Place: in("zstd"), name: "zstd | openssl", programs: []string{"zstd", "openssl", "sh"}, encrypted: true,
			note:    "zstd -1 -T2 | openssl enc -aes-256-ctr: no authentication, no increments: everything every day",
			backup:  `zstd -q -1 -T2 -c "$SRC" | openssl enc -aes-256-ctr -pbkdf2 -pass pass:bench -out "$REPO/$DAY.zst"`,
			restore: `openssl enc -d -aes-256-ctr -pbkdf2 -pass pass:bench -in "$REPO/$DAY.zst" | zstd -q -d --sparse -o "$OUT"`,
		},
		{
			Place: in("dd"), name: "dd", programs: []string{"dd", "sh"},
			note:    "dd bs=4M conv=sparse,fsync: a plain copy, not compressed, not encrypted, no increments",
			backup:  `dd if="$SRC" of="$REPO/$DAY.img" bs=4M conv=sparse,fsync status=none`,
			restore: `dd if="$REPO/$DAY.img" of="$OUT" bs=4M conv=sparse,fsync status=none`,
			first:   `dd if="$REPO/$DAY.img" bs=4096 count=1 status=none`,
		},
		{
			Place: in("rsync"), name: "rsync", programs: []string{"rsync", "sh"},
			note:    "rsync --inplace --no-whole-file: a plain copy of which only the last day is kept",
			backup:  `if [ "$DAY" = 1 ]; then rsync --sparse --whole-file "$SRC" "$REPO/disk.img"; else rsync -I --inplace --no-whole-file "$SRC" "$REPO/disk.img"; fi`,
			restore: `rsync --sparse --whole-file "$REPO/disk.img" "$OUT"`,
			first:   `dd if="$REPO/disk.img" bs=4096 count=1 status=none`,
		},
	}
	var all []Tool
	for i := range tools {
		tools[i].last = new(int)
		all = append(all, tools[i])
	}
	return all
}

func (t shell) Name() string    { return t.name }
func (t shell) Note() string    { return t.note }
func (t shell) Encrypted() bool { return t.encrypted }

func (t shell) Missing() string {
	if m, ok := rig.Have(t.programs...); !ok {
		return m + " is not on PATH"
	}
	return ""
}

func (t shell) command(line string) (env, argv []string) {
	env = []string{"SRC=" + t.Source, "REPO=" + t.repo(), "OUT=" + filepath.Join(t.out(), "disk.img"), fmt.Sprint("DAY=", *t.last)}
	return env, []string{"sh", "-ec", line}
}

func (t shell) Init(context.Context) error {
	*t.last = 0
	return t.clean()
}

func (t shell) Backup(ctx context.Context, day int) (rig.Usage, error) {
	*t.last = day
	env, argv := t.command(t.backup)
	return t.measure(ctx, t.name, env, argv...)
}

func (t shell) Restore(ctx context.Context) (rig.Usage, string, error) {
	if err := os.MkdirAll(t.out(), 0o755); err != nil {
		return rig.Usage{}, "", err
	}
	env, argv := t.command(t.restore)
	u, err := t.measure(ctx, t.name, env, argv...)
	return u, filepath.Join(t.out(), "disk.img"), err
}

var errWhole = errors.New("it cannot read a part")

func (t shell) First(ctx context.Context, _ int64) ([]byte, int64, time.Duration, error) {
	if t.first == "" {
		return nil, 0, 0, fmt.Errorf("%s: %w", strings.Fields(t.name)[0], errWhole)
	}
	env, argv := t.command(t.first)
	b, _, took, err := Head(ctx, rig.Block, env, argv...)
	return b, 0, took, err
}
