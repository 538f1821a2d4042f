package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

type borg struct{ Place }

func (borg) Name() string    { return "borg" }
func (borg) Encrypted() bool { return true }
func (borg) Note() string {
	return "AES-256-CTR + HMAC-SHA256 (repokey), zstd,1, chunks by content, one thread"
}

func (borg) Missing() string {
	if m, ok := rig.Have("borg"); !ok {
		return m + " is not on PATH"
	}
	return ""
}

func (t borg) env() []string {
	return []string{
		"BORG_REPO=" + t.repo(), "BORG_PASSPHRASE=bench", "BORG_BASE_DIR=" + filepath.Join(t.Dir, "base"),
		"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes", "HOME=" + t.Dir,
	}
}

func (t borg) Init(ctx context.Context) error {
	if err := t.clean(); err != nil {
		return err
	}
	_, err := t.run(ctx, t.env(), "borg", "init", "-e", "repokey")
	return err
}

func (t borg) Backup(ctx context.Context, day int) (rig.Usage, error) {
	return t.measure(ctx, "borg create", t.env(), "borg", "create", "-C", "zstd,1", "--files-cache", "disabled", fmt.Sprintf("::day%d", day), t.Source)
}

// newest names the newest archive.
func (t borg) newest(ctx context.Context) (string, error) {
	out, err := t.run(ctx, t.env(), "borg", "list", "--last", "1", "--format", "{archive}{NL}")
	return "::" + strings.TrimSpace(out), err
}

func (t borg) Restore(ctx context.Context) (rig.Usage, string, error) {
	from, err := t.newest(ctx)
	if err != nil {
		return rig.Usage{}, "", err
	}
	if err := os.MkdirAll(t.out(), 0o755); err != nil {
		return rig.Usage{}, "", err
	}
	// borg extracts into the directory it runs in.
	u, _, err := rig.Measure(ctx, rig.Command{Name: "borg extract", Argv: []string{"borg", "extract", "--sparse", from}, Env: t.env(), Dir: t.out()},
		func() error { return rig.Syncfs(t.out()) })
	return u, filepath.Join(t.out(), t.Source), err
}

// First reads the head of the image: borg has random access only through FUSE.
func (t borg) First(ctx context.Context, _ int64) ([]byte, int64, time.Duration, error) {
	from, err := t.newest(ctx)
	if err != nil {
		return nil, 0, 0, err
	}
	if os.Geteuid() == 0 {
		// Listing the archives has warmed the cache.
		if err := rig.DropCaches(); err != nil {
			return nil, 0, 0, err
		}
	}
	b, _, took, err := Head(ctx, rig.Block, t.env(), "borg", "extract", "--stdout", from)
	return b, 0, took, err
}
