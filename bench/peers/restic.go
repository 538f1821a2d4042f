package peers

import (
	"context"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/bench/rig"
)

type restic struct{ Place }

func (restic) Name() string    { return "restic" }
func (restic) Encrypted() bool { return true }
func (restic) Note() string {
	return "AES-256-CTR + Poly1305, repository version 2, --compression auto (zstd), chunks by content"
}

func (restic) Missing() string {
	if m, ok := rig.Have("restic"); !ok {
		return m + " is not on PATH"
	}
	return ""
}

func (t restic) env() []string {
	return []string{
		"RESTIC_REPOSITORY=" + t.repo(), "RESTIC_PASSWORD=bench",
		"RESTIC_CACHE_DIR=" + filepath.Join(t.Dir, "cache"), "HOME=" + t.Dir,
	}
}

func (t restic) Init(ctx context.Context) error {
	if err := t.clean(); err != nil {
		return err
	}
	_, err := t.run(ctx, t.env(), "restic", "-q", "init", "--repository-version", "2")
	return err
}

func (t restic) Backup(ctx context.Context, _ int) (rig.Usage, error) {
	return t.measure(ctx, "restic backup", t.env(), "restic", "-q", "backup", "--compression", "auto", t.Source)
}

func (t restic) Restore(ctx context.Context) (rig.Usage, string, error) {
	u, err := t.measure(ctx, "restic restore", t.env(), "restic", "-q", "restore", "latest", "--target", t.out())
	return u, filepath.Join(t.out(), t.Source), err
}

// First reads the head of the image: restic has random access only through FUSE.
func (t restic) First(ctx context.Context, _ int64) ([]byte, int64, time.Duration, error) {
	b, _, took, err := Head(ctx, rig.Block, t.env(), "restic", "-q", "dump", "latest", t.Source)
	return b, 0, took, err
}
